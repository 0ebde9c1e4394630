"""Raw label values to class indices: shift, map, colours, and the check of the range."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.errors import ConfigError, DataError

_SHOWN = 8


@lru_cache(maxsize=64)
def _table(reduce_zero: bool, pairs: tuple[tuple[int, int], ...]) -> NDArray[np.uint8]:
    table = np.arange(256)
    if reduce_zero:
        table[:] = table - 1
        table[[0, 255]] = 255
    shifted = table.copy()
    for old, new in pairs:
        table[shifted == old] = new
    return table.astype(np.uint8)


def label_table(reduce_zero: bool, label_map: Mapping[int, int] | None) -> NDArray[np.uint8] | None:
    """Make the table (256,) that turns raw values into class indices.

    Args:
        reduce_zero: Whether 0 becomes 255 and k becomes k - 1; 255 stays.
        label_map: New value for each value after that step; what it does not name stays.

    Returns:
        The table, or None where nothing changes.
    """
    if not reduce_zero and not label_map:
        return None
    return _table(reduce_zero, tuple((label_map or {}).items()))


def histogram(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each of the 256 values of a label map (H, W)."""
    if label.size >= 1 << 24:  # calcHist counts in float32
        return np.bincount(label.ravel(), minlength=256)
    counts: NDArray[np.float32] = cv2.calcHist([label], [0], None, [256], [0, 256])
    return counts.ravel().astype(np.int64)


def check_range(
    label: NDArray[np.uint8], path: str, num_classes: int, ignore_index: int | None
) -> None:
    """Refuse a label map (H, W) with a value that is neither a class nor ignored.

    Raises:
        DataError: Names the file, the values and how many pixels have them.
    """
    if ignore_index == 255 and int((label + np.uint8(1)).max(initial=0)) <= num_classes:
        return
    counts = np.bincount(label.ravel(), minlength=256)
    stray = [int(v) for v in np.flatnonzero(counts) if v >= num_classes and v != ignore_index]
    if stray:
        shown = ", ".join(f"{value} ({counts[value]} px)" for value in stray[:_SHOWN])
        more = f" and {len(stray) - _SHOWN} more" if len(stray) > _SHOWN else ""
        word = "label" if len(stray) == 1 else "labels"
        raise DataError(
            f"{path}: {word} {shown}{more} outside 0..{num_classes - 1} and not the ignore index "
            f'{ignore_index}; see "Label values" in docs/datasets.md'
        )


def _code(colours: NDArray[Any]) -> NDArray[np.int32]:
    red, green, blue = (colours[..., i].astype(np.int32) for i in range(3))
    return (red << 16) | (green << 8) | blue


def _colour_pairs(colours: Any) -> tuple[tuple[tuple[int, int, int], int], ...]:
    pairs = colours.items() if isinstance(colours, Mapping) else zip(colours, range(256))  # noqa: B905
    result = []
    for colour, index in pairs:
        if not isinstance(colour, Sequence) or len(colour) != 3:
            raise ConfigError(
                f"palette_to_index: {colour!r} is not a colour; give (red, green, blue) in 0..255"
            )
        result.append(((int(colour[0]), int(colour[1]), int(colour[2])), int(index)))
    return tuple(result)


@lru_cache(maxsize=4)
def _colour_table(
    pairs: tuple[tuple[tuple[int, int, int], int], ...],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    table = np.zeros(1 << 24, np.uint8)
    known = np.zeros(1 << 24, np.bool_)
    for colour, index in pairs:
        code = _code(np.array(colour))
        table[code], known[code] = index, True
    return table, known


def colours_to_index(image_bgr: NDArray[np.uint8], path: str, colours: Any) -> NDArray[np.uint8]:
    """Turn a mask painted in colours (H, W, 3) into class indices (H, W).

    Args:
        image_bgr: The mask in BGR order.
        path: Its file, for the error.
        colours: RGB colours whose position is the class, or a mapping from RGB to class.

    Raises:
        DataError: The mask holds a colour that no class has.
    """
    table, known = _colour_table(_colour_pairs(colours))
    codes = _code(image_bgr[..., ::-1])
    if not known[codes].all():
        unknown, counts = np.unique(codes[~known[codes]], return_counts=True)
        shown = ", ".join(
            f"({code >> 16}, {code >> 8 & 255}, {code & 255}) on {count} px"
            for code, count in list(zip(unknown.tolist(), counts.tolist(), strict=True))[:_SHOWN]
        )
        raise DataError(
            f"{path}: {len(unknown)} colours are not in the palette, (red, green, blue) {shown}; "
            "add them to palette_to_index, with 255 for what is to be ignored"
        )
    return table[codes]
