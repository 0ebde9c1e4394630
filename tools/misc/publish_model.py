"""Write a checkpoint without the state of its training; the new name ends in a hash.

python tools/misc/publish_model.py IN_FILE OUT_FILE
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import plain_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("in_file", type=Path, help="checkpoint of a training")
    parser.add_argument("out_file", type=Path, help="name of the copy, before the hash is put in")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import ending_at_the_user
    from nlseg.run.keeper import publish

    with ending_at_the_user():
        args.out_file.parent.mkdir(parents=True, exist_ok=True)
        print(publish(args.in_file, ("meta", "state_dict"), args.out_file))


if __name__ == "__main__":
    main()
