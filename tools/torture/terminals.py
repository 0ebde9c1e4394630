"""Jobs whose terminal or standard streams are taken away."""

from tests.faults import terminals
from tests.faults.forked import Outcome
from torture.rows import Fault, Group, Setting


def hang_up(setting: Setting) -> Outcome:
    """Send SIGHUP at a random moment."""
    return terminals.hang_up(setting.folder, setting.reference, setting.dice.randint(1, 40))


def close(setting: Setting) -> Outcome:
    """Start without standard streams."""
    return terminals.close_streams(setting.folder, setting.reference)


def lose(setting: Setting) -> Outcome:
    """Take the terminal away."""
    return terminals.lose_terminal(setting.folder, setting.reference)


GROUP = Group(
    "terminals",
    [
        Fault("SIGHUP", hang_up),
        Fault("all standard streams closed", close),
        Fault("terminal gone", lose, short=False),
    ],
    prepare=terminals.undisturbed,
)
