"""Take away what checkpoints are written to: full disks, removed folders, limits, read-only mounts.

Disks are small ones in memory, mounted where this process alone sees them, which needs root.
"""

import contextlib
import ctypes
import functools
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook

from nlseg.registry import HOOKS
from nlseg.run import checkpoint
from nlseg.run.places import fallback_folders
from tests.faults.forked import Child, Outcome, resumed
from tests.faults.kills import ITERS, LAST, assert_ended_alike, hard_config
from tests.run.runs import assert_same, final

INTERVAL = 3
HARM_AT = 10
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of unshare(2)


def unshare_mounts() -> bool:
    """Give this process mounts of its own; return whether that was allowed."""
    return os.getuid() == 0 and ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS) == 0


@functools.cache
def can_mount() -> bool:
    """Return whether this process may mount, after it has got mounts of its own."""
    if not unshare_mounts():
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of a few bytes in memory."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> None:
    """Leave no byte on a disk."""
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def free(disk: Path) -> None:
    """Give the bytes back."""
    (disk / "filler").unlink()


def limit_files(disk: Path) -> None:
    """Let no file of this process grow beyond 60 kB, wherever it lies."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))


def remove(disk: Path) -> None:
    """Delete the run folder."""
    shutil.rmtree(disk / "run")


def rename(disk: Path) -> None:
    """Give the run folder another name."""
    (disk / "run").rename(disk / "moved")


def make_read_only(disk: Path) -> None:
    """Mount the run folder over itself, read-only, as no disk with open files can be remounted."""
    subprocess.run(["mount", "--bind", disk / "run", disk / "run"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", disk / "run"], check=True)


HARMS: dict[str, Callable[[Path], None]] = {
    harm.__name__: harm for harm in (fill, free, limit_files, remove, rename, make_read_only)
}


@HOOKS.register_module(force=True)
class HarmDisk(Hook):
    """Do something to the disk at some iterations.

    Args:
        disk: The disk.
        plan: Pairs (iteration, name of a function above).
    """

    priority = "VERY_HIGH"

    def __init__(self, disk: str, plan: list[tuple[int, str]]) -> None:
        self.disk, self.plan = Path(disk), plan

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for iteration, name in self.plan:
            if iteration == runner.iter:
                HARMS[name](self.disk)


def harmed_config(
    disk: Path, fallback: Path | None, plan: list[tuple[int, str]], **changes: Any
) -> Config:
    """Make a hard run in ``disk/run`` that is harmed on the way."""
    hooks = [
        {"type": "EMAHook", "momentum": 0.1},
        {"type": "HarmDisk", "disk": str(disk), "plan": plan},
    ]
    given = {
        "default_hooks.checkpoint.fallback_dir": str(fallback) if fallback else None,
        "default_hooks.checkpoint.save_limit": 0.0,
        "custom_hooks": hooks,
    }
    return hard_config(disk / "run", **{**given, **changes})


def train(config: Config, folder: Path) -> tuple[int, str]:
    """Train in a forked process; return its exit code and what it has printed."""
    log = folder / "child.log"
    log.unlink(missing_ok=True)
    code = Child(config, log_dir=folder).wait()
    return code, log.read_text()


def harm(
    name: str,
    folder: Path,
    reference: Path,
    plan: list[tuple[int, str]],
    *,
    alike: bool = False,
    **changes: Any,
) -> tuple[Outcome, str]:
    """Harm a run that has a fallback; it must end as the undisturbed one.

    Args:
        name: Of the fault.
        folder: For this run.
        reference: The undisturbed run.
        plan: What is done at which iteration.
        alike: Whether its folder must hold the same files in the end, and no fallback any.
        changes: To the config.

    Returns:
        The outcome, and what the run has printed.
    """
    outcome = Outcome(name, injected=1)
    with small_disk(folder / "disk", 8 << 20) as disk:
        config = harmed_config(disk, folder / "fallback", plan, **changes)
        code, output = train(config, folder)
        try:
            assert code == 0, output[-2000:]
            (fallback,) = fallback_folders(disk / "run", str(folder / "fallback"))[:1]
            assert "Traceback" not in output, output[-3000:]
            if alike:
                assert_ended_alike(reference, disk / "run")
                assert not fallback.exists(), list(fallback.iterdir())
            else:
                place = fallback if (fallback / LAST).exists() else disk / "run"
                assert_same(final(reference, LAST), final(place, LAST))
            outcome.survived = 1
            outcome.notes.append("0 iterations")
        except AssertionError as error:
            outcome.notes.append(str(error))
    return outcome, output


def stop_and_go_on(folder: Path, reference: Path) -> tuple[Outcome, str]:
    """Fill the disk for good, stop the run by a signal, and resume it while the disk is full."""
    outcome = Outcome("disk full, stopped, resumed", injected=1)
    with small_disk(folder / "disk", 8 << 20) as disk:
        config = harmed_config(disk, folder / "fallback", [(HARM_AT, "fill")])
        stop = {"type": "SignalAt", "at": 20, "number": int(signal.SIGTERM)}
        config.custom_hooks = [*config.custom_hooks, stop]
        code, output = train(config, folder)
        again = resumed(harmed_config(disk, folder / "fallback", []))
        try:
            assert code == 143, output[-2000:]
            code, output = train(again, folder)
            assert code == 2, output[-2000:]  # nothing can be trained on a full disk
            free(disk)
            code, output = train(again, folder)
            assert code == 0, output[-2000:]
            assert re.search(r"iter_21.pth: was saved there while .*resumed from", output), output
            assert_ended_alike(reference, disk / "run")
            (fallback,) = fallback_folders(disk / "run", str(folder / "fallback"))[:1]
            assert not fallback.exists(), list(fallback.iterdir())
            outcome.survived = 1
        except AssertionError as error:
            outcome.notes.append(str(error))
    return outcome, output


def refused_at_start(name: str, folder: Path, size: int, at: str | None) -> tuple[Outcome, str]:
    """Start where no checkpoint can be written: nothing may be trained in vain."""
    outcome = Outcome(name, injected=1)
    with small_disk(folder / "disk", size) as disk:
        config = harmed_config(disk, None, [])
        (disk / "run").mkdir()
        log = folder / "child.log"
        prepare = None if at is None else (lambda: HARMS[at](disk))
        child = Child(config, prepare, log_dir=folder)
        trained = child.wait_for_beats(1)
        code, output = child.wait(), log.read_text()
        if code == 2 and not trained and "Traceback" not in output:
            outcome.survived = 1
            outcome.notes.append("refused before the first iteration")
        else:
            outcome.notes.append(f"exit code {code}, trained {trained}: {output[-1500:]}")
    return outcome, output


def nowhere_to_write(folder: Path, reference: Path) -> tuple[Outcome, str]:
    """Limit the size of files amid a run, so that no folder takes a checkpoint."""
    outcome = Outcome("ulimit -f in the run", injected=1)
    folder.mkdir(parents=True, exist_ok=True)
    config = harmed_config(folder, None, [(HARM_AT, "limit_files")])
    code, output = train(config, folder)
    try:
        assert code == 1, output[-2000:]
        assert "Traceback" not in output
        whole = folder / "run/iter_9.pth"
        assert f"the newest whole checkpoint is {whole}" in output, output[-2000:]
        assert checkpoint.newest(folder / "run")[0] == whole
        ended = int(re.findall(r"Saving checkpoint \S+ at iteration (\d+)", output)[-1])
        outcome.notes.append(f"stopped early, {ended - 9} iterations")
        assert ended - 9 <= INTERVAL + 1 < ITERS  # one more, in which all processes agree
        code, after = train(resumed(harmed_config(folder, None, [])), folder)
        assert code == 0, after[-2000:]
        assert_ended_alike(reference, folder / "run")
        outcome.survived = 1
    except AssertionError as error:
        outcome.notes.append(str(error))
    return outcome, output
