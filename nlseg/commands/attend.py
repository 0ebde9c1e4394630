"""Show where the network looks from a point of an image: its attention as a heat map.

    nlseg attend CONFIG CHECKPOINT IMAGE --at 120,340 --out attention.png

Writes image, labelled image and heat map side by side, and prints the ten regions that weigh most.
A global context block has one map for all points.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import add_config_options, command_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument("checkpoint", help="weights: a file, https address or published name")
    parser.add_argument("image", type=Path, help="image file")
    parser.add_argument(
        "--at", metavar="Y,X", help="row and column in px of the point that asks (default: middle)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("attention.png"), metavar="FILE",
        help="picture to write (attention.png)",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU where there is one)")
    add_config_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        attend(args)


def attend(args: argparse.Namespace) -> None:
    """Write the picture and print the regions."""
    from nlseg.api import inference_pipeline, init_model
    from nlseg.config import load_config
    from nlseg.predict.attention import look
    from nlseg.predict.labeller import Network, Preparer
    from nlseg.table import format_table
    from nlseg.visualization.painter import Painter
    from nlseg.visualization.pictures import side_by_side, write_picture

    cfg = load_config(args.config, args.overrides, allow_unknown=args.allow_unknown_keys)
    model = init_model(cfg, args.checkpoint, args.device)
    meta = model.dataset_meta
    painter = Painter(meta["classes"], meta.get("palette"))  # type: ignore[index, arg-type, operator, union-attr]
    looked = look(Network(model), Preparer(inference_pipeline(cfg)).read(args.image))
    height, width = looked.label.shape
    place = (height // 2, width // 2) if args.at is None else read_point(args.at)
    weights = looked.weights(place)
    heat = looked.draw(weights, None if looked.is_global else place)
    pictures = [looked.image, painter.draw(looked.image, looked.label), heat]
    write_picture(args.out, side_by_side(pictures, gap=8))
    asks = (
        "all points look alike" if looked.is_global else f"from row {place[0]}, column {place[1]}"
    )
    print(f"{args.image}: {asks}; {looked.contrast(weights)}; the regions that weigh most")
    rows = [
        [region.label, f"{100 * region.weight:.1f}", f"{100 * region.share:.1f}",
         "{}, {}".format(*region.centre)]
        for region in looked.regions(weights, painter)
    ]  # fmt: skip
    print(format_table(["class", "weight in %", "area in %", "centre (y, x)"], rows))
    print(args.out)


def read_point(text: str) -> tuple[int, int]:
    """Read a point such as ``120,340``.

    Raises:
        UserError: It is no pair of whole numbers.
    """
    from nlseg.errors import UserError

    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--at {text}: give row and column in px, such as 120,340") from None
    return row, column
