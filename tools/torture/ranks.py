"""Two processes on one machine that torchrun started."""

import signal
from functools import partial

from tests.faults import ranks
from tests.faults.forked import Outcome
from torture.rows import Fault, Group, Setting


def lose_workers(setting: Setting) -> Outcome:
    """Kill one process after the other."""
    return ranks.lose_workers(setting.folder, setting.reference)


def freeze(setting: Setting) -> Outcome:
    """Stop one process."""
    return ranks.freeze_rank(setting.folder, setting.reference)


def ask(number: int, setting: Setting) -> Outcome:
    """Send the launcher a signal at a random iteration."""
    iteration = setting.dice.randint(1, 25)
    return ranks.ask_torchrun_to_stop(setting.folder, setting.reference, iteration, number)


def poison(policy: str, setting: Setting) -> Outcome:
    """Give one process a sample that is not a number."""
    return ranks.nan_outcome(setting.folder, policy)


GROUP = Group(
    "two processes of torchrun",
    [
        Fault("worker of torchrun killed", lose_workers, short=False),
        Fault("rank frozen", freeze, short=False),
        Fault("SIGTERM to the launcher", partial(ask, signal.SIGTERM)),
        Fault("SIGUSR1 to the launcher", partial(ask, signal.SIGUSR1), short=False),
        Fault("NaN on rank 1 of 2, policy stop", partial(poison, "stop"), short=False),
        Fault("NaN on rank 1 of 2, policy skip", partial(poison, "skip"), short=False),
    ],
    prepare=ranks.undisturbed,
)
