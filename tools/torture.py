"""Hurt trainings in every way that clusters know, and print what was lost.

The long form of tests/faults: real processes, real signals, real files. Run from the root of the
repository; needs no GPU and no data. Exit code 1 when anything was lost.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

HARMS = ("truncated", "zero bytes", "one bit flipped", "gone", "unreadable record")
KILLS_PER_RUN = 10


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs at random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--no-ranks", action="store_true", help="leave out runs of two processes")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        outcomes = single(folder, args.kills, args.seed)
        if not args.no_ranks:
            outcomes += several(folder, random.Random(args.seed))
    show(outcomes)
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(any(outcome.lost for outcome in outcomes))


def single(folder: Path, kills: int, seed: int) -> list:
    """Harm trainings of one process."""
    from tests.faults.forked import Outcome
    from tests.faults.hostile import refused
    from tests.faults.kills import damage_and_go_on, kill_and_go_on, undisturbed

    dice = random.Random(seed)
    reference = undisturbed(folder / "reference")
    total = Outcome("SIGKILL at a random moment")
    run = 0
    while total.injected < kills:
        changes = {"default_hooks.checkpoint.background": run % 2 == 1}
        left = min(KILLS_PER_RUN, kills - total.injected)
        part = kill_and_go_on(folder / f"killed_{run}", reference, left, dice, **changes)
        total.injected += part.injected
        total.survived += part.survived
        total.notes += part.notes
        run += 1
        print(f"{total.injected} kills, {total.lost} lost", flush=True)
    total.notes.append(f"{run} runs")
    damaged = [damage_and_go_on(folder / harm, reference, harm) for harm in HARMS]
    return [total, *damaged, refused(folder)]


def several(folder: Path, dice: random.Random) -> list:
    """Harm trainings of two processes."""
    from tests.faults import ranks

    reference = ranks.undisturbed(folder / "two")
    return [
        ranks.lose_workers(folder / "lose", reference),
        ranks.freeze_rank(folder / "freeze", reference),
        *(
            ranks.ask_torchrun_to_stop(folder / name, reference, dice.randint(1, 25), number)
            for name, number in (("term", signal.SIGTERM), ("usr1", signal.SIGUSR1))
        ),
        *(ranks.nan_outcome(folder / policy, policy) for policy in ("stop", "skip")),
    ]


def show(outcomes: list) -> None:
    """Print the table."""
    from nlseg.table import format_table

    header = ["fault", "injected", "survived", "lost", ""]
    rows = [[o.name, o.injected, o.survived, o.lost, "; ".join(o.notes)] for o in outcomes]
    print("\n" + format_table(header, rows, rule=False))


if __name__ == "__main__":
    main()
