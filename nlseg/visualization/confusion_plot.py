"""A confusion matrix as a picture and as a table."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nlseg.visualization.overlay import Image
from nlseg.visualization.palette import text_colour
from nlseg.visualization.text import text_size, write_text

_SUBTITLE = "true \\ predicted, % of the true class"
_HEADING = 46
_LOW, _HIGH = np.array([247, 251, 255.0]), np.array([8, 48, 107.0])


def plot_confusion(
    counts: NDArray[np.int64], classes: Sequence[str], *, title: str = "", cell: int | None = None
) -> Image:
    """Draw what share of every true class is predicted as which class.

    Args:
        counts: Pixels (K, K), rows true, columns predicted.
        classes: Names of the classes.
        title: Written on top.
        cell: Size of a field in px; None for one that fits numbers, or a smaller one with many
            classes.

    Returns:
        RGB picture (H, W, 3). Percentages are written into fields of at least 30 px.
    """
    num_classes = len(classes)
    cell = cell or (46 if num_classes <= 20 else 34 if num_classes <= 30 else 8)
    font = 13 if cell >= 30 else 8
    shares = row_shares(counts)
    longest = max(text_size(name, font)[1] for name in classes)
    top, left = _HEADING + longest + 16, longest + 26
    side = num_classes * cell + 20
    heading = max(text_size(title, 16)[1], text_size(_SUBTITLE, 12)[1]) + 20
    picture = np.full((top + side, max(left + side, heading), 3), 255, np.uint8)
    write_text(picture, title, (6, 10), size=16)
    write_text(picture, _SUBTITLE, (28, 10), size=12)
    for i in range(num_classes):
        for j in range(num_classes):
            _draw_field(picture, top + i * cell, left + j * cell, cell, float(shares[i, j]))
    _write_names(picture, classes, (top, left), cell, font)
    return picture


def row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide every row of counts (K, K) by its sum; rows without pixels become NaN."""
    total = counts.sum(1, keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / np.where(total > 0, total, np.nan))


def _draw_field(picture: Image, top: int, left: int, cell: int, share: float) -> None:
    field = picture[top : top + cell - 1, left : left + cell - 1]
    if np.isnan(share):
        field[:] = 238
        return
    field[:] = (_LOW + (_HIGH - _LOW) * share**0.6).astype(np.uint8)
    if cell < 30 or share < 0.0005:
        return
    text = f"{share * 100:.0f}" if share >= 0.1 else f"{share * 100:.1f}"
    height, width = text_size(text, 12)
    place = (top + (cell - height) // 2 - 1, left + (cell - width) // 2)
    write_text(picture, text, place, size=12, colour=text_colour(field[0, 0]))


def _write_names(
    picture: Image, classes: Sequence[str], corner: tuple[int, int], cell: int, font: int
) -> None:
    """Write the true classes on the left, the predicted ones on top, turned."""
    top, left = corner
    step = max(1, -(-(font + 2) // cell))  # with small fields only every second or third fits
    for i in range(0, len(classes), step):
        height, width = text_size(classes[i], font)
        middle = i * cell + (cell - height) // 2
        write_text(picture, classes[i], (top + middle, left - width - 8), size=font)
        upright = np.full((height + 2, width + 2, 3), 255, np.uint8)
        write_text(upright, classes[i], (0, 0), size=font)
        turned = np.rot90(upright)
        bottom, start = top - 8, left + middle
        picture[bottom - turned.shape[0] : bottom, start : start + turned.shape[1]] = turned


def write_confusion_csv(file: Path, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Write counts (K, K) with names of rows and columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["true \\ predicted", *classes])
        writer.writerows([name, *map(int, row)] for name, row in zip(classes, counts, strict=True))
