"""Open a page to try a network: upload an image, click a point, see where the network looks.

    nlseg demo CONFIG CHECKPOINT

Listens on 127.0.0.1 only, unless --host says otherwise. Needs Gradio: pip install 'nlseg[demo]'.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import add_config_options, command_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument("checkpoint", help="weights: a file, https address or published name")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    parser.add_argument("--examples", type=Path, metavar="DIR", help="folder of images to offer")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU where there is one)")
    add_config_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        show(args)


def show(args: argparse.Namespace) -> None:
    """Build the network and serve the page."""
    import importlib.util

    from nlseg.errors import UserError

    if importlib.util.find_spec("gradio") is None:
        raise UserError("nlseg demo needs Gradio: pip install 'nlseg[demo]'")

    from nlseg.api import inference_pipeline, init_model
    from nlseg.config import load_config
    from nlseg.demo import Demo, build_page, serve
    from nlseg.predict.labeller import Network, Preparer
    from nlseg.predict.sources import find_sources
    from nlseg.visualization.painter import Painter

    cfg = load_config(args.config, args.overrides, allow_unknown=args.allow_unknown_keys)
    model = init_model(cfg, args.checkpoint, args.device)
    meta = model.dataset_meta
    painter = Painter(meta["classes"], meta.get("palette"))  # type: ignore[index, arg-type, operator, union-attr]
    network = Network(model, probabilities=True)
    demo = Demo(network, Preparer(inference_pipeline(cfg)), painter)
    examples: list[str] = []
    if args.examples is not None:
        found = find_sources([str(args.examples)])
        examples = [str(source.path) for source in found if source.kind == "image"][:8]
    serve(build_page(demo, f"nlseg: {Path(args.config).stem}", examples), args.host, args.port)
