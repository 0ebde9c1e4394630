"""Label maps as pictures: painted, laid over the image, with names and with a legend."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.visualization.palette import Colour, text_colour
from nlseg.visualization.text import text_size, write_text

Image = NDArray[np.uint8]
"""RGB picture (H, W, 3)."""
Label = NDArray[np.integer]
"""Label map (H, W)."""


def paint(label: Label, palette: Image, other: Colour = (0, 0, 0)) -> Image:
    """Give every pixel the colour of its class.

    Args:
        label: Classes (H, W).
        palette: RGB colours (K, 3).
        other: Colour of values outside 0..K-1, such as the ignore index.
    """
    table = np.empty((len(palette) + 1, 3), np.uint8)
    table[:-1], table[-1] = palette, other
    inside = (label >= 0) & (label < len(palette))
    return np.asarray(table[np.where(inside, label, len(palette))])


def overlay(image: Image, label: Label, palette: Image, alpha: float = 0.8) -> Image:
    """Blend ``image * (1 - alpha) + colour * alpha``; ignored pixels are blended with black.

    Args:
        image: RGB picture (H, W, 3).
        label: Classes (H, W).
        palette: RGB colours (K, 3).
        alpha: Weight of the colours in [0, 1].

    Raises:
        ValueError: If image and label differ in size.
    """
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"overlay: the image is {image.shape[:2]}, the label map {label.shape} (height, width)"
        )
    return np.asarray(cv2.addWeighted(image, 1 - alpha, paint(label, palette), alpha, 0), np.uint8)


def fit_longest(image: Image, longest: int) -> Image:
    """Scale a picture (H, W, 3) so that its longer side has ``longest`` px."""
    scale = longest / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)


def write_class_names(
    image: Image,
    label: Label,
    classes: Sequence[str],
    palette: Image,
    size: int | None = None,
) -> None:
    """Write the name of every class on its largest region, in place.

    Args:
        image: RGB picture (H, W, 3).
        label: Classes (H, W).
        classes: Names of the K classes.
        palette: RGB colours (K, 3), the background of the names.
        size: Height of the letters in px; None for a 60th of the longer side, 10 to 28.
    """
    shrink = max(1, max(label.shape) // 256)
    small = np.ascontiguousarray(label[::shrink, ::shrink])
    size = size or max(10, min(28, max(label.shape) // 60))
    for i in np.unique(small):
        if not 0 <= i < len(classes):
            continue
        row, column = _middle_of_largest_region(small == i)
        height, width = text_size(classes[i], size)
        top_left = (row * shrink - height // 2, column * shrink - width // 2)
        red, green, blue = (int(value) for value in palette[i])
        write_text(
            image,
            classes[i],
            top_left,
            size=size,
            colour=text_colour(palette[i]),
            background=(red, green, blue),
        )


def _middle_of_largest_region(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return row and column of the pixel farthest from the border of the largest region."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    region = np.pad((regions == largest).astype(np.uint8), 1)
    depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(row), int(column)


def side_by_side(pictures: Sequence[Image], gap: int = 0) -> Image:
    """Join pictures of one height from left to right, ``gap`` white px apart."""
    if gap == 0:
        return np.concatenate(pictures, axis=1)
    white = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, white)]
    return np.concatenate(parts[:-1], axis=1)


def legend(classes: Sequence[str], palette: Image, *, width: int = 800, size: int = 14) -> Image:
    """Draw a box and the name of every class, in as many columns as fit.

    Args:
        classes: Names of the K classes.
        palette: RGB colours (K, 3).
        width: Of the picture in px.
        size: Height of the font in px.

    Returns:
        RGB picture (H, width, 3), white behind.
    """
    row = size * 2
    column = min(width, max((text_size(name, size)[1] for name in classes), default=0) + 3 * size)
    columns = max(1, width // max(1, column))
    rows = -(-len(classes) // columns)
    canvas = np.full((max(1, rows) * row + size // 2, width, 3), 255, np.uint8)
    for i, name in enumerate(classes):
        top, left = (i % rows) * row + size // 2, (i // rows) * column + size // 2
        canvas[top : top + size + 2, left : left + size + 2] = palette[i]
        write_text(canvas, name, (top, left + size + size // 2 + 2), size=size)
    return canvas
