"""Look through the data sets of a config and say what is wrong with them and how to mend it.

    nlseg check-data nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024

Writes report.json and report.html, one page with pictures, below --out. Exits with 2 if something
was found with which training or scores would be wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import add_config_options, command_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "--stages", nargs="+", default=["train", "val", "test"], choices=["train", "val", "test"],
        help="which data sets to look at (default: all)",
    )  # fmt: skip
    parser.add_argument("--out", help="folder of the report (default: work_dirs/check_data/NAME)")
    parser.add_argument(
        "--nproc", type=int, default=0, help="processes that read files (default: one a core)"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="read every file again, even if it is unchanged"
    )
    add_config_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)
    # Not at the top: the processes that read files load this module, too, and need none of it.
    from nlseg.config import load_config
    from nlseg.doctor.examination import examine
    from nlseg.doctor.report import as_text, write_report
    from nlseg.errors import ending_at_the_user

    folder = Path(args.out or Path("work_dirs/check_data") / Path(args.config).stem)
    with ending_at_the_user():
        examination = examine(
            load_config(args.config, args.overrides, allow_unknown=args.allow_unknown_keys),
            stages=args.stages,
            num_processes=args.nproc,
            cache_file=None if args.no_cache else folder.parent / "facts.jsonl",
            progress=sys.stderr.isatty(),
        )
    print(as_text(examination))
    print("\n" + "\n".join(str(file) for file in write_report(examination, folder)))
    return 2 if examination.num_errors else 0
