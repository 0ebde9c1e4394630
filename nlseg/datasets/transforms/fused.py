"""Load, resize, crop and flip in one step: draw the geometry first, then compute the crop alone.

The draws are those of the separate transforms, in their order, so the crop is the same one. In
``exact`` mode its pixels are the same too; in ``fast`` mode an image value may be one level off.

OpenCV computes each pixel of a resized picture from the scale and the pixel's own coordinates
alone. So a window that starts at the top left corner can be had from the part of the source that
it covers, if the scale is handed over explicitly: bit for bit what the whole picture would hold.
A window that starts elsewhere has this property where its start falls on a source pixel's start;
"nearly" is enough where one level of rounding does not matter.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.random import RandomState
from numpy.typing import NDArray

from nlseg.datasets.transforms.crop import Box, RandomCrop
from nlseg.datasets.transforms.decode import read_bytes
from nlseg.datasets.transforms.draws import rng_of
from nlseg.datasets.transforms.geometry import RandomFlip
from nlseg.datasets.transforms.labels import LoadAnnotations
from nlseg.datasets.transforms.loading import LoadImageFromFile
from nlseg.datasets.transforms.resize import (
    CV2_CODES,
    RandomChoiceResize,
    RandomResize,
    Resize,
    Scale,
    as_size,
    resize_array,
)
from nlseg.structures import Sample

ONE_LEVEL = 1 / 640
"""Shift of the source in px that moves no bilinear value by a whole level: 2 * 255 / 640 < 1."""

_MARGIN = 3
_WINDOWED = ("bilinear", "nearest")


def rows_needed(height: int, new_height: int, box: Box) -> int:
    """Return how many rows of a picture, from the top, ``resize_window`` looks at for a box."""
    rows = _source_end(box.bottom + 1, 1, height, new_height / height)
    return rows if window_is_exact() and not _keeps(rows, new_height / height) else height


def resize_window(
    image: NDArray[np.uint8],
    size: Scale,
    box: Box,
    interpolation: str,
    *,
    slack: float = 0.0,
    height: int | None = None,
) -> NDArray[np.uint8]:
    """Return ``resize_array(image, size, interpolation)`` cut to a box, without computing the rest.

    Args:
        image: Picture (H, W[, C]), or its first rows, as many as ``rows_needed`` says.
        size: Width and height of the whole resized picture, in px.
        box: The part of it that is wanted.
        interpolation: See ``Resize``; other than ``bilinear`` and ``nearest`` the whole picture is
            resized.
        slack: How far, in source px, the source may be shifted to save work. With 0 the result is
            exact, with ``ONE_LEVEL`` at most one level off.
        height: Height H of the whole picture; None where ``image`` is the whole.

    Returns:
        The window (h, w[, C]).
    """
    width = image.shape[1]
    height = height or image.shape[0]
    if size == (width, height):
        return box.cut(image)
    if interpolation not in _WINDOWED or not window_is_exact():
        return box.cut(resize_array(image, size, interpolation))
    scale_x, scale_y = size[0] / width, size[1] / height
    left, source_left = nearest_start(box.left, 1 / scale_x, slack)
    top, source_top = nearest_start(box.top, 1 / scale_y, slack)
    right = _source_end(box.right - left, source_left, width, scale_x)
    bottom = _source_end(box.bottom - top, source_top, height, scale_y)
    if _keeps(right - source_left, scale_x) and _keeps(bottom - source_top, scale_y):
        left = top = source_left = source_top = 0
        right, bottom = width, image.shape[0]
    assert bottom <= image.shape[0], (bottom, image.shape)
    window: NDArray[np.uint8] = cv2.resize(
        image[source_top:bottom, source_left:right],
        None,
        fx=scale_x,
        fy=scale_y,
        interpolation=CV2_CODES[interpolation],
    )
    return window[box.top - top : box.bottom - top, box.left - left : box.right - left]


def _keeps(length: int, scale: float) -> bool:
    """Return whether a length stays what it is: OpenCV copies such a window, whatever the scale."""
    return round(length * scale) == length


def _source_end(length: int, start: int, total: int, scale: float) -> int:
    """Return where the source of ``length`` resized px ends that starts at a source px."""
    return min(start + int(length / scale) + _MARGIN, total)


def nearest_start(start: int, step: float, slack: float) -> tuple[int, int]:
    """Find the last place at or before a start that falls on a source pixel.

    Args:
        start: First wanted px of the resized picture; its left neighbour in the source is kept.
        step: Source px for each resized px.
        slack: How far from a whole source px it may fall.

    Returns:
        The place in the resized picture and the source px there; (0, 0) always fits.
    """
    first = start - int(0.5 / step) - 1  # px before it would look beyond the source's edge
    if slack == 0 or first <= 0:
        return 0, 0
    positions = np.arange(first, -1, -1) * step
    nearest = np.rint(positions)
    found = int(np.argmax(np.abs(positions - nearest) <= slack))
    return first - found, int(nearest[found])


def nearest_rows(old: int, new: int) -> NDArray[np.int64]:
    """Return the source px (new,) that nearest-neighbour resizing from old to new px takes."""
    rows: NDArray[np.int64] = (np.arange(new) * (1.0 / (new / old))).astype(np.int64)
    return np.minimum(rows, old - 1)


def nearest_window(label: NDArray[np.uint8], size: Scale, box: Box) -> NDArray[np.uint8]:
    """Return ``resize_array(label, size, "nearest")`` cut to a box, by picking its pixels.

    Args:
        label: Label map (H, W).
        size: Width and height of the whole resized label map, in px.
        box: The part of it that is wanted.
    """
    height, width = label.shape
    if size == (width, height):
        return box.cut(label)
    if not nearest_is_exact():
        return box.cut(resize_array(label, size, "nearest"))
    rows = nearest_rows(height, size[1])[box.top : box.bottom]
    columns = nearest_rows(width, size[0])[box.left : box.right]
    first, last = int(columns[0]), int(columns[-1])
    return label[:, first : last + 1][rows].take(columns - first, axis=1)


def _trials() -> list[tuple[NDArray[np.uint8], Scale, Box]]:
    rng = RandomState(0)
    trials = []
    for height, width, new_height, new_width in (
        (37, 53, 71, 31), (64, 48, 97, 83), (120, 90, 61, 44), (33, 65, 66, 130), (50, 70, 51, 69),
    ):  # fmt: skip
        image = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
        bottom, right = rng.randint(5, new_height + 1), rng.randint(5, new_width + 1)
        box = Box(rng.randint(bottom), bottom, rng.randint(right), right)
        trials.append((image, (new_width, new_height), box))
    return trials


@lru_cache(maxsize=1)
def window_is_exact() -> bool:
    """Try whether this OpenCV gives windows the pixels of whole pictures. Once a process."""
    for image, size, box in _trials():
        scale = size[0] / image.shape[1], size[1] / image.shape[0]
        right = _source_end(box.right, 0, image.shape[1], scale[0])
        bottom = _source_end(box.bottom, 0, image.shape[0], scale[1])
        for code in (cv2.INTER_LINEAR, cv2.INTER_NEAREST):
            whole = cv2.resize(image, size, interpolation=code)
            part = cv2.resize(
                image[:bottom, :right], None, fx=scale[0], fy=scale[1], interpolation=code
            )
            if not np.array_equal(box.cut(whole), box.cut(part)):
                return False
    return True


@lru_cache(maxsize=1)
def nearest_is_exact() -> bool:
    """Try whether this OpenCV picks the nearest pixels that ``nearest_rows`` says."""
    for image, size, _ in _trials():
        label = np.ascontiguousarray(image[..., 0])
        rows = nearest_rows(label.shape[0], size[1])
        columns = nearest_rows(label.shape[1], size[0])
        whole = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        if not np.array_equal(whole, label[rows][:, columns]):
            return False
    return True


Step = Callable[[Any], Any]

_SLACK = {"exact": 0.0, "fast": ONE_LEVEL}


class FusedCrop(BaseTransform):
    """Do what a random resize, a random crop and a random flip do after each other.

    Args:
        resize: The random resize.
        crop: The random crop.
        flip: The random flip, if one follows.
        slack: See ``resize_window``.
    """

    def __init__(
        self,
        resize: RandomResize | RandomChoiceResize,
        crop: RandomCrop,
        flip: RandomFlip | None,
        slack: float,
    ) -> None:
        self.resize = resize
        self.inner: Resize = resize.resize
        self.crop = crop
        self.flip = flip
        self.slack = slack

    def transform(self, sample: Sample) -> Sample:
        """Resize, crop and flip ``img`` and all ``seg_fields``."""
        if not _is_plain(sample):
            return self.finish(self.crop.transform(self.resize.transform(sample)))
        image = sample["img"]
        new, box = self.draw(sample, (image.shape[1], image.shape[0]))
        sample["img"] = self.window(image, new, box, image.shape[0])
        return self.finish(sample)

    def draw(self, sample: Sample, old: Scale) -> tuple[Scale, Box]:
        """Draw the new (width, height) and the box; cut the label maps; note the sizes."""
        scale = as_size(self.resize.draw_scale(sample), "scale")
        new = self.inner.target_size(old, scale)
        self.inner.note(sample, old, new, scale)
        cuts: dict[tuple[str, Box], NDArray[np.uint8]] = {}

        def cut(box: Box, key: str = "gt_seg_map") -> NDArray[np.uint8]:
            if (key, box) not in cuts:
                cuts[key, box] = nearest_window(sample[key], new, box)
            return cuts[key, box]

        box = self.crop.choose_box(rng_of(sample), (new[1], new[0]), cut)
        for key in sample.get("seg_fields", ()):
            sample[key] = cut(box, key)
        sample["img_shape"] = (box.bottom - box.top, box.right - box.left)
        return new, box

    def window(
        self, image: NDArray[np.uint8], new: Scale, box: Box, height: int
    ) -> NDArray[np.uint8]:
        """Resample the box of the resized image from the image of ``height``, or its top."""
        rule = self.inner.interpolation
        return resize_window(image, new, box, rule, slack=self.slack, height=height)

    def finish(self, sample: Sample) -> Sample:
        """Flip, if a flip belongs to the step."""
        return sample if self.flip is None else self.flip.transform(sample)

    def __repr__(self) -> str:
        """Name the transforms that are done together."""
        parts = [part for part in (self.resize, self.crop, self.flip) if part is not None]
        return f"FusedCrop({', '.join(type(part).__name__ for part in parts)})"


class FusedLoadCrop(BaseTransform):
    """Load image and label map and do a ``FusedCrop``, decoding only the rows that the crop needs.

    Args:
        load: Loads the image.
        annotate: Loads the label map.
        crop: What follows.
    """

    def __init__(self, load: LoadImageFromFile, annotate: LoadAnnotations, crop: FusedCrop) -> None:
        self.load = load
        self.annotate = annotate
        self.crop = crop

    def transform(self, sample: Sample) -> Sample:
        """Load, resize, crop and flip."""
        if "cached_img" in sample:
            return self.crop.transform(self.annotate.transform(self.load.take_cached(sample)))
        path = sample["img_path"]
        data = read_bytes(path, self.load.backend_args)
        header = self.load.partial_header(data)
        if header is None:
            self.load.put(sample, self.load.decode(data, path))
            return self.crop.transform(self.annotate.transform(sample))
        sample["img_shape"] = sample["ori_shape"] = (header.height, header.width)
        self.annotate.transform(sample)
        new, box = self.crop.draw(sample, (header.width, header.height))
        rows = rows_needed(header.height, new[1], box)
        image = self.load.decode(data, path, rows)
        sample["img"] = self.crop.window(image, new, box, header.height)
        return self.crop.finish(sample)

    def __repr__(self) -> str:
        """Name the transforms that are done together."""
        return f"FusedLoadCrop(LoadImageFromFile, LoadAnnotations, {self.crop!r})"


def _is_plain(sample: Sample) -> bool:
    """Return whether image and label maps are uint8 and of one size."""
    image = sample["img"]
    maps = [sample[key] for key in sample.get("seg_fields", ())]
    return image.dtype == np.uint8 and all(
        array.dtype == np.uint8 and array.shape == image.shape[:2] for array in maps
    )


def fuse(steps: Sequence[Step], mode: str) -> list[Step]:
    """Replace what can be done in one step; subclasses of the transforms stay as they are.

    Args:
        steps: Transforms in their order.
        mode: ``exact`` or ``fast``.
    """
    for start, step in enumerate(steps):
        if (
            not _fusible(step)
            or start + 1 == len(steps)
            or type(steps[start + 1]) is not RandomCrop
        ):
            continue
        end = start + 2
        flip = steps[end] if end < len(steps) and type(steps[end]) is RandomFlip else None
        crop = FusedCrop(step, steps[start + 1], flip, _SLACK[mode])  # type: ignore[arg-type]
        end += flip is not None
        before = list(steps[:start])
        return [*_with_loading(before, crop), *steps[end:]]
    return list(steps)


def _fusible(step: Step) -> bool:
    if type(step) is not RandomResize and type(step) is not RandomChoiceResize:
        return False
    inner = step.resize
    return (
        type(inner) is Resize
        and inner.backend == "cv2"
        and inner.interpolation in ("bilinear", "nearest")
    )


def _with_loading(before: list[Step], crop: FusedCrop) -> list[Step]:
    """Take loading into the step where nothing stands between."""
    if len(before) < 2:
        return [*before, crop]
    load, annotate = before[-2:]
    if type(load) is LoadImageFromFile and type(annotate) is LoadAnnotations and load.is_plain:
        return [*before[:-2], FusedLoadCrop(load, annotate, crop)]
    return [*before, crop]
