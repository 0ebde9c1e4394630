"""A small drawn data set in the layout of Cityscapes, to try everything without a download.

Classes share their colours on purpose: grey is road, pavement, building or pole, and every vehicle
may have the colour of a house. What tells them apart is shape, texture and place.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray

from nlseg.datasets.catalogue import CityscapesDataset
from nlseg.datasets.street_scene import draw_scene
from nlseg.ops.confusion import confusion_matrix
from nlseg.structures import IGNORE_INDEX

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes' own label id of each of the 19 train ids."""

_EGO_VEHICLE_ID = 1
_CITIES = {"train": ("aachen", "bochum", "cologne"), "val": ("frankfurt", "munster")}

_COLOUR_BITS = (3, 4, 5)

ImageAndLabel = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def write_street_scenes(
    root: str | os.PathLike[str],
    *,
    num_train: int = 60,
    num_val: int = 20,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
) -> Path:
    """Draw scenes and write them as ``leftImg8bit`` and ``gtFine`` below a folder.

    The same arguments give the same files. Labels are written as train ids and as label ids.

    Args:
        root: Folder of the data set, made where it is not there.
        num_train: Number of training scenes.
        num_val: Number of validation scenes.
        size: Height and width in px.
        seed: Seed of the drawings.

    Returns:
        The folder.
    """
    root = Path(root)
    for split, count in (("train", num_train), ("val", num_val)):
        for number in range(count):
            offset = number if split == "train" else 1_000_000 + number
            scene = draw_scene(RandomState([seed, offset]), *size)
            _write(root, split, number, *scene)
    return root


def _write(
    root: Path, split: str, number: int, image: NDArray[np.uint8], label: NDArray[np.uint8]
) -> None:
    cities = _CITIES[split]
    city = cities[number % len(cities)]
    stem = f"{city}/{city}_{number // len(cities):06d}_000019"
    ids = np.full(256, _EGO_VEHICLE_ID, np.uint8)
    ids[: len(LABEL_IDS)] = LABEL_IDS
    files = {
        f"leftImg8bit/{split}/{stem}_leftImg8bit.png": image,
        f"gtFine/{split}/{stem}_gtFine_labelTrainIds.png": label,
        f"gtFine/{split}/{stem}_gtFine_labelIds.png": ids[label],
    }
    for name, array in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        cv2.imwrite(str(temporary), array)
        temporary.replace(path)


def read_pairs(root: str | os.PathLike[str], split: str) -> Iterator[ImageAndLabel]:
    """Yield the images (H, W, 3) in BGR and train ids (H, W) of a split."""
    dataset = CityscapesDataset(
        data_root=os.fspath(root),
        data_prefix={"img_path": f"leftImg8bit/{split}", "seg_map_path": f"gtFine/{split}"},
    )
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        yield (
            np.asarray(cv2.imread(info["img_path"], cv2.IMREAD_COLOR), np.uint8),
            np.asarray(cv2.imread(info["seg_map_path"], cv2.IMREAD_UNCHANGED), np.uint8),
        )


class ColourGuess:
    """The best guess that looks at a pixel's colour and at nothing else.

    Every colour, of ``2 ** bits`` levels a channel, gets the class that has it most often in the
    training images; colours never seen get the most frequent class. With 0 bits this is the
    constant guess.

    Args:
        pairs: Training images (H, W, 3) and label maps (H, W).
        num_classes: Number of classes.
        bits: Bits of each channel that count, 0..6.
    """

    def __init__(self, pairs: Sequence[ImageAndLabel], num_classes: int, bits: int = 4) -> None:
        self.bits = bits
        counts = np.zeros((1 << (3 * bits), num_classes), np.int64)
        for image, label in pairs:
            valid = label != IGNORE_INDEX
            joint = self._bins(image)[valid] * num_classes + label[valid]
            counts += np.bincount(joint, minlength=counts.size).reshape(counts.shape)
        self.constant = int(counts.sum(axis=0).argmax())
        self.table = np.where(counts.any(axis=1), counts.argmax(axis=1), self.constant)

    def _bins(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        levels = image.astype(np.int64) >> (8 - self.bits)
        return (levels[..., 0] << 2 * self.bits) | (levels[..., 1] << self.bits) | levels[..., 2]

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the guessed classes (H, W) of an image (H, W, 3)."""
        return self.table[self._bins(image)]


class PlaceGuess:
    """The best guess that looks at a pixel's place and at nothing else.

    Args:
        pairs: Training images and label maps (H, W), all of one size.
        num_classes: Number of classes.
    """

    def __init__(self, pairs: Sequence[ImageAndLabel], num_classes: int) -> None:
        labels = np.stack([label for _, label in pairs])
        counts = np.stack([(labels == c).sum(axis=0) for c in range(num_classes)])
        self.guess: NDArray[np.int64] = counts.argmax(axis=0)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the guessed classes (H, W), the same for every image."""
        return self.guess


def mean_iou(
    guess: Callable[[NDArray[np.uint8]], NDArray[np.int64]],
    pairs: Sequence[ImageAndLabel],
    num_classes: int,
) -> float:
    """Return the mean IoU in percent of guesses over the classes that occur."""
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for image, label in pairs:
        guessed, wanted = torch.from_numpy(guess(image)), torch.from_numpy(label)
        counts += confusion_matrix(guessed, wanted, num_classes, ignore_index=IGNORE_INDEX)
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    return 100 * float((counts.diag()[union > 0] / union[union > 0]).mean())


def guess_scores(root: str | os.PathLike[str]) -> dict[str, float]:
    """Measure what can be reached without looking at shapes: the bar for a trained network.

    Args:
        root: Folder of ``write_street_scenes``.

    Returns:
        Validation mIoU in percent of the best ``constant``, the best ``colour``-only guess over
        several bin widths, and the best ``place``-only guess.
    """
    train, val = (list(read_pairs(root, split)) for split in ("train", "val"))
    classes = len(LABEL_IDS)
    colour = (mean_iou(ColourGuess(train, classes, bits), val, classes) for bits in _COLOUR_BITS)
    return {
        "constant": mean_iou(ColourGuess(train, classes, 0), val, classes),
        "colour": max(colour),
        "place": mean_iou(PlaceGuess(train, classes), val, classes),
    }
