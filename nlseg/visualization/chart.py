"""Line charts, drawn without a plotting library."""

from collections.abc import Sequence
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.visualization.overlay import Image
from nlseg.visualization.palette import Colour
from nlseg.visualization.text import text_size, write_text

COLOURS: tuple[Colour, ...] = (
    (31, 99, 184), (214, 94, 13), (34, 139, 69), (176, 36, 63), (117, 81, 168), (120, 82, 62),
    (0, 140, 149), (200, 60, 150),
)  # fmt: skip
_INK, _GRID = (40, 44, 52), (226, 229, 234)
_FINER = 2  # lines are drawn at twice the size and shrunk, which smooths them
_LEGEND_ROW = 18
_MARGIN = (46, 22, 58, 78)  # top, right, bottom, left in px


class Series(NamedTuple):
    """A line: its name, and its points in order. Points that are no number leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class _Frame(NamedTuple):
    """The rectangle in px that a range of values is drawn in."""

    left: int
    top: int
    right: int
    bottom: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def column(self, x: float) -> float:
        low, high = self.x_range
        return self.left + (x - low) / (high - low) * (self.right - self.left)

    def row(self, y: float) -> float:
        low, high = self.y_range
        return self.bottom - (y - low) / (high - low) * (self.bottom - self.top)


def line_chart(
    series: Sequence[Series],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    x_extent: tuple[float, float] | None = None,
    size: tuple[int, int] = (420, 760),
) -> Image:
    """Draw lines with axes, a grid and a legend.

    Args:
        series: The lines; those with few points get dots, too.
        title: Written on top.
        x_label: Written below.
        y_label: Written above the vertical axis.
        x_extent: Smallest and largest x to show; None for those of the lines.
        size: Height and width in px; a legend of several lines makes it higher.

    Returns:
        RGB picture (H, W, 3).
    """
    top, right, bottom, left = _MARGIN
    legend = _legend_rows(series, size[1] - left - right)
    extra = max(0, len(legend) - 1) * _LEGEND_ROW
    height, width, top = size[0] + extra, size[1], top + extra
    x_ticks = ticks(*(x_extent or extent([line.x for line in series])))
    y_ticks = ticks(*extent([line.y for line in series]))
    frame = _Frame(left, top, width - right, height - bottom, *map(_ends, (x_ticks, y_ticks)))
    lines = np.full((height * _FINER, width * _FINER, 3), 255, np.uint8)
    _draw_grid(lines, frame, x_ticks, y_ticks)
    for i, line in enumerate(series):
        _draw_line(lines, frame, line, COLOURS[i % len(COLOURS)])
    picture = np.asarray(cv2.resize(lines, (width, height), interpolation=cv2.INTER_AREA))
    _write_ticks(picture, frame, x_ticks, y_ticks)
    write_text(picture, title, (8, left), size=16, colour=_INK)
    write_text(picture, y_label, (top - 26, 8), size=12, colour=_INK)
    middle = (frame.left + frame.right - text_size(x_label, 13)[1]) // 2
    write_text(picture, x_label, (height - 26, middle), size=13, colour=_INK)
    _write_legend(picture, frame, legend)
    return picture


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round numbers, evenly spaced, that enclose a range.

    Args:
        low: Smallest value to enclose.
        high: Largest value to enclose.
        count: About how many numbers to return.
    """
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / max(1, count - 1)
    magnitude = 10 ** floor(log10(rough))
    step = min((m * magnitude for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def extent(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the smallest and largest number, 0 and 1 where there is none."""
    numbers = [float(v) for part in values for v in part if isfinite(v)]
    return (min(numbers), max(numbers)) if numbers else (0.0, 1.0)


def _ends(values: list[float]) -> tuple[float, float]:
    return values[0], values[-1]


def _draw_grid(
    canvas: NDArray[np.uint8], frame: _Frame, x_ticks: list[float], y_ticks: list[float]
) -> None:
    for y in y_ticks:
        row = round(frame.row(y) * _FINER)
        start, end = (frame.left * _FINER, row), (frame.right * _FINER, row)
        cv2.line(canvas, start, end, _GRID, _FINER)
    for x in x_ticks:
        column = round(frame.column(x) * _FINER)
        start, end = (column, frame.top * _FINER), (column, frame.bottom * _FINER)
        cv2.line(canvas, start, end, _GRID, _FINER)


def _draw_line(canvas: NDArray[np.uint8], frame: _Frame, line: Series, colour: Colour) -> None:
    points: list[tuple[int, int]] = []
    few = len(line.x) <= 60
    for x, y in [*zip(line.x, line.y, strict=True), (0.0, float("nan"))]:
        if isfinite(x) and isfinite(y):
            points.append((round(frame.column(x) * _FINER), round(frame.row(y) * _FINER)))
            if few:
                cv2.circle(canvas, points[-1], 3 * _FINER, colour, -1, cv2.LINE_AA)
            continue
        if len(points) > 1:
            path = np.array(points, np.int32)[:, None]
            cv2.polylines(canvas, [path], False, colour, 2 * _FINER, cv2.LINE_AA)
        points = []


def _write_ticks(picture: Image, frame: _Frame, x_ticks: list[float], y_ticks: list[float]) -> None:
    for y in y_ticks:
        text = f"{y:g}"
        height, width = text_size(text, 12)
        top_left = (round(frame.row(y)) - height // 2 - 1, frame.left - width - 8)
        write_text(picture, text, top_left, size=12, colour=_INK)
    for x in x_ticks:
        text = f"{x:,.10g}" if x >= 1000 else f"{x:g}"
        middle = round(frame.column(x)) - text_size(text, 12)[1] // 2
        write_text(picture, text, (frame.bottom + 8, middle), size=12, colour=_INK)


Entry = tuple[str, Colour, int]
"""Name of a line, its colour, and the width of its entry in px."""


def _legend_rows(series: Sequence[Series], width: int) -> list[list[Entry]]:
    """Lay out the names of the lines in as few rows as fit."""
    rows: list[list[Entry]] = []
    for i, line in enumerate(series):
        entry = (line.name, COLOURS[i % len(COLOURS)], text_size(line.name, 12)[1] + 30)
        if not line.name:
            continue
        if not rows or sum(e[2] for e in rows[-1]) + entry[2] > width:
            rows.append([])
        rows[-1].append(entry)
    return rows


def _write_legend(picture: Image, frame: _Frame, rows: Sequence[Sequence[Entry]]) -> None:
    """Write the names right above the frame, beside lines in their colours."""
    for number, row in enumerate(rows):
        top = frame.top - 18 - (len(rows) - 1 - number) * _LEGEND_ROW
        left = frame.right - sum(width for _, _, width in row)
        for name, colour, width in row:
            cv2.line(picture, (left + 8, top + 8), (left + 22, top + 8), colour, 3, cv2.LINE_AA)
            write_text(picture, name, (top, left + 27), size=12, colour=_INK)
            left += width
