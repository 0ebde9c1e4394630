"""Compare tests, or the last validations of trainings, on the same images.

    nlseg compare work_dirs/A work_dirs/B          # B against A
    nlseg compare A B C --out compare.html

The first one is the baseline. Reads the images.jsonl of a report or the receipt.json of a test, the
newest below each folder; other classes, images or labels are refused. Prints differences of mIoU,
of each class and of the images that changed most, with 95 % intervals and p-values of a paired
test, and writes them as a page beside what the last evaluation left.

Exit code 0: done; 2: something to mend in the command, or evaluations that cannot be compared.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import plain_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("baseline", type=Path, help="run folder, images.jsonl or receipt.json")
    parser.add_argument("others", type=Path, nargs="+", metavar="other", help="what to compare")
    parser.add_argument("--names", nargs="+", help="what to call them all (default: their paths)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="page (default: compare.html)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Read the evaluations, print the tables and write the page."""
    from nlseg.errors import UserError
    from nlseg.report import comparison

    paths = [args.baseline, *args.others]
    names = args.names or [str(path) for path in paths]
    if len(names) != len(paths):
        raise UserError(f"--names: {len(names)} names for {len(paths)} evaluations")
    baseline, *others = map(comparison.read_evaluation, paths, names)
    found = [comparison.compare(baseline, other) for other in others]
    print(comparison.as_tables(found, baseline))
    last = paths[-1]
    out = args.out or (last.parent if last.is_file() else last) / comparison.PAGE
    comparison.write_page(out, found, baseline)
    print(f"\n{out}")
