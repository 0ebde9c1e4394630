"""Small folders of images and masks, as people have them."""

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.start.request import Request

SIZE = (24, 32)


def draw(
    seed: int, values: tuple[int, ...] = (0, 255)
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image (H, W, 3) and its mask (H, W) of blobs of the values."""
    rng = np.random.RandomState(seed)
    mask = np.full(SIZE, values[0], np.uint8)
    for value in values[1:]:
        y, x = rng.randint(0, SIZE[0] - 8), rng.randint(0, SIZE[1] - 8)
        mask[y : y + 8, x : x + 8] = value
    mask[:2, : len(values)] = values  # every value is there
    image = (mask[..., None] * 0.3 + rng.randint(0, 150, (*SIZE, 3))).clip(0, 255)
    return image.astype(np.uint8), mask


def write(path: Path, array: NDArray[np.generic]) -> Path:
    """Write an image file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def two_folders(root: Path, number: int = 4, values: tuple[int, ...] = (0, 255)) -> Path:
    """Write ``images/N.png`` and ``masks/N.png``."""
    for i in range(number):
        image, mask = draw(i, values)
        write(root / f"images/{i}.png", image)
        write(root / f"masks/{i}.png", mask)
    return root


def rewrite(path: Path, data: bytes) -> None:
    """Put other bytes into a file."""
    path.write_bytes(data)


def loop(path: Path) -> None:
    """Make a link that leads back to the folder above it."""
    path.symlink_to(path.parent, target_is_directory=True)


def fifo(path: Path) -> None:
    """Make a named pipe, which would wait for ever."""
    os.mkfifo(path)


def request(folder: Path, **more: object) -> Request:
    """Return a request for a minute, its config beside the folder."""
    return Request(folder, folder.parent / "my_data.py", 60.0, **more)  # type: ignore[arg-type]
