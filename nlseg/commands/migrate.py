"""Rewrite a config of mmsegmentation 0.x into the present form, one file without bases."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import plain_parser
from nlseg.errors import UserError, ending_at_the_user


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("config", type=Path, help="config file of 0.x")
    parser.add_argument("--out-dir", type=Path, default=Path(), help="folder for the new file")
    parser.add_argument("--gpus", type=int, default=4, help="GPUs it is written for, for its name")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)
    with ending_at_the_user():
        migrate(args)


def migrate(args: argparse.Namespace) -> None:
    """Write the config in its present form, and print what nothing reads any more."""
    from mmengine.config import Config

    from nlseg.config.check import check_config
    from nlseg.config.load import load_config, trace_of
    from nlseg.config.text import python_text
    from nlseg.migrate import migrate_config, migrate_name

    old = load_config(args.config, check=False).to_dict()
    config = Config(migrate_config(old, str(args.config)))
    batch_size = config.train_dataloader.batch_size
    name = migrate_name(args.config.stem, gpus=args.gpus, batch_size=batch_size)
    target = args.out_dir / f"{name}.py"
    if target.resolve() == args.config.resolve():
        raise UserError(f"{target}: the new file would replace the old one; give --out-dir")
    args.out_dir.mkdir(parents=True, exist_ok=True)
    target.write_text(python_text(config.to_dict()), encoding="utf-8")
    print(target)
    if config.get("custom"):
        print(f"kept under 'custom', nothing reads it: {', '.join(config.custom)}", file=sys.stderr)
    for problem in check_config(config, trace_of(config)):
        print(f"warning: {problem}", file=sys.stderr)
