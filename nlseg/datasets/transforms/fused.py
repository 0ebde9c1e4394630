"""Load, resize, crop and flip in one step: draw the geometry first, then compute the crop alone.

The draws are those of the separate transforms, in their order, so the crop is the same one. In
``exact`` mode its pixels are the same too; in ``fast`` mode an image value may be one level off.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from nlseg.datasets.transforms.annotations import LoadAnnotations
from nlseg.datasets.transforms.crop import Box, RandomCrop
from nlseg.datasets.transforms.draws import rng_of
from nlseg.datasets.transforms.geometry import RandomFlip
from nlseg.datasets.transforms.loading import LoadImageFromFile, read_bytes
from nlseg.datasets.transforms.random_resize import RandomChoiceResize, RandomResize
from nlseg.datasets.transforms.resize import Resize, Size
from nlseg.datasets.transforms.window import (
    ONE_LEVEL,
    nearest_window,
    resize_window,
    rows_needed,
)
from nlseg.structures import Sample

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

    def draw(self, sample: Sample, old: Size) -> tuple[Size, Box]:
        """Draw the new (width, height) and the box; cut the label maps; note the sizes."""
        scale = self.resize.draw_scale(sample)
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
        self, image: NDArray[np.uint8], new: Size, box: Box, height: int
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
    """Tell whether image and label maps are uint8 and of one size."""
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
