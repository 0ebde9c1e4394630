"""What a group of faults says about itself, and how it is run and printed."""

import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlseg.table import format_table
from tests.faults.forked import Outcome


@dataclass
class Setting:
    """What a fault is given.

    Args:
        folder: For this fault alone; not made yet.
        reference: What the group's ``prepare`` returned.
        dice: Where random moments come from.
        kills: SIGKILLs that were asked for.
    """

    folder: Path
    reference: Any
    dice: random.Random
    kills: int


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Args:
        name: What is done, as the table says it.
        do: Does it, judges, and returns the outcome; it must end by itself.
        short: Whether the short form has it.
        missing: Returns why it cannot be done on this machine; None where it can.
    """

    name: str
    do: Callable[[Setting], Outcome]
    short: bool = True
    missing: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Group:
    """Faults that belong together.

    Args:
        title: Stands over their rows.
        faults: The rows.
        prepare: Trains, in a folder, what the faults are compared with.
        missing: Returns why none of them can be done on this machine; None where they can.
    """

    title: str
    faults: Sequence[Fault]
    prepare: Callable[[Path], Any] = lambda folder: None
    missing: Callable[[], str | None] = lambda: None


@dataclass
class Row:
    """How a fault ended.

    Args:
        outcome: What was injected, survived and lost.
        not_run: Why it was not done, where it was not.
        seconds: How long it took.
    """

    outcome: Outcome
    not_run: str = ""
    seconds: float = 0.0


def run_group(
    group: Group, folder: Path, dice: random.Random, kills: int, *, short: bool
) -> list[Row]:
    """Do the faults of a group, one after the other, and say how each ended."""
    chosen = [fault for fault in group.faults if fault.short or not short]
    reasons = [group.missing() or fault.missing() for fault in chosen]
    reference = group.prepare(folder / "reference") if None in reasons else None
    rows = []
    for number, (fault, reason) in enumerate(zip(chosen, reasons, strict=True)):
        if reason is not None:
            rows.append(Row(Outcome(fault.name), reason))
            continue
        setting = Setting(folder / f"fault_{number}", reference, dice, kills)
        rows.append(_run(fault, setting))
        row = rows[-1]
        print(
            f"{group.title}: {fault.name}: {row.outcome.injected} injected, "
            f"{row.outcome.lost} lost ({row.seconds:.0f} s)",
            flush=True,
        )
    return rows


def _run(fault: Fault, setting: Setting) -> Row:
    started = time.monotonic()
    try:
        outcome = fault.do(setting)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome(fault.name, 1, 0, [f"{type(error).__name__}: {error}"])
    outcome.name = fault.name
    return Row(outcome, seconds=time.monotonic() - started)


def table(groups: Sequence[tuple[Group, list[Row]]]) -> str:
    """Write all rows, group by group."""
    lines: list[Sequence[Any]] = []
    for group, rows in groups:
        lines.append([f"{group.title}:", "", "", "", ""])
        for row in rows:
            done, note = row.outcome, "; ".join(row.outcome.notes)
            if row.not_run:
                counts, note = ["-", "-", "-"], f"not run: {row.not_run}"
            else:
                counts = [str(n) for n in (done.injected, done.survived, done.lost)]
            numbers = [count.rjust(width) for count, width in zip(counts, (8, 8, 4), strict=True)]
            lines.append([f"  {done.name}", *numbers, note])
    return format_table(["fault", "injected", "survived", "lost", ""], lines, rule=False)
