"""Say what a training will need, without training: ``nlseg train CONFIG --dry-run``.

Builds everything, takes one step, and prints parameters, operations, memory and the time that the
run will need.
"""

import argparse
from collections.abc import Sequence

from nlseg.commands import train


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments, those of ``nlseg train``."""
    parser = train.build_parser()
    parser.description = __doc__
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)
    args.dry_run = True

    from nlseg.run import command

    command.run(lambda: train.train(args))
