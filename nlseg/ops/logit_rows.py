"""Full-size logits that are never held: sources that make a few rows at a time.

A source is made of smaller ones, in the order in which a prediction is made: the head's logits,
resized to the network's input, averaged over windows, cut out of their padding, turned back and
resized to the original image. Rows come channels last, (rows, W, K). Reading them all gives what
the same steps on whole maps give, to the last digit of float32; on CPUs, maps of more than a few
pixels and classes were seen to agree bit for bit.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nlseg.ops.resize import Size, axis_matrix

BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}


class RowSource(Protocol):
    """Logits or scores of one image, (K, H, W) if they were held."""

    size: Size
    channels: int
    device: torch.device

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return rows [top, bottom) as a new float32 tensor (bottom - top, W, K)."""


class Held:
    """Logits that are held.

    Args:
        logits: Logits (K, h, w).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.channels = logits.shape[0]
        self.size: Size = (logits.shape[1], logits.shape[2])
        self.device = logits.device

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return rows [top, bottom), (bottom - top, w, K)."""
        part = self.logits[:, top:bottom].permute(1, 2, 0)
        return part.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


class Resized:
    """Another source, resized bilinearly.

    Args:
        source: What is resized.
        size: Height H and width W of the result.
        align_corners: See ``nlseg.ops.resize.resize``.
    """

    def __init__(self, source: RowSource, size: Size, *, align_corners: bool) -> None:
        self.source = source
        self.channels = source.channels
        self.size = size
        self.device = source.device
        self.align_corners = align_corners
        axis = axis_matrix(source.size[0], size[0], align_corners, torch.device("cpu"))
        self._first, self._last = axis.first, axis.last
        self._weight_first = [axis.weight[i, k].item() for i, k in enumerate(axis.first)]
        self._weight_last = [axis.weight[i, k].item() for i, k in enumerate(axis.last)]
        self._wide: dict[int, Tensor] = {}

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return rows [top, bottom), (bottom - top, W, K)."""
        self._widen(self._first[top], self._last[bottom - 1] + 1)
        shape = (bottom - top, self.size[1], self.channels)
        out = torch.empty(shape, dtype=torch.float32, device=self.device)
        for i in range(top, bottom):
            first, last = self._first[i], self._last[i]
            row = out[i - top]
            if first == last:
                row.copy_(self._wide[first])
            else:
                # in this order interpolate() rounds on CPUs
                torch.mul(self._wide[last], self._weight_last[i], out=row)
                row.add_(self._wide[first], alpha=self._weight_first[i])
        return out

    def _widen(self, top: int, bottom: int) -> None:
        """Hold the source's rows [top, bottom) at the new width, and no others."""
        missing = [i for i in range(top, bottom) if i not in self._wide]
        if missing:
            rows = self.source.rows(missing[0], missing[-1] + 1)
            wide = F.interpolate(
                rows.unsqueeze(0).permute(0, 3, 1, 2),  # channels last
                (rows.shape[0], self.size[1]),
                mode="bilinear",
                align_corners=self.align_corners,
            )
            new = wide.permute(0, 2, 3, 1)[0]
            self._wide.update({missing[0] + i: new[i] for i in range(len(new))})
        self._wide = {i: row for i, row in self._wide.items() if top <= i < bottom}


class Restored:
    """Another source without its padding, and turned back.

    Args:
        source: What was padded and turned.
        padding: Left, right, top and bottom in px.
        flip: Whether rows, and whether columns, are in reverse order.
    """

    def __init__(
        self, source: RowSource, padding: tuple[int, int, int, int], flip: tuple[bool, bool]
    ) -> None:
        left, right, top, bottom = padding
        self.source = source
        self.channels = source.channels
        self.device = source.device
        self.size: Size = (source.size[0] - top - bottom, source.size[1] - left - right)
        self._top, self._left = top, left
        self._flip = flip

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return rows [top, bottom), (bottom - top, W, K)."""
        if self._flip[0]:
            top, bottom = self.size[0] - bottom, self.size[0] - top
        rows = self.source.rows(self._top + top, self._top + bottom)
        rows = rows[:, self._left : self._left + self.size[1]]
        axes = [axis for axis in (0, 1) if self._flip[axis]]
        return rows.flip(axes) if axes else rows


class Averaged:
    """The mean of several sources' class probabilities, all of one size.

    Args:
        sources: The sources.
    """

    def __init__(self, sources: Sequence[RowSource]) -> None:
        self.sources = sources
        self.channels = sources[0].channels
        self.size = sources[0].size
        self.device = sources[0].device

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return rows [top, bottom), (bottom - top, W, K)."""
        total = probabilities(self.sources[0].rows(top, bottom))
        for source in self.sources[1:]:
            total += probabilities(source.rows(top, bottom))
        return total.div_(len(self.sources))


def probabilities(rows: Tensor) -> Tensor:
    """Return the softmax over the classes of (..., K), or the sigmoid where K is 1."""
    return rows.sigmoid() if rows.shape[-1] == 1 else rows.softmax(dim=-1)


def label_map(source: RowSource, threshold: float | None = None) -> Tensor:
    """Return the class of every pixel (1, H, W), int64, and hold a few rows of scores only.

    Args:
        source: Logits, or any scores, of K classes; probabilities where K is 1.
        threshold: Probability above which a pixel is of class 1, where K is 1.
    """
    labels = torch.empty((1, *source.size), dtype=torch.int64, device=source.device)
    for top, bottom in blocks(source):
        rows = source.rows(top, bottom)
        if source.channels == 1:
            labels[0, top:bottom] = rows[..., 0] > threshold  # type: ignore[operator]
        else:
            labels[0, top:bottom] = rows.max(dim=2).indices
    return labels


def whole_map(source: RowSource) -> Tensor:
    """Return all logits of a source, (K, H, W)."""
    held = torch.empty((source.channels, *source.size), device=source.device)
    for top, bottom in blocks(source):
        held[:, top:bottom] = source.rows(top, bottom).permute(2, 0, 1)
    return held


def blocks(source: RowSource) -> Iterator[tuple[int, int]]:
    """Yield [top, bottom) of blocks of rows, small enough for the caches of the device."""
    row_bytes = source.size[1] * source.channels * 4
    step = max(BLOCK_BYTES.get(source.device.type, BLOCK_BYTES["cuda"]) // row_bytes, 1)
    for top in range(0, source.size[0], step):
        yield top, min(top + step, source.size[0])
