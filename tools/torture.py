"""Hurt trainings in every way that clusters know, and print what was lost.

    python tools/torture.py                    # everything, with 200 kills
    python tools/torture.py --short            # minutes: what every change must pass
    python tools/torture.py --group kills      # one group of faults

Real processes, real signals, real files. Run from the root of the repository; needs no GPU and no
data. What a machine cannot do (other nodes need root and network namespaces) is said in its row.
Exit code 1 when anything was lost.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torture import GROUPS

KILLS, KILLS_IN_SHORT = 200, 12


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, help=f"SIGKILLs at random moments ({KILLS})")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument(
        "--short", action="store_true", help=f"{KILLS_IN_SHORT} kills, and the faster faults"
    )
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=GROUPS, help="only these")
    parser.add_argument("--match", default="", metavar="TEXT", help="only faults that hold this")
    parser.add_argument("--no-ranks", action="store_true", help="leave out runs of two processes")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    kills = args.kills if args.kills is not None else KILLS_IN_SHORT if args.short else KILLS

    import torch

    from torture.rows import run_group, table

    torch.set_num_threads(1)
    started = time.monotonic()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.group:
            if name == "ranks" and args.no_ranks:
                continue
            group = import_module(f"torture.{name}").GROUP
            folder = (args.folder or Path(temporary)) / name
            group = replace(group, faults=[f for f in group.faults if args.match in f.name])
            dice = random.Random(args.seed)
            results.append((group, run_group(group, folder, dice, kills, short=args.short)))
    print("\n" + table(results))
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(any(row.outcome.lost for _, rows in results for row in rows))


if __name__ == "__main__":
    main()
