"""Take away what a job was started from: its terminal, its standard streams."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from nlseg.run import checkpoint
from tests.faults.forked import Child, Outcome, resumed, train_forked
from tests.faults.kills import LAST, hard_config
from tests.faults.kills import undisturbed as undisturbed_run
from tests.faults.ranks import write_config
from tests.run.real_processes import ROOT, environment
from tests.run.runs import assert_same, final

PATIENCE_S = 240
PAIRS = {"train_dataloader.batch_size": 2}


def undisturbed(folder: Path) -> Path:
    """Train once, with the settings of the runs below, and return the run folder."""
    return undisturbed_run(folder, **PAIRS)


def hang_up(folder: Path, reference: Path, beats: int) -> Outcome:
    """Send a training SIGHUP, and go on."""
    outcome = Outcome("SIGHUP", injected=1)
    by_default = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # under nohup too
    config = hard_config(folder / "work", workers=1, **PAIRS)
    child = Child(config, by_default, hold_at=beats)
    child.wait_for_beats(beats)
    child.signal(signal.SIGHUP)
    code = child.wait()
    return _judge(outcome, code, "SIGHUP", folder, reference)


def close_streams(folder: Path, reference: Path) -> Outcome:
    """Start a job with all standard streams closed, ask it to stop, and go on."""
    outcome = Outcome("all standard streams closed", injected=1)
    words = " ".join(f"'{word}'" for word in _command(folder))
    process = subprocess.Popen(["bash", "-c", f"exec {words} <&- >&- 2>&-"], env=environment())
    try:
        _wait_for_progress(folder, process, partial(time.sleep, 0.05))
        process.send_signal(signal.SIGTERM)  # what is said about it must go into no file
        code = process.wait(PATIENCE_S)
        for path in (folder / "work").rglob("*"):
            assert path.is_dir() or b"finishes this iteration" not in path.read_bytes(), path
    except AssertionError as error:
        outcome.fail(error)
        return outcome
    finally:
        process.kill()
    return _judge(outcome, code, "SIGTERM", folder, reference)


def lose_terminal(folder: Path, reference: Path) -> Outcome:
    """Start a job on a terminal, take that away, and go on."""
    outcome = Outcome("terminal gone", injected=1)
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        _command(folder), env=environment(), stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True, preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(terminal)
    os.set_blocking(keyboard, False)
    try:
        # a terminal that nobody reads would hold the run up
        _wait_for_progress(folder, process, partial(_read_what_is_there, keyboard))
        os.close(keyboard)  # the system sends SIGHUP, and every write to the terminal fails now
        code = process.wait(PATIENCE_S)
    except AssertionError as error:
        outcome.fail(error)
        return outcome
    finally:
        process.kill()
    return _judge(outcome, code, "SIGHUP", folder, reference)


def _command(folder: Path) -> list[str]:
    """Write a config and return the command that trains it, and that waits to be stopped."""
    average = {"type": "EMAHook", "momentum": 0.1}
    hooks = [average, {"type": "Progress"}, {"type": "Hold", "iteration": 10}]
    config = write_config(folder, custom_hooks=hooks)
    return [sys.executable, str(ROOT / "tools/train.py"), str(config)]


def _wait_for_progress(
    folder: Path, process: subprocess.Popen[bytes], meanwhile: Callable[[], object]
) -> None:
    """Wait until a job's first iteration is over."""
    end = time.monotonic() + PATIENCE_S
    while not (folder / "work/progress").exists():
        assert process.poll() is None, f"the run ended before, with code {process.returncode}"
        assert time.monotonic() < end, f"no iteration within {PATIENCE_S} s"
        meanwhile()


def _read_what_is_there(keyboard: int) -> None:
    try:
        os.read(keyboard, 1 << 16)
    except BlockingIOError:
        time.sleep(0.02)


def _take_terminal() -> None:
    """Make standard input the terminal of this process, and SIGHUP fatal also under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.close(os.open(os.ttyname(0), os.O_RDWR))


def _judge(outcome: Outcome, code: int, reason: str, folder: Path, reference: Path) -> Outcome:
    """Compare where a run ends that was asked to stop and then gone on with."""
    work = folder / "work"
    try:
        assert code == 143, f"exit code {code}"
        newest = checkpoint.newest(work)[0]
        assert newest is not None
        torch.load(newest, weights_only=True)
        (log,) = work.glob("*/*.log")
        assert f"stopped: {reason}" in log.read_text()
        assert train_forked(resumed(hard_config(work, **PAIRS))) == 0, _told(work)
        assert_same(final(reference, LAST), final(work, LAST))
        outcome.survived = 1
    except AssertionError as error:
        outcome.fail(error)
    return outcome


def _told(folder: Path) -> str:
    return (folder / "child.log").read_text()[-2000:]
