"""Jobs without a terminal: all standard streams closed, or a terminal that goes away."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nlseg.run import checkpoint
from tests.faults.ranks import write_config
from tests.run.real_processes import ROOT, environment

pytestmark = pytest.mark.slow
PATIENCE_S = 240


def command(folder: Path) -> list[str]:
    """Write a config and return the command that trains it, slowly enough to be met."""
    hooks = [{"type": "Progress"}, {"type": "Doze", "seconds": 0.05}]
    config = write_config(folder, custom_hooks=hooks)
    return [sys.executable, str(ROOT / "tools/train.py"), str(config)]


def wait_for_progress(folder: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not (folder / "work/progress").exists() and time.monotonic() < end:
        assert process.poll() is None, "the run ended before"
        time.sleep(0.05)


def take_terminal() -> None:
    """Make standard input the terminal of this process, and SIGHUP fatal also under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.close(os.open(os.ttyname(0), os.O_RDWR))


def test_run_with_all_standard_streams_closed_works_and_logs_to_its_file(tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in command(tmp_path))
    process = subprocess.Popen(["bash", "-c", f"exec {words} <&- >&- 2>&-"], env=environment())
    wait_for_progress(tmp_path, process)
    process.send_signal(signal.SIGTERM)  # what is said about it must go into no file
    assert process.wait(PATIENCE_S) == 143
    newest = checkpoint.newest(tmp_path / "work")[0]
    assert newest is not None
    torch.load(newest, weights_only=True)
    (log,) = (tmp_path / "work").glob("*/*.log")
    assert "stopped: SIGTERM" in log.read_text()
    for path in (tmp_path / "work").rglob("*"):
        assert path.is_dir() or b"finishes this iteration" not in path.read_bytes(), path


def test_run_whose_terminal_goes_away_saves_and_leaves_with_143(tmp_path: Path) -> None:
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        command(tmp_path), env=environment(), stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(terminal)
    os.set_blocking(keyboard, False)
    end = time.monotonic() + PATIENCE_S
    while not (tmp_path / "work/progress").exists() and time.monotonic() < end:
        try:
            os.read(keyboard, 1 << 16)  # a terminal that nobody reads would hold the run up
        except BlockingIOError:
            time.sleep(0.02)
    os.close(keyboard)  # the system sends SIGHUP, and every write to the terminal fails now
    assert process.wait(PATIENCE_S) == 143
    assert checkpoint.newest(tmp_path / "work")[0] is not None
    (log,) = (tmp_path / "work").glob("*/*.log")
    assert "stopped: SIGHUP" in log.read_text()
