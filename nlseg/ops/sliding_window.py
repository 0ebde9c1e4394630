"""Overlapping windows that cover an image, and the mean of what they say."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nlseg.ops.logit_rows import RowSource
from nlseg.ops.resize import Size


class Window(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of an image, in px."""

    top: int
    bottom: int
    left: int
    right: int


def window_grid(size: Size, crop: Size, stride: Size) -> list[Window]:
    """Cover an image of the given size with windows, row by row.

    The last row and column of windows are moved back into the image, so that every window has the
    full size unless the image is smaller.

    Args:
        size: Height and width of the image.
        crop: Height and width of a window.
        stride: Steps between windows, down and to the right.
    """
    rows = _intervals(size[0], crop[0], stride[0])
    columns = _intervals(size[1], crop[1], stride[1])
    return [Window(*row, *column) for row in rows for column in columns]


def _intervals(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    number = -(-max(length - crop, 0) // stride) + 1
    ends = [min(i * stride + crop, length) for i in range(number)]
    return [(max(end - crop, 0), end) for end in ends]


class WindowMean:
    """Logits averaged over the windows that see a pixel, made row by row.

    Args:
        size: Height H and width W of the image.
        windows: Every window with its logits, of the window's size.
    """

    def __init__(self, size: Size, windows: Sequence[tuple[Window, RowSource]]) -> None:
        self.size = size
        self.windows = windows
        self.channels = windows[0][1].channels
        self.device = windows[0][1].device

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return rows [top, bottom), (bottom - top, W, K)."""
        width = self.size[1]
        total = torch.zeros((bottom - top, width, self.channels), device=self.device)
        count = torch.zeros((bottom - top, width, 1), device=self.device)
        for window, source in self.windows:
            first, last = max(top, window.top), min(bottom, window.bottom)
            if first < last:
                part = slice(first - top, last - top), slice(window.left, window.right)
                total[part] += source.rows(first - window.top, last - window.top)
                count[part] += 1
        return total.div_(count)
