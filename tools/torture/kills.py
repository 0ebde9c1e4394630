"""A training of one process is killed, and its newest checkpoint is harmed."""

from functools import partial
from pathlib import Path

from tests.faults.forked import Outcome
from tests.faults.kills import damage_and_go_on, kill_and_go_on, undisturbed
from torture.rows import Fault, Group, Setting

HARMS = ("truncated", "zero bytes", "one bit flipped", "gone", "unreadable record")
KILLS_PER_RUN = 10


def kill(setting: Setting) -> Outcome:
    """Kill trainings at random moments, half of them while saving in the background."""
    total = Outcome("")
    run = 0
    while total.injected < setting.kills:
        part = kill_and_go_on(
            Path(setting.folder, str(run)),
            setting.reference,
            min(KILLS_PER_RUN, setting.kills - total.injected),
            setting.dice,
            **{"default_hooks.checkpoint.background": run % 2 == 1},
        )
        total.injected += part.injected
        total.survived += part.survived
        total.notes += part.notes
        run += 1
        print(f"{total.injected} kills, {total.lost} lost", flush=True)
    total.notes.append(f"{run} runs")
    return total


def damage(harm: str, setting: Setting) -> Outcome:
    """Harm the newest checkpoint of a stopped run."""
    return damage_and_go_on(setting.folder, setting.reference, harm)


GROUP = Group(
    "one process",
    [
        Fault("SIGKILL at a random moment", kill),
        *(Fault(f"checkpoint {harm}", partial(damage, harm)) for harm in HARMS),
    ],
    prepare=undisturbed,
)
