"""Worker processes of loaders: killed, or short of shared memory, open files or memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.faults import saving, workers
from tests.faults.forked import Outcome
from tests.faults.kills import undisturbed
from torture.rows import Fault, Group, Setting


def kill(loader: str, setting: Setting) -> Outcome:
    """Kill a worker of the training or the validation."""
    return workers.die(setting.folder, setting.reference, loader)


def kill_in_a_test(setting: Setting) -> Outcome:
    """Kill a worker of a test."""
    return workers.die_in_a_test(setting.folder, setting.reference)


def starve(
    prepare: Callable[[], None], advice: str, changes: dict[str, Any], setting: Setting
) -> Outcome:
    """Let something run short."""
    return workers.run_short(setting.folder, setting.reference, prepare, advice, **changes)


def no_mounts() -> str | None:
    """Say why no small shared memory can be made here."""
    return None if saving.can_mount() else "mounting a small /dev/shm needs root"


GROUP = Group(
    "workers of loaders",
    [
        Fault("worker of the training killed", partial(kill, "train")),
        Fault("worker of the validation killed", partial(kill, "val"), short=False),
        Fault("worker of the test killed", kill_in_a_test, short=False),
        *(
            Fault(
                f"/dev/shm too small for {what}",
                partial(
                    starve, workers.shrink_shared_memory, "--shm-size", workers.wide_samples(what)
                ),
                short=False,
                missing=no_mounts,
            )
            for what in ("images", "labels")
        ),
        Fault(
            "too many open files",
            partial(starve, workers.allow_few_files, "ulimit -n", {}),
        ),
        Fault(
            "memory full",
            partial(
                starve, workers.allow_little_memory, "lower num_workers", workers.hungry_samples()
            ),
            short=False,
        ),
    ],
    prepare=undisturbed,
)
