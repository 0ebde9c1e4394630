"""Write the report of a test or a training again, or that of an earlier version of nlseg.

    nlseg report work_dirs/RUN            # of the newest facts below this folder
    nlseg report work_dirs/RUN/images.jsonl --out report.html

``nlseg test --report`` and the end of each training write images.jsonl and report.html by
themselves, and examples.npz, the label maps of the worst and the best images; the images are read
from where they were.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import plain_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("run", type=Path, help="run folder, or an images.jsonl")
    parser.add_argument("--out", type=Path, metavar="FILE", help="page (default: beside the facts)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        report(args)


def report(args: argparse.Namespace) -> None:
    """Read the facts and write the page."""
    from nlseg.evaluation.scores import beside_mean
    from nlseg.report.examples import FILE, Examples
    from nlseg.report.facts import find_facts, read_facts
    from nlseg.report.page import write_report

    file = find_facts(args.run)
    meta, facts = read_facts(file)
    out = args.out or file.with_name("report.html")
    stored = file.with_name(FILE)
    examples = Examples.read(stored).chosen() if stored.is_file() else {}
    analysis = write_report(out, facts, meta, examples=examples, run_folder=file.parent)
    low, high = analysis.miou_interval
    score = f"mIoU {100 * analysis.scores['mIoU']:.2f} ({100 * low:.2f} to {100 * high:.2f})"
    print(score + beside_mean(analysis.unscored))
    print(out)
