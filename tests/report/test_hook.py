"""The report at the end of a training: what it counts, when, and that it fails alone."""

import io
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlseg.report.facts import as_matrix, read_facts
from nlseg.report.hook import ReportHook, confidence_of
from nlseg.run.runner import Runner
from tests.run.runs import go_on, interrupt, train
from tests.run.tiny_segmentor import tiny_run


def with_validation(folder: Path, *, iters: int = 2, **changes: Any) -> Any:
    loader = {
        "batch_size": 1, "num_workers": 0, "dataset": {"type": "NoiseImages", "size": 3},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }  # fmt: skip
    settings: dict[str, Any] = {
        "val_dataloader": loader, "val_cfg": {"type": "ValLoop"},
        "val_evaluator": {"type": "IoUMetric"},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iters, "val_interval": 1},
    }  # fmt: skip
    return tiny_run(folder, iters=iters, **(settings | changes))


def counted(folder: Path) -> np.ndarray:
    _, facts = read_facts(folder / "images.jsonl")
    return sum(as_matrix(one.pairs, 5) for one in facts)


def test_training_ends_with_the_report_of_its_last_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    runner = train(with_validation(tmp_path))
    (metric,) = runner.val_evaluator.metrics
    meta, facts = read_facts(tmp_path / "images.jsonl")
    assert len(facts) == 3
    assert counted(tmp_path).tolist() == metric.confusion[:5, :5].tolist()
    assert meta["classes"] == list("abcde")
    assert meta["palette"] == [[i, i, i] for i in range(5)]
    assert facts[0].detailed
    assert facts[0].calibration  # the first image always has time
    page = (tmp_path / "report.html").read_text()
    assert "Where the points went" in page
    assert "max_iters=2" in page  # its config
    assert meta["command"] in page.replace("&#39;", "'")
    said = out.getvalue()
    assert said.count(f"report: {tmp_path / 'report.html'} (") == 1
    assert "s beside an evaluation of" in said
    assert f"  report      {tmp_path / 'report.html'}" in said


def test_report_that_fails_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    (tmp_path / "images.jsonl").mkdir()
    train(with_validation(tmp_path))
    assert out.getvalue().count("the report cannot be written") == 1
    assert (tmp_path / "iter_2.pth").is_file()
    assert not (tmp_path / "report.html").exists()


def test_classes_that_do_not_fit_are_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    config = with_validation(tmp_path)
    config.default_hooks.report = {"type": "ReportHook", "examples": 6}
    monkeypatch.setattr("nlseg.report.hook.gather", lambda *_, **__: 1 / 0)
    train(config)
    assert out.getvalue().count("the report cannot be written: ZeroDivisionError") == 1
    assert (tmp_path / "iter_2.pth").is_file()


def test_training_that_stops_early_has_its_report(tmp_path: Path) -> None:
    early = {"type": "EarlyStoppingHook", "monitor": "mIoU", "min_delta": 100.0, "patience": 1}
    runner = train(with_validation(tmp_path, iters=9, custom_hooks=[early]))
    assert runner.iter < 9
    (metric,) = runner.val_evaluator.metrics
    assert counted(tmp_path).tolist() == metric.confusion[:5, :5].tolist()
    assert (tmp_path / "report.html").is_file()


def test_stop_amid_the_last_validation_leaves_the_report_to_the_resumed_run(tmp_path: Path) -> None:
    config = with_validation(tmp_path)
    interrupt(config, 2, validation=True)
    assert not (tmp_path / "images.jsonl").exists()
    go_on(config)
    assert len(read_facts(tmp_path / "images.jsonl")[1]) == 3


def test_test_is_reported_on_where_that_is_asked_for(tmp_path: Path) -> None:
    config = with_validation(tmp_path)
    for name in ("dataloader", "evaluator"):
        config[f"test_{name}"] = config[f"val_{name}"]
    config.test_cfg = {"type": "TestLoop"}
    Runner.from_cfg(config).test()
    assert not list(tmp_path.rglob("report.html"))
    config.default_hooks.report = {"type": "ReportHook"}
    config.experiment_name += "_again"
    Runner.from_cfg(config).test()
    assert len(list(tmp_path.rglob("report.html"))) == 1


def test_what_takes_long_is_counted_of_as_many_images_as_there_is_time_for() -> None:
    hook = ReportHook()
    assert hook._has_time()  # the first image
    done: Future[Any] = Future()
    done.set_result(None)
    hook._jobs = [done]
    hook._begin -= 100
    hook._details_s = 4.9
    assert hook._has_time()
    hook._details_s = 5.1
    assert hook._has_time() == torch.cuda.is_available()
    hook._details_s = 0
    hook._jobs = [Future(), Future()]  # the thread does not keep up
    assert not hook._has_time()


def test_confidence_is_the_largest_probability() -> None:
    logits = torch.randn(4, 70, 9, generator=torch.Generator().manual_seed(0))
    expected = logits.softmax(0).amax(0).numpy()
    np.testing.assert_allclose(confidence_of(logits), expected, rtol=1e-6)
    one_channel = torch.tensor([[[0.25, 0.5, 0.75]]])
    assert confidence_of(one_channel).tolist() == [[0.75, 0.5, 0.75]]
