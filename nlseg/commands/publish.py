"""Write the folder of a model that others can use, and push it to the Hugging Face Hub if told so.

    nlseg publish work_dirs/run/best_mIoU_iter_40000.pth --out gcnet-street --receipt work_dirs/test
    nlseg publish weights.pth --config CONFIG --out gcnet-street --push OWNER/gcnet-street

The folder holds model.safetensors, NAME-HASH8.pth in OpenMMLab's layout, config.json, README.md (a
model card; with a score only where a receipt of nlseg test shows it) and a painted example. Nothing
is pushed without --push, and no path or name of this machine is written.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import add_overrides, plain_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="weight file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    parser.add_argument(
        "--config", help="config file or published name (default: the weights' own)"
    )
    parser.add_argument("--name", help="of the model (default: that of the folder)")
    parser.add_argument(
        "--license", default="other", metavar="ID", help="such as apache-2.0 (other)"
    )
    parser.add_argument("--receipt", metavar="FILE", help="receipt of the mIoU, of nlseg test")
    parser.add_argument("--example", metavar="IMAGE", help="image to paint (default: a drawn one)")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload to this repository of the Hub")
    add_overrides(parser, "with --config, such as data_root=/data")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import UserError, ending_at_the_user

    with ending_at_the_user():
        if args.overrides and not args.config:
            raise UserError("--cfg-options: go with --config")
        from nlseg.publish.folder import publish, push

        files = publish(
            args.checkpoint, args.out, config=args.config, overrides=args.overrides,
            name=args.name, licence=args.license, receipt=args.receipt, example=args.example,
            repository=args.push,
        )  # fmt: skip
        for file in files:
            print(file)
        if args.push:
            print(push(args.out, args.push))
    return 0
