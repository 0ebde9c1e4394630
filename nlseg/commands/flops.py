"""Count parameters and floating point operations of a config's network for one image.

nlseg flops CONFIG --shape 1024 2048
"""

import argparse
from collections.abc import Sequence

from nlseg.commands.arguments import add_config_options, command_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "--shape", type=int, nargs="+", default=[1024, 2048], metavar="PX",
        help="height and width of the image, or one number for both (default: 1024 2048)",
    )  # fmt: skip
    add_config_options(parser, "such as num_classes=150")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.run import command

    command.run(lambda: count(args))


def count(args: argparse.Namespace) -> None:
    """Print operations and parameters."""
    from nlseg.config import load_config
    from nlseg.errors import UserError
    from nlseg.plan.complexity import measure_complexity

    if len(args.shape) > 2 or min(args.shape) < 1:
        raise UserError(f"--shape: {args.shape}; give one or two numbers above 0")
    height, width = args.shape * 2 if len(args.shape) == 1 else args.shape
    found = measure_complexity(
        load_config(args.config, args.overrides, allow_unknown=args.allow_unknown_keys),
        (height, width),
    )
    print(f"image            {height} x {width} px (height x width)")
    print(f"multiply-adds    {found.multiply_adds / 1e9:.2f} G (one each; mmsegmentation's FLOPs)")
    print(f"operations       {found.flops / 1e9:.2f} G (two for each multiply-add)")
    for name, flops in found.parts.items():
        print(f"  {name:<15}{flops / 1e9:.2f} G")
    print(f"parameters       {found.parameters / 1e6:.2f} M")
    print(f"  only training  {found.auxiliary / 1e6:.2f} M (auxiliary heads)")
