"""Turn the label maps of the Semantic Boundaries Dataset into PNGs for PASCAL VOC 2012 Aug.

Writes VOC2012/SegmentationClassAug/*.png and, in VOC2012/ImageSets/Segmentation, aug.txt (images of
SBD that are neither in VOC's train nor in its val list) and trainaug.txt (these and VOC's train
list), both sorted. Needs scipy.
"""

import argparse
from functools import partial
from pathlib import Path

from conversion import convert_all, read_lines, save_lines, save_png, stop

NUM_TRAINAUG = 10582


def convert(out_dir: Path, mat: Path) -> None:
    """Save the class indices of one ``.mat`` file as a PNG."""
    import numpy as np
    from PIL import Image
    from scipy.io import loadmat

    label = loadmat(mat)["GTcls"]["Segmentation"][0, 0].astype(np.uint8)
    save_png(Image.fromarray(label), out_dir / f"{mat.stem}.png")


def check_package() -> None:
    """Stop where scipy is not installed."""
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        stop(f"scipy cannot be imported ({error}); pip install scipy (or 'nlseg[optional]')")


def write_lists(sbd: Path, lists: Path) -> None:
    """Write aug.txt and trainaug.txt."""
    train, val = set(read_lines(lists / "train.txt")), set(read_lines(lists / "val.txt"))
    augmented = set(read_lines(sbd / "train.txt")) | set(read_lines(sbd / "val.txt"))
    trainaug = (train | augmented) - val
    save_lines(sorted(trainaug), lists / "trainaug.txt")
    save_lines(sorted(trainaug - train), lists / "aug.txt")
    print(f"{lists}: trainaug.txt with {len(trainaug)} and aug.txt with {len(trainaug - train)}")
    if len(trainaug) != NUM_TRAINAUG:
        print(f"note: the published trainaug list has {NUM_TRAINAUG} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devkit_path", type=Path, help="VOCdevkit, the folder with VOC2012")
    parser.add_argument("aug_path", type=Path, help="VOCaug, the folder with dataset/cls/*.mat")
    parser.add_argument("-o", "--out_dir", "--out-dir", type=Path, help="folder of the PNGs")
    parser.add_argument("--nproc", type=int, default=1, help="number of processes")
    args = parser.parse_args()
    check_package()
    sbd, voc = args.aug_path / "dataset", args.devkit_path / "VOC2012"
    files = sorted((sbd / "cls").glob("*.mat"))
    if not files:
        stop(f"{sbd / 'cls'}: no *.mat in this folder")
    out_dir = args.out_dir or voc / "SegmentationClassAug"
    write_lists(sbd, voc / "ImageSets" / "Segmentation")
    convert_all(partial(convert, out_dir), files, args.nproc, "SBD to PNG")


if __name__ == "__main__":
    main()
