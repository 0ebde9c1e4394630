"""Print a resolved config with the file and line that wrote each value."""

import argparse
import sys
from collections.abc import Sequence

from nlseg.commands.arguments import add_overrides, command_parser
from nlseg.errors import ending_at_the_user


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    add_overrides(parser, "as tools/train.py takes them")
    parser.add_argument(
        "--diff", metavar="OTHER", help="print what differs from another config file, or from the "
        "config that a checkpoint was trained with: - theirs, + this",
    )  # fmt: skip
    parser.add_argument("--tree", action="store_true", help="print the files it inherits from")
    parser.add_argument("--plain", action="store_true", help="leave the origins out")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)
    with ending_at_the_user():
        show(args)


def show(args: argparse.Namespace) -> None:
    """Print the config, its files or what differs from another one."""
    from nlseg.config.check import check_config
    from nlseg.config.load import load_config, trace_of
    from nlseg.config.show import as_python, difference, read_any

    config = load_config(args.config, args.overrides, check=False)
    if args.tree:
        print("\n".join(trace_of(config).files.lines()))
    elif args.diff:
        print("\n".join(difference(read_any(args.diff), config)) or "the configs are equal")
    else:
        print(as_python(config, origins=not args.plain), end="")
        for problem in check_config(config, trace_of(config)):
            print(f"warning: {problem}", file=sys.stderr)
