"""What a resume reads: the checkpoint, the JSON beside it, each of its fields."""

from functools import partial

from tests.faults import tampered
from tests.faults.forked import Outcome
from tests.faults.kills import undisturbed
from torture.rows import Fault, Group, Setting

HARMS = {
    "gone": "JSON beside the checkpoints gone",
    "empty": "JSON beside the checkpoints empty",
    "cut off": "JSON beside the checkpoints cut off",
    "copied": "only *.pth copied to another folder",
}


def harm(kind: str, setting: Setting) -> Outcome:
    """Harm what lies beside the checkpoints."""
    return tampered.harm_records(setting.folder, setting.reference, kind)


def change(setting: Setting) -> Outcome:
    """Change one field after the other."""
    return tampered.refuse_each(setting.folder)


GROUP = Group(
    "what a resume reads",
    [
        *(Fault(name, partial(harm, kind), short=kind == "copied") for kind, name in HARMS.items()),
        Fault("one field of the checkpoint changed", change),
    ],
    prepare=undisturbed,
)
