"""Processes, starts and hooks that are not those of the run."""

from tests.faults import strangers
from tests.faults.forked import Outcome
from tests.faults.kills import undisturbed
from torture.rows import Fault, Group, Setting


def disagree(setting: Setting) -> Outcome:
    """Give one of two processes something else."""
    return strangers.disagree(setting.folder)


def share(setting: Setting) -> Outcome:
    """Start a second run in the same folder."""
    return strangers.share_a_folder(setting.folder, setting.reference)


def give_up(setting: Setting) -> Outcome:
    """Go on without the average."""
    return strangers.give_up_the_average(setting.folder)


GROUP = Group(
    "who a run is",
    [
        Fault("other config, data, weights on one process of two", disagree),
        Fault("second run in the folder of one that trains", share),
        Fault("resumed without its EMAHook", give_up, short=False),
    ],
    prepare=undisturbed,
)
