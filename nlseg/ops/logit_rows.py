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

from nlseg.ops.resize import AxisTaps, Size, axis_matrix, axis_taps

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
        self._taps = axis_taps(source.size[0], size[0], align_corners, source.device)
        self._wide: Tensor | None = None
        self._wide_top = 0
        self._wide_has_graph = False

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return rows [top, bottom), (bottom - top, W, K)."""
        wide = self._widen(self._first[top], self._last[bottom - 1] + 1)
        taps = AxisTaps(*(tap[top:bottom] for tap in self._taps))
        one_by_one = wide.is_cpu and not wide.requires_grad
        return (blend_rows if one_by_one else blend_block)(wide, self._wide_top, taps)

    def _widen(self, top: int, bottom: int) -> Tensor:
        """Hold the source's rows [top, bottom) at the new width, and no others."""
        held = self._wide if self._wide_has_graph == torch.is_grad_enabled() else None
        if held is None or not self._wide_top <= top <= self._wide_top + len(held):
            held, self._wide_top = None, top
        kept = None if held is None else held[top - self._wide_top :]
        start = top if kept is None else top + len(kept)
        if start < bottom:
            rows = self.source.rows(start, bottom)
            new = F.interpolate(
                rows.unsqueeze(0).permute(0, 3, 1, 2),  # channels last
                (rows.shape[0], self.size[1]),
                mode="bilinear",
                align_corners=self.align_corners,
            )[0].permute(1, 2, 0)
            kept = new if kept is None or not len(kept) else torch.cat((kept, new))
        assert kept is not None
        self._wide, self._wide_top, self._wide_has_graph = kept, top, torch.is_grad_enabled()
        return kept


def blend_rows(wide: Tensor, wide_top: int, taps: AxisTaps) -> Tensor:
    """Blend rows one after the other, which caches like, in the order of ``interpolate`` on CPUs.

    Writes in place, so that no gradient flows.

    Args:
        wide: Rows (h, W, K).
        wide_top: Which row of the source the first of them is.
        taps: What each of H new rows is made of, on the CPU.
    """
    out = wide.new_empty(len(taps.first), *wide.shape[1:])
    numbers = (tap.tolist() for tap in taps)
    for row, first, last, of_first, of_last in zip(out, *numbers, strict=True):
        if first == last:
            row.copy_(wide[first - wide_top])
        else:
            torch.mul(wide[last - wide_top], of_last, out=row)
            row.add_(wide[first - wide_top], alpha=of_first)
    return out


def blend_block(wide: Tensor, wide_top: int, taps: AxisTaps) -> Tensor:
    """Blend all rows at once, in few operations; see ``blend_rows``."""
    of_first, of_last = (weight[:, None, None] for weight in (taps.of_first, taps.of_last))
    first, last = (wide[place - wide_top] for place in (taps.first, taps.last))
    return (last * of_last).addcmul_(first, of_first)


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
        parts = (probabilities(source.rows(top, bottom)) for source in self.sources)
        total = next(parts)
        in_place = not total.requires_grad  # a softmax needs its result for its gradient
        for part in parts:
            total = total.add_(part) if in_place else total + part
        return total.div_(len(self.sources)) if in_place else total / len(self.sources)


def probabilities(rows: Tensor) -> Tensor:
    """Return the softmax over the classes of (..., K), or the sigmoid where K is 1."""
    return rows.sigmoid() if rows.shape[-1] == 1 else rows.softmax(dim=-1)


@torch.no_grad()
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
    """Return all logits of a source, (K, H, W), with the gradient of those that it is made of."""
    if torch.is_grad_enabled():
        parts = [source.rows(*block).permute(2, 0, 1) for block in blocks(source)]
        return torch.cat(parts, dim=1)
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
