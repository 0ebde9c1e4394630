"""Show samples of a config's data set: as they are stored, and as the network gets them.

    nlseg browse gcnet_r50-d8_4xb4-80k_ade20k-512x512

Writes one picture (samples.png), one page (samples.html) and, for a click on the page, the pictures
at full size below --out; needs no display. The last picture of a row is the tensor that the network
gets, padding included.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from nlseg.commands.arguments import add_config_options, command_parser, refuse_option


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument("--split", default="train", choices=["train", "val", "test"])
    parser.add_argument("--num", type=int, default=8, help="samples to show (default: 8)")
    parser.add_argument(
        "--draws", type=int, default=3, help="augmentations of each training sample (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    parser.add_argument(
        "--out", "--output-dir", help="folder (default: work_dirs/browse/NAME of the config)"
    )
    parser.add_argument(
        "--not-show", action="store_true", help="as always: there is no window, only files"
    )
    refuse_option(parser, "--show-interval", "no window is opened, so nothing waits; leave it out")
    add_config_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.run import command

    command.run(lambda: browse(args))


def browse(args: argparse.Namespace) -> None:
    """Draw the samples into a picture and a page."""
    from pathlib import Path

    from tqdm import tqdm

    from nlseg.config import load_config
    from nlseg.doctor.browsing import Browser
    from nlseg.visualization.pages import browse_page
    from nlseg.visualization.pictures import contact_sheet, write_picture

    folder = Path(args.out or Path("work_dirs/browse") / Path(args.config).stem)
    browser = Browser(
        load_config(args.config, args.overrides, allow_unknown=args.allow_unknown_keys),
        args.split,
        args.seed,
        full_size=folder / "full",
    )
    rows = list(tqdm(browser.rows(args.num, args.draws), total=args.num, disable=None))
    title = f"{Path(args.config).stem}, {args.split}"
    legend: dict[str, Any] = {"classes": browser.classes, "palette": browser.palette}
    write_picture(folder / "samples.png", contact_sheet(rows, title=title, **legend))
    subtitle = f"{len(browser.dataset)} images, seed {args.seed}"
    page = browse_page(rows, title=title, subtitle=subtitle, **legend)
    (folder / "samples.html").write_text(page, encoding="utf-8")
    print(f"{folder / 'samples.png'}\n{folder / 'samples.html'}")
