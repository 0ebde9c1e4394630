"""Carrying what small training steps took on to full ones."""

from collections.abc import Sequence

import numpy as np

from nlseg.plan.probe import Size, Step

STRAIGHT = {"flops": 0.0, "forward_flops": 0.0, "work_bytes": 0.3, "seconds": float("inf")}
"""How far, as a share, a line through two steps may miss a third that is taken to lie on it.

Operations are counted and obey the formula to the last digit, times are noisy.
"""


def smaller_sizes(size: Size) -> list[Size]:
    """Return sizes of a quarter, a half and three quarters of each side, in steps of 8 px."""
    fractions = (0.25, 0.5, 0.75)
    found = [
        (max(32, round(size[0] * f / 8) * 8), max(32, round(size[1] * f / 8) * 8))
        for f in fractions
    ]
    return [(min(h, size[0]), min(w, size[1])) for h, w in dict.fromkeys(found)]


def extrapolate(steps: Sequence[Step], name: str, size: Size, images: int) -> float:
    """Carry a measured quantity on to a larger size and batch.

    Quantity = a + n (b p + c p^2) with n images of p pixels. The square is there where attention
    holds all pairs of positions; it is left out where two steps predict the third without it.

    Args:
        steps: Steps of one image at three sizes, smallest first.
        name: Field of ``Step``, one of ``STRAIGHT``.
        size: Height and width in px to carry it to.
        images: Number of images n.

    Returns:
        The quantity there.
    """
    target = float(size[0] * size[1])
    shares = np.array([step.size[0] * step.size[1] / target for step in steps])
    values = np.array([getattr(step, name) for step in steps], dtype=float)
    if len(steps) == 1:
        return float(values[0] / steps[0].images * images / shares[0])
    slope, start = np.polyfit(shares[-2:], values[-2:], 1)
    if len(steps) > 2 and abs(start + slope * shares[0] - values[0]) > STRAIGHT[name] * values[0]:
        square, slope, start = np.polyfit(shares[-3:], values[-3:], 2)
        return float(max(start, 0.0) + images * (slope + square))
    return float(max(start, 0.0) + images * slope)


def full_bytes(steps: Sequence[Step], size: Size, images: int) -> float:
    """Carry the memory of small steps on to a full one.

    Args:
        steps: Steps of one image, smallest first.
        size: Height and width in px.
        images: Images in the batch.

    Returns:
        Most memory that tensors hold, in bytes.
    """
    last = steps[-1]
    work = extrapolate(steps, "work_bytes", size, images)
    return max(last.held_bytes + work, last.update_bytes)
