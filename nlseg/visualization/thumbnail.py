"""Small pictures of image and label files, whatever is in them."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from nlseg.visualization.overlay import Image, side_by_side
from nlseg.visualization.palette import make_palette
from nlseg.visualization.text import write_text

STRAY = (255, 0, 255)
"""Colour of values that are neither a class nor ignored."""
IGNORED = (60, 60, 60)
"""Colour of values that do not count."""


def thumbnail(path: str, height: int = 150) -> Image:
    """Show an image file in RGB, ``height`` px high; a box with words if it cannot be read."""
    picture = cv2.imread(path, cv2.IMREAD_COLOR)
    if picture is None:
        return _cannot_be_read(height)
    return _shrink(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)), height)


def label_thumbnail(
    path: str, colours: Mapping[int, Sequence[int]] | None = None, height: int = 150
) -> Image:
    """Show a label file ``height`` px high: every raw value in a colour of its own.

    Args:
        path: The file; one with colours is shown as it is.
        colours: RGB colours of raw values; others get made-up ones.
        height: Of the picture in px.
    """
    try:
        with PillowImage.open(path) as image:
            label = np.asarray(image)
    except (OSError, SyntaxError, ValueError):
        return _cannot_be_read(height)
    if label.ndim == 3:
        channels = label[..., :3] if label.shape[2] >= 3 else label[..., [0, 0, 0]]
        return _shrink(np.ascontiguousarray(channels.astype(np.uint8)), height, cv2.INTER_NEAREST)
    values = _shrink(label.astype(np.float32), height, cv2.INTER_NEAREST).astype(np.int64)
    painted = make_palette(256)[np.clip(values, 0, 255)]
    for value, colour in (colours or {}).items():
        painted[values == value] = colour
    return painted


def pair_thumbnail(left: Image, right: Image) -> Image:
    """Join two pictures of one height with a thin gap."""
    return side_by_side([left, right], gap=4)


def _shrink(
    picture: NDArray[np.generic], height: int, interpolation: int = cv2.INTER_AREA
) -> NDArray[np.uint8]:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation))


def _cannot_be_read(height: int) -> Image:
    picture = np.full((height, height * 4 // 3, 3), 225, np.uint8)
    write_text(picture, "cannot be read", (height // 2 - 8, height // 5), colour=(150, 0, 0))
    return picture
