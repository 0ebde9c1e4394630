import importlib.util
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend, Visualizer

from nlseg.config.load import load_config
from nlseg.errors import ConfigError
from nlseg.registry import DATASETS
from nlseg.run import processes
from nlseg.run.back_ends import guarded_back_ends
from nlseg.run.runner import Runner
from tests.report.test_hook import with_validation
from tests.run.runs import curves, train
from tests.run.tiny_segmentor import NoiseImages
from tests.run.toy import toy_config

CALLS: list[str] = []


@DATASETS.register_module(force=True)
class NoiseOnDisk(NoiseImages):
    """Images of noise that have a file."""

    def __init__(self, file: str, size: int = 8) -> None:
        super().__init__(size)
        self.file = file

    def __getitem__(self, index: Any) -> dict[str, Any]:
        item = super().__getitem__(index)
        item["data_samples"].set_metainfo({"img_path": self.file})
        return item


@VISBACKENDS.register_module(force=True)
class BrokenBackend(BaseVisBackend):
    """Fails at ``add_config`` or from the n-th line on, as a server that cannot be reached does."""

    def __init__(self, save_dir: str, works: int = 0) -> None:
        super().__init__(save_dir)
        self.works = works

    @property
    def experiment(self) -> Any:
        return self

    def _init_env(self) -> None:
        if not self.works:
            raise ConnectionError("no server")

    def _work(self, name: str) -> None:
        CALLS.append(name)
        self.works -= 1
        if self.works < 0:
            raise ConnectionError("server has gone")

    def add_config(self, config: Any, **kwargs: Any) -> None:
        self._init_env()
        self._work("config")

    def add_scalars(self, *_: Any, **__: Any) -> None:
        self._work("scalars")

    def close(self) -> None:
        self._work("close")


@pytest.mark.parametrize(("works", "calls"), [(0, 2), (3, 6)])
def test_back_end_that_fails_is_warned_of_once_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: int, calls: int
) -> None:
    CALLS.clear()
    warnings: list[str] = []
    monkeypatch.setattr(
        logging.Logger, "warning", lambda self, text, *_: warnings.append(str(text))
    )
    back_end = {"type": "BrokenBackend", "works": works}
    visualizer = {"type": "Visualizer", "vis_backends": [back_end]}
    train(toy_config(tmp_path, visualizer=visualizer))
    told = [text for text in warnings if "BrokenBackend fails" in text]
    assert len(told) == 1
    assert "no server" in told[0] or "server has gone" in told[0]
    assert len(CALLS) == calls  # three failures in a row, of which one may be before any call
    assert [line["step"] for line in curves(tmp_path) if line["kind"] == "train"][-1] == 12


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ("WandbVisBackend", "wandb"),
        ("mmengine.AimVisBackend", "aim"),
        ("TrackioVisBackend", "trackio"),
        ("MLflowVisBackend", "mlflow"),
    ],
)
def test_logger_that_is_not_installed_is_refused_before_the_first_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else found(name, *rest),
    )
    for config in (kind, {"type": kind}):
        visualizer = {"type": "Visualizer", "vis_backends": [config]}
        with pytest.raises(ConfigError, match=f"needs {package}, .* pip install {package}$"):
            train(toy_config(tmp_path, iters=4, visualizer=visualizer))
    assert not (tmp_path / "scalars.jsonl").exists()


def test_one_line_of_the_config_names_the_loggers() -> None:
    line = "visualizer.vis_backends=[LocalVisBackend,TensorboardVisBackend]"
    config = load_config("nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024", [line], check=True)
    assert config.visualizer.vis_backends == ["LocalVisBackend", "TensorboardVisBackend"]
    with pytest.raises(ConfigError, match="did you mean 'WandbVisBackend'"):
        guarded_back_ends(["WandVisBackend"], print)


def test_loggers_may_be_named_by_words(tmp_path: Path) -> None:
    visualizer = {"type": "Visualizer", "vis_backends": ["LocalVisBackend"]}
    train(toy_config(tmp_path, iters=4, visualizer=visualizer))
    assert list(tmp_path.glob("*/vis_data/scalars.json"))


def test_tensorboard_gets_pictures_hyper_parameters_and_classes(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 48, 3), np.uint8))
    config = with_validation(tmp_path / "run")
    config.default_hooks.logger = {"type": "LoggerHook", "interval": 1, "images": 1}
    config.val_dataloader.dataset = {
        "type": "NoiseOnDisk",
        "file": str(tmp_path / "a.png"),
        "size": 3,
    }
    runner = train(config)
    (metric,) = runner.val_evaluator.metrics
    found = events.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    tags = found.Tags()
    assert tags["images"] == ["val/0"]
    assert [event.step for event in found.Images("val/0")] == [1, 2]
    assert (found.Images("val/0")[0].height, found.Images("val/0")[0].width) == (48, 2 * 48 + 8)
    for name, score in zip("abcde", metric.per_class["IoU"], strict=True):
        assert found.Scalars(f"val/IoU/{name}")[-1].value == pytest.approx(100 * score, abs=0.01)
    assert "train/loss" in tags["scalars"]
    assert tags["tensors"] == ["config/text_summary"]
    (text,) = found.Tensors("config/text_summary")[0].tensor_proto.string_val
    assert b"max_iters=2" in text
    kept = found.summary_metadata
    assert kept["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"
    assert b"weight_decay" in kept["_hparams_/session_start_info"].plugin_data.content
    assert "_hparams_/session_end_info" in kept


@pytest.mark.parametrize(
    ("package", "back_end", "left"),
    [
        ("wandb", {"type": "WandbVisBackend", "init_kwargs": {"mode": "offline"}},
         "run/*/vis_data/wandb/offline-run-*/*.wandb"),
        ("mlflow", {"type": "MLflowVisBackend"}, "run/*/vis_data/*/*/metrics/mIoU"),
        ("aim", {"type": "AimVisBackend"}, "repo/.aim/run_metadata*"),
        ("trackio", {"type": "TrackioVisBackend", "project": "toy"}, "trackio/toy.db"),
    ],
)  # fmt: skip
def test_logger_that_is_installed_gets_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    package: str, back_end: dict[str, Any], left: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(package)
    (tmp_path / "repo").mkdir()
    if package == "aim":
        back_end = {**back_end, "init_kwargs": {"repo": str(tmp_path / "repo")}}
    visualizer = {"type": "Visualizer", "vis_backends": [back_end]}
    train(toy_config(tmp_path / "run", iters=4, visualizer=visualizer))
    assert "fails (" not in capfd.readouterr().out
    assert list(tmp_path.glob(left))


def test_tensorboard_that_cannot_write_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    config = toy_config(tmp_path, iters=4, **{"default_hooks.logger.tensorboard": True})
    back_end = {"type": "TensorboardVisBackend", "save_dir": str(tmp_path / "tensorboard")}
    config.visualizer = {"type": "Visualizer", "vis_backends": [back_end]}
    train(config)
    assert (tmp_path / "iter_4.pth").is_file()


def test_runs_of_one_process_and_one_second_log_into_their_own_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "time_of_start", lambda: "20260101_000000")
    named = {"type": "SegLocalVisualizer", "vis_backends": ["LocalVisBackend"], "name": "shown"}
    for name in ("first", "second"):
        config = toy_config(tmp_path / name, iters=4, experiment_name="same", visualizer=named)
        runner = Runner.from_cfg(config)
        assert Visualizer.get_current_instance() is runner.visualizer
        runner.train()
        log = tmp_path / name / "20260101_000000"
        lines = (log / "vis_data/scalars.json").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2, 4, 4]
        text = (log / "20260101_000000.log").read_text()
        assert text.count("Done: 4 iterations") == 1
        assert "fails" not in text
        shutil.rmtree(tmp_path / name)  # as a dry run leaves its folder
