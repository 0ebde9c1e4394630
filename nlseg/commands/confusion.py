"""Draw which classes are taken for which, and write the counts as a table.

    nlseg confusion CONFIG PREDICTIONS OUT

PREDICTIONS is a folder that tools/test.py --out wrote, the per_class.json that it left
beside its log, or a checkpoint, which is tested then. OUT gets confusion.png and confusion.csv.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlseg.commands.arguments import add_config_options, command_parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument("predictions", help="folder of predictions, JSON of scores, or checkpoint")
    parser.add_argument("save_dir", help="folder for the picture and the table")
    parser.add_argument("--title", help="written on top (default: the config's name)")
    add_config_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.run import command

    command.run(lambda: draw(args))


def draw(args: argparse.Namespace) -> None:
    """Write the picture and the table."""
    from nlseg.compare.confusion_report import write_confusion_csv
    from nlseg.config import load_config
    from nlseg.registry import DATASETS
    from nlseg.visualization.pictures import write_picture
    from nlseg.visualization.plots import plot_confusion

    config = load_config(args.config, args.overrides, allow_unknown=args.allow_unknown_keys)
    settings = {**config.test_dataloader.dataset, "lazy_init": True, "pipeline": []}
    classes = DATASETS.build(settings).metainfo["classes"]
    counts = count(args, config)
    title = Path(args.config).stem if args.title is None else args.title
    folder = Path(args.save_dir)
    write_picture(folder / "confusion.png", plot_confusion(counts, classes, title=title))
    write_confusion_csv(folder / "confusion.csv", counts, classes)
    print(f"{folder / 'confusion.png'}\n{folder / 'confusion.csv'}")


def count(args: argparse.Namespace, config: Any) -> Any:
    """Return the counts (K, K), rows are labels, from wherever they are."""
    from tqdm import tqdm

    from nlseg.compare.confusion_report import count_folder, counts_of_test, read_kept_counts

    source = Path(args.predictions)
    if source.is_dir():
        return count_folder(config, source, progress=functools.partial(tqdm, disable=None))
    if source.suffix == ".json":
        return read_kept_counts(source)
    from nlseg.run.command import evaluation_config
    from nlseg.run.runner import Runner

    testing = evaluation_config(
        args.config,
        args.predictions,
        overrides=args.overrides,
        allow_unknown=args.allow_unknown_keys,
    )
    return counts_of_test(Runner.build(testing))
