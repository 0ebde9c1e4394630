"""Polygons and run lengths to masks, and masks to one label map.

A pixel belongs to a polygon when its centre does, by the even-odd rule: where a ring crosses itself
or touches itself to leave a hole, the hole stays.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nlseg.ops.resize import Size

Mask = NDArray[np.bool_]
Ring = Sequence[tuple[float, float]]
"""Corners (x, y) in px from the image's top left corner; the last one is joined to the first."""


class Region(NamedTuple):
    """One labelled object.

    Args:
        label: Value of its pixels in the label map.
        mask: Its pixels (H, W).
    """

    label: int
    mask: Mask


def polygon_mask(ring: Ring, size: Size) -> Mask:
    """Fill a ring.

    Args:
        ring: At least three corners.
        size: Height and width in px.

    Returns:
        The pixels (H, W) whose centres are inside.

    Raises:
        ValueError: Fewer than three corners, or one that is no finite point.
    """
    corners = _numbers(ring)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError("a polygon needs three corners (x, y)")
    if not np.isfinite(corners).all():
        raise ValueError("a corner is not finite")
    mask = np.zeros(size, np.bool_)
    (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
    centres = np.arange(size[1]) + 0.5
    first = max(0, int(np.floor(corners[:, 1].min())))
    for row in range(first, min(size[0], int(np.ceil(corners[:, 1].max())) + 1)):
        y = row + 0.5
        crosses = (y0 <= y) != (y1 <= y)
        slope = (x1 - x0)[crosses] / (y1 - y0)[crosses]
        at = np.sort(x0[crosses] + (y - y0[crosses]) * slope)
        mask[row] = np.searchsorted(at, centres, side="right") % 2 == 1
    return mask


def _numbers(ring: object) -> NDArray[np.float64]:
    try:
        return np.asarray(ring, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("its corners are no numbers (x, y)") from error


def rectangle(ring: Ring) -> Ring:
    """Return the four corners of a rectangle that two opposite ones give."""
    (x0, y0), (x1, y1) = _numbers(ring).tolist()
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def circle(ring: Ring, corners: int = 72) -> Ring:
    """Return a polygon for a circle that its centre and a point on it give."""
    (x, y), (px, py) = _numbers(ring).tolist()
    radius = float(np.hypot(px - x, py - y))
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return [(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles]


def run_length_mask(counts: Sequence[int], size: Size) -> Mask:
    """Return the mask of COCO's run lengths: columns one after the other, off, on, off, ...

    Args:
        counts: Lengths, their sum the number of pixels.
        size: Height and width in px.

    Raises:
        ValueError: The lengths are no such numbers.
    """
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("its run lengths are no whole numbers")
    lengths = np.asarray(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"run lengths do not add up to {size[0]} x {size[1]} px")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(size[::-1]).T.copy()


def run_lengths(text: str) -> list[int]:
    """Return the run lengths that COCO writes as text.

    Each number is groups of five bits, lowest first, each plus 48 as a character; bit 6 says that
    more groups follow. From the fourth number on it is the difference to the number two before.

    Raises:
        ValueError: The text is no such list.
    """
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            if place >= len(text) or not 48 <= ord(text[place]) < 112:
                raise ValueError("the text of the run lengths is damaged")
            group = ord(text[place]) - 48
            value |= (group & 31) << shift
            more = bool(group & 32)
            place, shift = place + 1, shift + 5
            if not more and group & 16:
                value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def checked_region(label: int, mask: Mask) -> Region:
    """Return a region.

    Raises:
        ValueError: It has no pixel: it lies outside of the image, or between the pixels' centres.
    """
    if not mask.any():
        raise ValueError("covers the centre of no pixel of the image")
    return Region(label, mask)


def draw(regions: Iterable[Region], size: Size, unlabelled: int) -> NDArray[np.uint8]:
    """Draw regions into one label map (H, W), each over those before it.

    Args:
        regions: In the order in which they are drawn.
        size: Height and width in px.
        unlabelled: Value of what no region covers.
    """
    label = np.full(size, unlabelled, np.uint8)
    for region in regions:
        label[region.mask] = region.label
    return label


def small_on_top(regions: Iterable[Region]) -> list[Region]:
    """Order regions so that smaller ones are drawn last; equal ones keep their order."""
    return sorted(regions, key=lambda region: -int(region.mask.sum()))
