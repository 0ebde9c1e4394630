"""Turn Cityscapes' polygons into label maps of train ids, beside the polygons.

Needs the official package: pip install cityscapesscripts
"""

import argparse
from pathlib import Path

from conversion import convert_all, save_lines, save_png, stop

_POLYGONS = "_polygons.json"
_LABELS = "_labelTrainIds.png"


def convert(polygons: Path) -> None:
    """Draw the polygons of one frame as train ids."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    annotation = Annotation()
    annotation.fromJsonFile(str(polygons))
    label = createLabelImage(annotation, "trainIds")
    save_png(label, polygons.with_name(polygons.name.replace(_POLYGONS, _LABELS)))


def check_package() -> None:
    """Stop where the official package is not installed."""
    try:
        import cityscapesscripts.preparation.json2labelImg  # noqa: F401
    except ImportError as error:
        stop(
            f"cityscapesscripts cannot be imported ({error}); pip install cityscapesscripts "
            "(or 'nlseg[optional]')"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cityscapes_path", type=Path, help="folder with leftImg8bit and gtFine")
    parser.add_argument("--gt-dir", default="gtFine", help="folder of the polygons in it")
    parser.add_argument(
        "-o", "--out-dir", type=Path, help="folder for train.txt, val.txt, test.txt"
    )
    parser.add_argument("--nproc", type=int, default=1, help="number of processes")
    args = parser.parse_args()
    check_package()
    ground_truth = args.cityscapes_path / args.gt_dir
    files = sorted(ground_truth.rglob(f"*{_POLYGONS}"))
    if not files:
        stop(f"{ground_truth}: no *{_POLYGONS} below this folder")
    convert_all(convert, files, args.nproc, "polygons to train ids")
    for split in ("train", "val", "test"):
        folder = ground_truth / split
        names = [file.relative_to(folder) for file in files if folder in file.parents]
        suffix = f"_{args.gt_dir}{_POLYGONS}"
        stems = [name.as_posix().removesuffix(suffix) for name in names]
        save_lines(stems, (args.out_dir or args.cityscapes_path) / f"{split}.txt")


if __name__ == "__main__":
    main()
