"""Turn an export of a labelling tool into images, indexed PNG label maps and a config.

    nlseg import instances.json data/mine --images photos
    nlseg import labelme_folder data/mine --unlabelled 255
    nlseg train data/mine/config.py

Reads COCO JSON (polygons, run lengths), LabelMe JSON, and CVAT's "Segmentation mask". Where objects
overlap COCO's smaller one lies on top, LabelMe's later one. Exit code 0: all rows were read; 1:
some were left out, they are listed with file and line and stand in unreadable.txt; 2: nothing was
written.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import plain_parser
from nlseg.errors import ending_at_the_user

_SHOWN = 20


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("source", type=Path, help="COCO's .json file, or the folder of an export")
    parser.add_argument("target", type=Path, help="new folder for the data set")
    parser.add_argument(
        "--unlabelled", type=int, choices=(0, 255), default=0,
        help="what nobody labelled: 0, a class called background (default), or 255, ignored",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE",
        help="names of LabelMe's classes in their order, one a line (default: sorted)",
    )  # fmt: skip
    parser.add_argument(
        "--val", type=float, default=0.2, metavar="SHARE",
        help="share of the images that validate, where the export has no splits (0.2)",
    )  # fmt: skip
    parser.add_argument(
        "--format",
        choices=("coco", "labelme", "cvat", "class-masks", "object-masks"),
        help="default: it is recognised; class-masks, object-masks: images, and masks of one class "
        "each, or of one object each, all of one class",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)
    with ending_at_the_user():
        return import_(args)
    return 2


def import_(args: argparse.Namespace) -> int:
    """Write the data set, and say what is in it and what was left out."""
    from nlseg.intake.rows import read_lines
    from nlseg.intake.writing import import_export

    names = None if args.classes is None else [name for _, name in read_lines(args.classes)]
    written = import_export(
        args.source,
        args.target,
        unlabelled=args.unlabelled,
        images=args.images,
        classes=names,
        validate=args.val,
        kind=args.format,
        progress=True,
    )
    counts = ", ".join(f"{len(found)} for {split}" for split, found in written.names.items())
    rest = "class 0" if args.unlabelled == 0 else "ignored (255)"
    print(f"{len(written.classes)} classes: {', '.join(written.classes)}")
    print(f"images: {counts}; what nobody labelled is {rest}")
    if written.unlisted:
        print(f"{len(written.unlisted)} images are in no list, such as {written.unlisted[0]}")
    for note in written.notes:
        print(f"note: {note}")
    for row in written.unreadable[:_SHOWN]:
        print(f"left out: {row}")
    if len(written.unreadable) > _SHOWN:
        print(f"... and {len(written.unreadable) - _SHOWN} more in {args.target}/unreadable.txt")
    config = str(args.target / "config.py")
    print(shlex.join(["nlseg", "check-data", config]))
    print(shlex.join(["nlseg", "train", config]))
    return 1 if written.unreadable else 0
