"""Label one image and draw the result, with mmsegmentation's arguments.

python demo/image_demo.py IMAGE CONFIG CHECKPOINT --out-file labelled.png
"""

import argparse
from collections.abc import Sequence

from nlseg.commands.arguments import plain_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("img", help="image file")
    parser.add_argument("config", help="config file, or the bare name of a published one")
    parser.add_argument("checkpoint", help="weights: a file, https address or published name")
    parser.add_argument("--out-file", help="picture to write; without it a window opens")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU where there is one)")
    parser.add_argument("--opacity", type=float, default=0.5, help="weight of the colours (0.5)")
    parser.add_argument("--with-labels", action="store_true", help="write the classes' names")
    parser.add_argument("--title", default="result", help="title of the window (result)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.api import inference_model, init_model, show_result_pyplot
    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        model = init_model(args.config, args.checkpoint, args.device)
        result = inference_model(model, args.img)
        show_result_pyplot(
            model, args.img, result, args.opacity, args.title, draw_gt=False,
            show=args.out_file is None, with_labels=args.with_labels, out_file=args.out_file,
        )  # fmt: skip


if __name__ == "__main__":
    main()
