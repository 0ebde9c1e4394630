"""Rename the weights of a NonLocal network of SSSegmentation, checked against a config.

    python tools/model_converters/sssegmentation.py nonlocalnet_resnet50os8_ade20k.pth out.pth \
        --config nonlocal_r50-d8_1xb16-130e_ade20k-512x512

Output stride, depth and classes come from the config; what does not fit it is refused.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nlseg.errors import UserError, ending_at_the_user


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", help="SSSegmentation's file, or its address")
    parser.add_argument("target", metavar="DST", type=Path, help="file to write: .pth")
    parser.add_argument("--config", required=True, help="file or name of the config it belongs to")
    parser.add_argument(
        "--cfg-options", "--set", dest="overrides", nargs="+", default=[], metavar="KEY=VALUE",
        help="override values of the config",
    )  # fmt: skip
    return parser.parse_args(arguments)


def convert(args: argparse.Namespace) -> None:
    import torch

    from nlseg.api import dataset_meta_of
    from nlseg.config import load_config
    from nlseg.config.class_weight import with_class_weights
    from nlseg.registry import MODELS
    from nlseg.run.checkpoint import plain, save
    from nlseg.weights.files import read_checkpoint
    from nlseg.weights.fitting import check_fit, weights_in
    from nlseg.weights.sssegmentation import check_name, rename

    if args.target.suffix != ".pth":
        raise UserError(f"{args.target}: the new file's name has to end in .pth")
    if args.target.exists() and args.target.resolve() == Path(args.source).resolve():
        raise UserError(f"{args.target}: the new file would replace the old one")
    cfg = load_config(args.config, args.overrides)
    stride = check_name(args.source, cfg.model)
    weights = rename(weights_in(read_checkpoint(args.source), args.source), args.source)
    with torch.device("meta"):
        model = MODELS.build({**with_class_weights(cfg.model.to_dict(), None), "pretrained": None})
    check_fit(model, weights, args.source)
    meta = {"dataset_meta": dataset_meta_of(cfg), "cfg": cfg.pretty_text, "output_stride": stride}
    args.target.parent.mkdir(parents=True, exist_ok=True)
    save(plain({"meta": meta, "state_dict": weights}), args.target)
    print(f"{args.target}: {len(weights)} weights, output stride {stride} from the config")


if __name__ == "__main__":
    with ending_at_the_user():
        sys.exit(convert(parse_args()))
