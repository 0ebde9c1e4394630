"""Checkpoints cannot be written: full disks, limits, folders that are taken away."""

from functools import partial

from tests.faults import saving
from tests.faults.forked import Outcome
from tests.faults.kills import undisturbed
from torture.rows import Fault, Group, Setting

HARM_AT, FREE_AT = saving.HARM_AT, 17
DISK = 8 << 20
TWO_AND_A_HALF = 900_000
"""Bytes of a disk with room for two checkpoints of 332 kB, but not for three."""


def start(size: int, harm: str | None, setting: Setting) -> Outcome:
    """Start where no checkpoint can be written."""
    return saving.refused_at_start("", setting.folder, size, harm)[0]


def harm(plan: list[tuple[int, str]], setting: Setting) -> Outcome:
    """Take something away from a run."""
    alike = any(name == "free" for _, name in plan)
    return saving.harm("", setting.folder, setting.reference, plan, alike=alike)[0]


def nowhere(setting: Setting) -> Outcome:
    """Leave no place to write to."""
    return saving.nowhere_to_write(setting.folder, setting.reference)[0]


def stop(setting: Setting) -> Outcome:
    """Stop a run on a full disk, and go on from the fallback."""
    return saving.stop_and_go_on(setting.folder, setting.reference)[0]


def no_mounts() -> str | None:
    """Say why no disk can be made here."""
    return None if saving.can_mount() else "mounting small disks needs root"


def on_a_disk(name: str, plan: list[tuple[int, str]], *, short: bool = True) -> Fault:
    """Make a row of a run that is harmed on a small disk."""
    return Fault(name, partial(harm, plan), short, missing=no_mounts)


GROUP = Group(
    "checkpoints that cannot be written",
    [
        Fault("start with ulimit -f", partial(start, DISK, "limit_files"), missing=no_mounts),
        Fault("start on a full disk", partial(start, DISK, "fill"), missing=no_mounts),
        Fault("room for two of three", partial(start, TWO_AND_A_HALF, None), missing=no_mounts),
        Fault("ulimit -f in the run", nowhere),
        on_a_disk("disk full to the end", [(HARM_AT, "fill")]),
        on_a_disk("disk full, then freed", [(HARM_AT, "fill"), (FREE_AT, "free")]),
        Fault("disk full, stopped, resumed", stop, short=False, missing=no_mounts),
        on_a_disk("rm -rf of the run folder", [(HARM_AT, "remove")]),
        on_a_disk("mv of the run folder", [(HARM_AT, "rename")], short=False),
        on_a_disk("run folder read-only", [(HARM_AT, "make_read_only")], short=False),
    ],
    prepare=undisturbed,
)
