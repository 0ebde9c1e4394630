"""Tiny data sets in exactly the published layouts, drawn when a test asks for them."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nlseg.datasets.synthetic import write_street_scenes

HEIGHT, WIDTH = 64, 96


def picture(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image (H, W, 3) of coloured blocks and the blocks' numbers (H, W), 0..11."""
    rng = np.random.RandomState(seed)
    blocks = rng.randint(0, 12, (4, 6)).astype(np.uint8)
    label = np.kron(blocks, np.ones((HEIGHT // 4, WIDTH // 6), np.uint8))
    colours = np.random.RandomState(0).randint(0, 200, (12, 3))
    image = colours[label] + rng.randint(0, 50, (HEIGHT, WIDTH, 3))
    return image.astype(np.uint8), label


def cityscapes(root: Path) -> Path:
    """Draw ``leftImg8bit/{train,val}/CITY`` and ``gtFine/{train,val}/CITY``."""
    return write_street_scenes(root, num_train=2, num_val=1, size=(HEIGHT, 2 * HEIGHT))


def ade20k(root: Path) -> Path:
    """Draw ``images/{training,validation}`` and ``annotations/{training,validation}``."""
    for split, numbers in (("training", (1, 2)), ("validation", (3,))):
        for number in numbers:
            image, label = picture(number)
            stem = f"ADE_{'train' if split == 'training' else 'val'}_{number:08d}"
            write(root / f"images/{split}/{stem}.jpg", image)
            write(root / f"annotations/{split}/{stem}.png", label)
    return root


def pascal_voc(root: Path) -> Path:
    """Draw ``JPEGImages``, ``SegmentationClass`` (palette PNG), ``SegmentationClassAug``, lists."""
    lists = {"train": ["2007_000001"], "aug": ["2008_000002"], "val": ["2007_000003"]}
    for split, stems in lists.items():
        folder = "SegmentationClassAug" if split == "aug" else "SegmentationClass"
        for stem in stems:
            image, label = picture(int(stem[-1]))
            write(root / f"JPEGImages/{stem}.jpg", image)
            path = root / folder / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = Image.fromarray(label, mode="P")
            mask.putpalette(np.random.RandomState(1).randint(0, 256, 768).tolist())
            mask.save(path)
        names = root / f"ImageSets/Segmentation/{split}.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("\n".join(stems) + "\n")
    return root


def camvid(root: Path) -> Path:
    """Draw ``images/{train,val,test}`` and ``annotations/{train,val,test}``."""
    for number, split in enumerate(("train", "val", "test")):
        image, label = picture(number)
        write(root / f"images/{split}/{number}.jpg", image)
        write(root / f"annotations/{split}/{number}.png", label)
    return root


def write(path: Path, array: NDArray[np.uint8]) -> None:
    """Write an image file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array)
