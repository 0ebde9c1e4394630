"""Draw scores and losses of one or several runs over their iterations.

nlseg analyze-logs work_dirs/run_a work_dirs/run_b --out curves.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import plain_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument(
        "logs", nargs="+", help="run folders, scalars.jsonl files, or scalars.json of OpenMMLab"
    )
    parser.add_argument(
        "--keys", nargs="+", default=["mIoU", "loss"], help="what to draw (default: mIoU loss)"
    )
    parser.add_argument("--legend", nargs="+", help="names of the runs (default: their folders)")
    parser.add_argument("--title", default="", help="written on top")
    parser.add_argument("--smooth", type=int, help="average over this many points")
    parser.add_argument("--out", help="picture file (default: curves.png of the first run)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.run import command

    command.run(lambda: analyze(args))


def analyze(args: argparse.Namespace) -> None:
    """Print the table and draw the curves."""
    from nlseg.compare.run_log import find_scalars, read_runs, summary
    from nlseg.visualization.plots import plot_curves

    runs = read_runs(args.logs, args.legend)
    print(summary(runs, args.keys))
    out = args.out or find_scalars(Path(args.logs[0])).parent / "curves.png"
    plot_curves(runs, out, keys=args.keys, title=args.title, smooth=args.smooth)
    print(out)
