"""Take away the worker processes of a loader, or what they need: shared memory, open files."""

import itertools
import os
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import saving
from tests.faults.forked import Child, Outcome, resumed, train_forked
from tests.faults.kills import LAST, assert_ended_alike, hard_config
from tests.run import toy
from tests.run.runs import assert_same, final

SHARED_MEMORY = Path("/dev/shm")
_WIDE, _HUNGRY = 200_000, 500_000_000
_FREE_FILES = 16  # 12 to 24 are too few for two workers, 28 enough to go on between deaths


def die(folder: Path, reference: Path, loader: str) -> Outcome:
    """Kill a worker of the training's or the validation's loader."""
    outcome = Outcome(f"worker of {loader} killed", injected=1)
    number = 50 if loader == "train" else 7
    changes = {f"{loader}_dataloader.dataset.die_at": number}
    config = hard_config(folder, workers=2, **changes)
    toy.let_one_die()
    try:
        assert train_forked(config) == 0, _told(folder)
        assert "(SIGKILL); workers are started again at batch" in _told(folder)
        assert_ended_alike(reference, folder)
        outcome.survived = 1
    except AssertionError as error:
        outcome.fail(error)
    return outcome


def die_in_a_test(folder: Path, reference: Path) -> Outcome:
    """Kill a worker of a test's loader; the scores are to be those of all images."""
    outcome = Outcome("worker of test killed", injected=1)
    scores = []
    try:
        for name, number in (("whole", -1), ("killed", 7)):
            config = hard_config(
                folder / name, workers=2, load_from=str(reference / LAST),
                **{"test_dataloader.dataset.die_at": number},
            )  # fmt: skip
            toy.let_one_die()
            assert Child(config, task="test").wait() == 0, _told(folder / name)
            scores += re.findall(r"Iter\(test\).*(mIoU: [\d.]+)", _told(folder / name))
        assert "(SIGKILL); workers are started again at batch" in _told(folder / "killed")
        assert len(scores) == 2, scores
        assert scores[0] == scores[1], scores
        outcome.survived = 1
    except AssertionError as error:
        outcome.fail(error)
    return outcome


def run_short(
    folder: Path, reference: Path, prepare: Callable[[], None], advice: str, **changes: Any
) -> Outcome:
    """Train with workers where something runs short; then again without workers.

    The first is to end soon, with its cause and what helps; the second as the undisturbed run.
    """
    outcome = Outcome("", injected=1)
    config = hard_config(folder, workers=2, time_limits={"start": 60.0}, **changes)
    try:
        assert Child(config, prepare).wait() == 1, _told(folder)
        last = _told(folder).splitlines()[-1]
        assert last.startswith("error: loader workers died 4 times"), _told(folder)[-2000:]
        assert advice in last, last
        assert train_forked(resumed(hard_config(folder))) == 0, _told(folder)[-2000:]
        assert_same(final(reference, LAST), final(folder, LAST))
        outcome.survived = 1
        outcome.notes.append("stopped with its cause")
    except AssertionError as error:
        outcome.fail(error)
    return outcome


def wide_samples(part: str) -> dict[str, Any]:
    """Let each sample bring along about a megabyte to shared memory.

    Args:
        part: 'images', which are collated there, or 'labels', which a thread puts there later.
    """
    dataset = "train_dataloader.dataset"
    return {f"{dataset}.padding": _WIDE, f"{dataset}.wide": part}


def hungry_samples() -> dict[str, Any]:
    """Let each sample take 500 MB while it is loaded."""
    return {"train_dataloader.dataset.hunger": _HUNGRY}


def shrink_shared_memory() -> None:
    """Give this process a shared memory of 1 MB; it must be one with mounts of its own."""
    saving.unshare_mounts()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(SHARED_MEMORY)]
    subprocess.run(command, check=True)


def allow_few_files() -> None:
    """Let this process and its workers open a few files more than now.

    What is limited is the number that a file gets, the lowest that is free.
    """
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in itertools.count() if number not in used)
    limit = next(itertools.islice(free, _FREE_FILES, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def allow_little_memory() -> None:
    """Let this process and its workers take 300 MB more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (300 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _told(folder: Path) -> str:
    return (folder / "child.log").read_text()
