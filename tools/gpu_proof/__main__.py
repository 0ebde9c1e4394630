"""Take the steps that are still open, in the order of the stages, and write the page.

Exit code 0: every step is done or left out; 1: one failed, or the minutes are used up; 2: something
to mend in the command; 75: steps are left for another call.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gpu_proof import page
from gpu_proof.stages import Place, all_steps
from gpu_proof.steps import (
    Records,
    least_seconds,
    open_steps,
    read_records,
    run_steps,
    write_records,
)
from nlseg.errors import UserError

TOTAL_MINUTES = 45.0
STEPS_LEFT = 75


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu_proof.sh", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("out", type=Path, help="folder of what is kept")
    parser.add_argument("--work", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--data", type=Path, help="CamVid: images/ and annotations/")
    parser.add_argument("--stages", type=int, nargs="+", choices=(1, 2, 3, 4), default=(1, 2, 3, 4))
    parser.add_argument("--minutes", type=float, default=9.5, help="of this call, at most (9.5)")
    parser.add_argument("--again", action="store_true", help="take failed steps again")
    parser.add_argument("--dry", action="store_true", help="toy sizes, without a GPU too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the steps; return the exit code."""
    args = parse_args(arguments)
    start = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.dry:
        raise UserError("no GPU is visible; --dry tries everything with toy sizes")
    if args.data is not None and not (args.data / "images").is_dir():
        raise UserError(
            f"--data {args.data}: no images/ in it; see CamVidDataset, docs/datasets.md"
        )
    out, work = args.out.resolve(), args.work.resolve()
    out.mkdir(parents=True, exist_ok=True)
    data = None if args.data is None else args.data.resolve()
    every = all_steps(Place(out, work, data, device, args.dry))
    steps = [step for step in every if step.stage in args.stages]
    records = read_records(out)
    if args.again:
        records = {name: r for name, r in records.items() if r["state"] == "done"}
        write_records(out, records)
    spent = sum(record["seconds"] for record in records.values())
    seconds = min(60 * args.minutes, 60 * TOTAL_MINUTES - spent)
    longest = max(open_steps(steps, records), key=least_seconds, default=None)
    if longest is not None and 0 < 60 * args.minutes < least_seconds(longest):
        raise UserError(
            f"--minutes {args.minutes:g}: {longest.name!r} takes up to {longest.seconds / 60:.1f}, "
            "so it would never begin; give more, or other --stages"
        )

    def after_each(records: Records) -> None:
        page.write_page(out, every, records, device, args.dry)

    records = run_steps(steps, out, start + seconds, after_each)
    after_each(records)
    print("\n" + page.summary(steps, records, page.sections_of(out, device)))
    left = open_steps(steps, records)
    unspent = 60 * TOTAL_MINUTES - sum(record["seconds"] for record in records.values())
    again = any(least_seconds(step) <= unspent for step in left)
    print(f"{out / page.PAGE}: {len(left)} of {len(steps)} steps left" + "; call again" * again)
    if again:
        return STEPS_LEFT
    if left:
        names = ", ".join(step.name for step in left)
        print(f"the {TOTAL_MINUTES:g} minutes are used up; not taken: {names}")
        return 1
    return int(any(records[s.name]["state"] != "done" for s in steps if not s.left_out))


if __name__ == "__main__":
    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        sys.exit(main())
