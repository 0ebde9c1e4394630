"""What goes to the terminal and what to the log file; the choices, the bar and the end of a run."""

import io
import logging
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.hooks import Hook

from nlseg.errors import RunError
from nlseg.registry import HOOKS
from nlseg.run.console import describe_choices, next_command, start_of, this_command
from nlseg.run.processes import one_voice
from tests.run.runs import go_on, interrupt, train
from tests.run.tiny_segmentor import tiny_run
from tests.run.toy import toy_config


class Terminal(io.StringIO):
    """Stands in for a terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2  # for stacks of a hang


@HOOKS.register_module(force=True)
class WarnAlways(Hook):
    """Warns before the bar is there, and while it is."""

    def before_run(self, runner: Any) -> None:
        runner.logger.warning("twice the same")

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        runner.logger.warning("twice the same")


def log_of(folder: Path) -> str:
    (file,) = folder.glob("*/*.log")
    return file.read_text()


def test_reason_of_an_end_is_in_the_log_file_and_left_to_the_command_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(RunError) as ended:
        train(toy_config(tmp_path, **{"train_dataloader.dataset.poison": (9,)}))
    assert f"ends: {ended.value}" in log_of(tmp_path)
    assert str(ended.value) not in out.getvalue()


def test_config_and_environment_go_to_the_log_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    train(toy_config(tmp_path, iters=4))
    said, log = out.getvalue(), log_of(tmp_path)
    for words in ("Config:\n", "hooks in their order", "Data:\n"):
        assert words in log
        assert words not in said
    for words in ("Iter(train) [2/4]", "Iter(val) [3/3]", "Training toy", "Done: 4 iterations"):
        assert words in log
        assert words in said
    strip = re.compile(r"^[\d/ :]+ - ", re.MULTILINE)
    plain = strip.sub("", re.sub(r"\x1b\[\d+m", "", said))
    assert set(plain.splitlines()) <= set(strip.sub("", log).splitlines())


def test_terminal_shows_a_bar_with_the_numbers_in_place_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    config = toy_config(tmp_path, iters=8)
    runner = train(config)
    assert "Iter(train)" not in out.getvalue()
    assert "Iter(train) [8/8]" in log_of(tmp_path)
    assert "Iter(val) [3/3]    mIoU" in re.sub(r"\s+mIoU", "    mIoU", out.getvalue())
    bar = [line for line in re.split(r"[\r\n]", err.getvalue()) if line.startswith("train")][-1]
    mean = runner.message_hub.get_scalar("train/loss").mean(10)
    score = runner.message_hub.get_scalar("val/mIoU").current()
    assert f"loss={mean:.4g}" in bar
    assert f"mIoU={score:.2f}" in bar
    assert re.search(r"memory=\d+ MiB", bar)
    assert re.search(r"8/8 \[\d+:\d+<\d+:\d+", bar)  # done, and how long it still takes


def test_warning_is_told_once_also_beside_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", Terminal())
    train(toy_config(tmp_path, iters=4, custom_hooks=[{"type": "WarnAlways"}]))
    assert out.getvalue().count("twice the same") == 1
    assert log_of(tmp_path).count("twice the same") == 1


def test_choices_fit_on_ten_lines_and_hold_what_matters(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, iters=1)
    runner = train(config)
    text = describe_choices(runner)
    number = sum(p.numel() for p in runner.model.parameters())
    assert len(text.splitlines()) <= 10
    for words in (
        f"{number / 1e6:.2f} M parameters, 5 classes", "weights    random",
        "8 images for training (NoiseImages)", "2 images of 48 x 48 px",
        "SGD, lr 0.01, momentum 0.9, weight decay 0, PolyLR", "length     1 iterations\n",
        "CPU, ", "seed 7", str(tmp_path),
    ):  # fmt: skip
        assert words in text, words


def test_resumed_run_says_from_where_and_its_best_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    config = toy_config(tmp_path, **{"default_hooks.checkpoint.save_best": "mIoU"})
    interrupt(config, 6)
    monkeypatch.setattr(sys, "stdout", out)
    runner = go_on(config)
    said = out.getvalue()
    assert re.search(r"weights    resumed from \S*iter_\d.pth at iteration [67]", said)
    best = runner.state.best["mIoU"]
    assert f"Best mIoU {best['score']:.2f} at iteration {best['iter']}." in said
    assert f"checkpoint  {tmp_path / best['file']}" in said


def test_score_and_checkpoint_without_save_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    runner = train(toy_config(tmp_path))
    assert runner.state.best == {}
    assert re.search(r"Best mIoU \d+\.\d\d at iteration (4|8|12)\.", out.getvalue())
    assert f"checkpoint  {tmp_path / 'iter_12.pth'}" in out.getvalue()


def test_next_command_starts_as_this_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train.py", "test.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py"), "x"])
    assert start_of("test")[1:] == [str(tmp_path / "test.py")]
    monkeypatch.setattr(sys, "argv", ["nlseg train", "x"])
    assert start_of("test")[-2:] == ["nlseg", "test"]
    runner = train(toy_config(tmp_path / "run", iters=1))
    runner.cfg.test_dataloader = None
    assert next_command(runner, tmp_path / "x.pth") is None


@pytest.mark.parametrize(
    ("launcher", "program", "expected"),
    [
        ("none", "nlseg train", "nlseg train c.py --set 'a=[1, 2]'"),
        ("none", "tools/train.py", " tools/train.py c.py --set 'a=[1, 2]'"),
        ("pytorch", "nlseg train",
         "torchrun --nnodes=2 --nproc-per-node=4 -m nlseg train c.py --set 'a=[1, 2]'"),
        ("pytorch", "tools/train.py",
         "torchrun --nnodes=2 --nproc-per-node=4 tools/train.py c.py --set 'a=[1, 2]'"),
        ("slurm", "nlseg train",
         "nlseg train c.py --set 'a=[1, 2]'  # 8 processes, started by slurm"),
    ],
)  # fmt: skip
def test_command_that_repeats_a_run(
    monkeypatch: pytest.MonkeyPatch, launcher: str, program: str, expected: str
) -> None:
    number = 1 if launcher == "none" else 8
    monkeypatch.setattr(sys, "argv", [program, "c.py", "--set", "a=[1, 2]"])
    monkeypatch.setattr("nlseg.run.processes.world_size", lambda: number)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    runner: Any = SimpleNamespace(launcher=launcher)
    assert this_command(runner).endswith(expected)


def test_only_the_first_process_warns_while_a_run_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn_twice() -> None:
        logging.getLogger("nlseg.config").warning("of the config")
        warnings.warn("of Python", stacklevel=1)

    monkeypatch.setenv("LOCAL_RANK", "0")
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with one_voice("pytorch"):
            warn_twice()
        assert not seen
        monkeypatch.setenv("RANK", "0")
        with one_voice("pytorch"):
            warn_twice()
        assert [str(one.message) for one in seen] == ["of Python"]
    assert capsys.readouterr().err.count("of the config") <= 1
