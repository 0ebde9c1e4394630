"""Write a network as a file that runs without nlseg, and prove that it says the same.

    nlseg export CONFIG CHECKPOINT --format onnx --out model.onnx
    nlseg export CONFIG CHECKPOINT --format onnx --argmax --with-preprocessing --out model.onnx
    nlseg export CONFIG CHECKPOINT --format pt2 --slide --out model.pt2
    nlseg predict model.onnx photos/ --out labelled

Batch, height and width of the file are free. The file is run in a process of its own and compared
with the network on five sizes. Exit code 0: they agree; 1: they do not, and the file is renamed
FILE.rejected; 2: it could not be written.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlseg.commands.arguments import add_config_options, command_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument("checkpoint", help="weights: a file, https address or published name")
    parser.add_argument("--format", choices=("onnx", "pt2"), required=True, help="kind of file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--whole", dest="mode", action="store_const", const="whole",
        help="whole images (default: what test_cfg says)",
    )  # fmt: skip
    modes.add_argument(
        "--slide", dest="mode", action="store_const", const="slide",
        help="overlapping windows of test_cfg's crop_size and stride, in the file",
    )  # fmt: skip
    parser.add_argument(
        "--with-preprocessing", action="store_true",
        help="take uint8 pictures (N, H, W, 3) instead of normalised floats (N, 3, H, W)",
    )  # fmt: skip
    parser.add_argument(
        "--argmax", action="store_true", help="give labels (N, H, W) instead of logits (N, K, H, W)"
    )
    parser.add_argument(
        "--half", action="store_true", help="float16 inside; input, output and scores stay float32"
    )
    parser.add_argument(
        "--max-size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"),
        help="size in px for which attention is cut into blocks; others run, too (1024 2048)",
    )  # fmt: skip
    parser.add_argument(
        "--parity-size", type=int, nargs=2, metavar=("H", "W"),
        help="largest of the five sizes compared, the one that is timed (257 385, or above a "
        "window)",
    )  # fmt: skip
    parser.add_argument("--opset", type=int, default=20, help="of ONNX (20)")
    parser.add_argument(
        "--int8", type=int, metavar="N",
        help="also write FILE.int8.onnx, calibrated on N images of the training set, and print the "
        "mIoU on the validation set before and after",
    )  # fmt: skip
    add_config_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        return export(args)


def export(args: argparse.Namespace) -> int:
    """Write and compare; returns the exit code."""
    import tempfile

    from nlseg.export.parity import silent_blocks, with_loud_blocks

    check_arguments(args)
    cfg, model, pipeline = built(args)
    silent = silent_blocks(model)
    if silent:
        print(
            f"{', '.join(silent)}: not trained yet, so a copy with random weights is compared too"
        )
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder) / f"trial.{args.format}"
            if not written_and_compared(args, with_loud_blocks(model), pipeline, trial):
                print(f"{args.out}: not written")
                return 1
    if not written_and_compared(args, model, pipeline, args.out):
        rejected = args.out.with_name(f"{args.out.name}.rejected")
        args.out.replace(rejected)
        print(f"rejected: the file does not say what the network says; it is now {rejected}")
        return 1
    print(args.out)
    if args.int8 is not None:
        write_int8(args, cfg)
    return 0


def write_int8(args: argparse.Namespace, cfg: Any) -> None:
    """Write the quantised copy, and print the mIoU of both files on the validation set."""
    from itertools import islice

    from nlseg.export.int8 import RawSamples, miou_of, quantize
    from nlseg.export.runtime import OnnxNetwork

    target = args.out.with_suffix(".int8.onnx")
    validation = RawSamples(cfg, "val_dataloader")
    calibration = [picture for picture, _ in islice(RawSamples(cfg, "train_dataloader"), args.int8)]
    quantize(args.out, target, calibration)
    before, after = (miou_of(OnnxNetwork(file), iter(validation)) for file in (args.out, target))
    share = target.stat().st_size / args.out.stat().st_size
    print(
        f"mIoU on the {len(validation.dataset)} validation images: float32 {before:.2f}, int8 "
        f"{after:.2f} ({after - before:+.2f}), calibrated on {len(calibration)} images; "
        f"{share:.2f} of the file size\n{target}"
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what means nothing.

    Raises:
        UserError: Names the option.
    """
    from nlseg.errors import UserError

    if args.out.suffix != f".{args.format}":
        raise UserError(f"--out {args.out}: with that --format it ends in .{args.format}")
    for name in ("max_size", "parity_size"):
        if min(getattr(args, name) or (96,)) < 96:
            raise UserError(f"--{name.replace('_', '-')}: give two numbers of px from 96 on")
    if not 18 <= args.opset <= 23:
        raise UserError(f"--opset {args.opset}: give a number from 18 to 23")
    if args.int8 is not None and (args.int8 < 1 or args.format != "onnx" or args.half):
        raise UserError("--int8: takes a number of images from 1 on, --format onnx, and no --half")


def built(args: argparse.Namespace) -> tuple[Any, Any, Sequence[Any]]:
    """Return the config, its network on the CPU, cut as the user chose, and its test pipeline."""
    import torch

    from nlseg.api import inference_pipeline, init_model
    from nlseg.config import load_config

    cfg = load_config(args.config, args.overrides, allow_unknown=args.allow_unknown_keys)
    model: Any = init_model(cfg, args.checkpoint, torch.device("cpu"))
    args.mode = args.mode or model.test_cfg.mode
    model.test_cfg.mode = args.mode
    return cfg, model, inference_pipeline(cfg).transforms


def written_and_compared(
    args: argparse.Namespace, model: Any, pipeline: Sequence[Any], file: Path
) -> bool:
    """Write one file, run it, print the comparison; returns whether it holds."""
    from nlseg.export.facts import facts_of
    from nlseg.export.network import Choices, ExportedNetwork
    from nlseg.export.parity import HALF, SINGLE, compare, shapes_for
    from nlseg.export.tracing import traceable
    from nlseg.export.writing import trace, write_onnx, write_pt2

    crop = model.test_cfg.crop_size if args.mode == "slide" else None
    choices = Choices(args.mode, args.with_preprocessing, args.argmax, args.half)
    largest = tuple(crop or args.max_size)
    copy, blocks = traceable(model, largest)
    program = trace(ExportedNetwork(copy, choices))
    facts = facts_of(model, pipeline, choices, opset=args.opset, largest=largest, blocks=blocks)
    for block in blocks:
        print(
            f"{block.name}: {block.mode}, {block.positions:,} positions at "
            f"{'x'.join(map(str, largest))} in N = {block.num_blocks} blocks of queries, "
            f"{block.score_mib:.0f} MiB of scores each"
        )
    (write_onnx if args.format == "onnx" else write_pt2)(program, facts, file)
    size = args.parity_size or (
        (257, 385) if crop is None else (crop[0] * 4 // 3 | 1, crop[1] * 4 // 3 | 1)
    )
    parity = compare(model, file, facts, shapes_for(size), HALF if args.half else SINGLE)
    print(parity.text())
    return parity.holds
