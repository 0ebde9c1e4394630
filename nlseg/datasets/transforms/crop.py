"""Cut a box out of image and label maps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from mmcv.transforms import BaseTransform
from numpy.random import RandomState
from numpy.typing import NDArray

from nlseg.bounds import AT_LEAST_1, HEIGHT_WIDTH, Natural, Probability, Range
from nlseg.datasets.transforms.draws import rng_of
from nlseg.datasets.transforms.labels import histogram
from nlseg.extension import Extensible
from nlseg.registry import TRANSFORMS
from nlseg.structures import IGNORE_INDEX, Sample

_RETRIES = 10


class Box(NamedTuple):
    """Rows top..bottom-1 and columns left..right-1, in px."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return this part of an array (H, W[, C]) as a view."""
        return array[self.top : self.bottom, self.left : self.right]


@TRANSFORMS.register_module()
class RandomCrop(Extensible, BaseTransform):
    """Cut the same random box out of image and label maps.

    Args:
        crop_size: Height and width in px, or one number for both. A smaller image keeps its size.
        cat_max_ratio: Largest share (0, 1] of the labelled pixels that one class may take. A box
            above it, or with fewer than two classes, is drawn again, at most ten times.
        ignore_index: Label that does not count.
        rare_classes: Classes worth finding. None draws boxes without regard to them.
        rare_prob: Probability in [0, 1] that the box is drawn around a random pixel of one of the
            ``rare_classes`` that the label map holds, each class with the same chance;
            ``cat_max_ratio`` does not apply to such a box.
    """

    not_called: ClassVar[Mapping[str, str]] = {
        "crop_bbox": "write choose_box(self, rng, shape, cut_label)",
        "crop": "write transform(self, sample)",
    }

    def __init__(
        self,
        crop_size: Annotated[int | tuple[int, int], AT_LEAST_1, HEIGHT_WIDTH],
        cat_max_ratio: Annotated[float, Range(0, 1, open_low=True)] = 1.0,
        *,
        ignore_index: int = IGNORE_INDEX,
        rare_classes: Sequence[Natural] | None = None,
        rare_prob: Probability = 0.5,
    ) -> None:
        size = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
        self.crop_size = (int(size[0]), int(size[1]))
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = ignore_index
        self.rare_classes = rare_classes
        self.rare_prob = rare_prob

    def transform(self, sample: Sample) -> Sample:
        """Cut ``img`` and all ``seg_fields``; other keys stay."""
        shape = sample["img"].shape[:2]
        box = self.choose_box(rng_of(sample), shape, lambda box: box.cut(sample["gt_seg_map"]))
        sample["img"] = box.cut(sample["img"])
        for key in sample.get("seg_fields", ()):
            sample[key] = box.cut(sample[key])
        sample["img_shape"] = sample["img"].shape[:2]
        return sample

    def choose_box(
        self, rng: RandomState, shape: tuple[int, ...], cut_label: Callable[[Box], NDArray[Any]]
    ) -> Box:
        """Draw boxes until one is good enough. The only random step.

        Args:
            rng: Where the draws come from.
            shape: Height and width of the image.
            cut_label: Gives the part of the label map in a box; not called without need.
        """
        if self.rare_classes:
            rare = self.draw_rare_box(rng, shape, cut_label)
            if rare is not None:
                return rare
        box = self.draw_box(rng, shape)
        if self.cat_max_ratio < 1:
            for _ in range(_RETRIES):
                if self.accepts(cut_label(box)):
                    break
                box = self.draw_box(rng, shape)
        return box

    def draw_box(self, rng: RandomState, shape: tuple[int, ...]) -> Box:
        """Draw a box for an image of (height, width)."""
        top = int(rng.randint(0, max(shape[0] - self.crop_size[0], 0) + 1))
        left = int(rng.randint(0, max(shape[1] - self.crop_size[1], 0) + 1))
        return self.box_at(top, left, shape)

    def box_at(self, top: int, left: int, shape: tuple[int, ...]) -> Box:
        """Return the box with this corner, no larger than the image."""
        bottom = min(top + self.crop_size[0], shape[0])
        return Box(top, bottom, left, min(left + self.crop_size[1], shape[1]))

    def accepts(self, label: NDArray[np.uint8]) -> bool:
        """Return whether a cut label map (h, w) is mixed enough for ``cat_max_ratio``."""
        counts = histogram(np.ascontiguousarray(label))
        if 0 <= self.ignore_index < counts.size:
            counts[self.ignore_index] = 0
        if np.count_nonzero(counts) < 2:
            return False
        return bool(counts.max() / counts.sum() < self.cat_max_ratio)

    def draw_rare_box(
        self, rng: RandomState, shape: tuple[int, ...], cut_label: Callable[[Box], NDArray[Any]]
    ) -> Box | None:
        """Draw a box that holds a rare class, or None where chance or the label map says no."""
        if rng.random_sample() >= self.rare_prob:
            return None
        label = cut_label(Box(0, shape[0], 0, shape[1]))
        counts = histogram(np.ascontiguousarray(label))
        here = [c for c in self.rare_classes or () if counts[c] > 0]
        if not here:
            return None
        wanted = here[rng.randint(len(here))]
        rows, columns = np.nonzero(label == wanted)
        pixel = rng.randint(len(rows))
        top = _start_around(rng, int(rows[pixel]), self.crop_size[0], label.shape[0])
        left = _start_around(rng, int(columns[pixel]), self.crop_size[1], label.shape[1])
        return self.box_at(top, left, label.shape)


def _start_around(rng: RandomState, pixel: int, length: int, total: int) -> int:
    """Draw the start of a stretch of ``length`` within ``total`` that holds ``pixel``."""
    last = max(total - length, 0)
    return int(rng.randint(max(pixel - length + 1, 0), min(pixel, last) + 1))
