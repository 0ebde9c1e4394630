"""Print what registered classes take: types, ranges, defaults and meaning of each argument.

nlseg describe NLHead RandomCrop
"""

import argparse
from collections.abc import Sequence

from nlseg.commands.arguments import plain_parser
from nlseg.errors import ending_at_the_user


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("names", nargs="+", metavar="CLASS", help="registered name, such as NLHead")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)
    with ending_at_the_user():
        from nlseg.config.reference import describe

        print("\n\n".join(describe(name) for name in args.names))
