"""Many small pictures on one: rows of samples, captions, a title and a legend."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from nlseg.visualization.pictures import Image, legend, text_size, write_text

_GAP = 10


class Cell(NamedTuple):
    """An RGB picture (H, W, 3) of any size and what to write below it."""

    picture: Image
    caption: str = ""


def contact_sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    classes: Sequence[str] = (),
    palette: Image | None = None,
    cell_size: tuple[int, int] | None = None,
) -> Image:
    """Lay pictures out in a grid.

    Args:
        rows: Cells from top to bottom, from left to right; rows may differ in length.
        title: Written on top.
        classes: Names for the legend at the bottom.
        palette: RGB colours (K, 3) of the classes.
        cell_size: Height and width in px that every picture is fitted into; None for 180 px and
            the shape of the first picture.

    Returns:
        RGB picture (H, W, 3).
    """
    cell_size = cell_size or _cell_size(rows)
    width = cell_size[1]
    columns = max((len(row) for row in rows), default=1)
    sheet_width = columns * (width + _GAP) + _GAP
    parts = [_title(title, sheet_width)] if title else []
    parts += [_row(row, columns, cell_size) for row in rows]
    if classes and palette is not None:
        parts.append(legend(classes, palette, width=sheet_width, size=13))
    parts.append(np.full((_GAP, sheet_width, 3), 255, np.uint8))
    return np.concatenate(parts)


def _cell_size(rows: Sequence[Sequence[Cell]], height: int = 180) -> tuple[int, int]:
    """Give the cells the first picture's shape, unless that is very flat or very tall."""
    shape = rows[0][0].picture.shape if rows and rows[0] else (9, 16)
    return height, round(height * min(2.2, max(0.75, shape[1] / shape[0])))


def _title(title: str, width: int) -> Image:
    canvas = np.full((40, width, 3), 255, np.uint8)
    write_text(canvas, shorten(title, width - 2 * _GAP, 18), (_GAP, _GAP), size=18)
    return canvas


def _row(row: Sequence[Cell], columns: int, cell_size: tuple[int, int]) -> Image:
    height, width = cell_size
    canvas = np.full((height + 22 + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for i, cell in enumerate(row):
        left = _GAP + i * (width + _GAP)
        canvas[:height, left : left + width] = fit(cell.picture, cell_size)
        caption = shorten(cell.caption, width, 12)
        write_text(canvas, caption, (height + 3, left), size=12, colour=(90, 90, 90))
    return canvas


def fit(picture: Image, size: tuple[int, int]) -> Image:
    """Scale a picture to fit into a box (height, width), grey beside it."""
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(picture, (width, height), interpolation=way)
    box = np.full((*size, 3), 238, np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    box[top : top + height, left : left + width] = small
    return box


def shorten(text: str, width: int, size: int) -> str:
    """Cut the front of a text off so that it is at most ``width`` px wide."""
    if text_size(text, size)[1] <= width:
        return text
    while text and text_size("..." + text, size)[1] > width:
        text = text[1:]
    return "..." + text
