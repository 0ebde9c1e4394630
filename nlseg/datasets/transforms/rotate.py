"""Turn the picture, or blank out parts of it."""

from collections.abc import Sequence
from typing import Any

import cv2
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from nlseg.datasets.transforms.draws import rng_of
from nlseg.errors import ConfigError
from nlseg.registry import TRANSFORMS
from nlseg.structures import IGNORE_INDEX, Sample

Pair = tuple[float, float]


@TRANSFORMS.register_module()
class RandomRotate(BaseTransform):
    """Turn image and label maps by the same random angle.

    Args:
        prob: Probability in [0, 1] of a turn.
        degree: Smallest and largest angle, clockwise, or one number for both directions.
        pad_val: Image value of what comes into the picture.
        seg_pad_val: Label of what comes into the picture.
        center: (x, y) of the centre in px; None for the middle.
        auto_bound: Enlarge the picture until all of it is seen.

    Raises:
        ConfigError: The probability is not in [0, 1], or a centre is given with ``auto_bound``.
    """

    def __init__(
        self,
        prob: float,
        degree: float | Pair,
        *,
        pad_val: float = 0,
        seg_pad_val: float = IGNORE_INDEX,
        center: Pair | None = None,
        auto_bound: bool = False,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ConfigError(f"RandomRotate.prob: {prob} is outside [0, 1]")
        if auto_bound and center is not None:
            raise ConfigError("RandomRotate: center and auto_bound do not go together")
        self.prob = prob
        self.degree = (-degree, degree) if isinstance(degree, int | float) else degree
        self.pad_val = pad_val
        self.seg_pad_val = seg_pad_val
        self.center = center
        self.auto_bound = auto_bound

    def transform(self, sample: Sample) -> Sample:
        """Turn ``img`` and all ``seg_fields``; note ``img_shape``."""
        rng = rng_of(sample)
        turn = rng.rand() < self.prob
        angle = rng.uniform(min(self.degree), max(self.degree))
        if turn:
            sample["img"] = self.turn(sample["img"], angle, cv2.INTER_LINEAR, self.pad_val)
            for key in sample.get("seg_fields", ()):
                sample[key] = self.turn(sample[key], angle, cv2.INTER_NEAREST, self.seg_pad_val)
            sample["img_shape"] = sample["img"].shape[:2]
        return sample

    def turn(self, array: NDArray[Any], angle: float, rule: int, value: float) -> NDArray[Any]:
        """Turn an array (H, W[, C]) clockwise by an angle in degrees."""
        height, width = array.shape[:2]
        center = self.center or ((width - 1) * 0.5, (height - 1) * 0.5)
        matrix = cv2.getRotationMatrix2D(center, -angle, 1.0)
        if self.auto_bound:
            cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
            new_width, new_height = height * sin + width * cos, height * cos + width * sin
            matrix[:, 2] += (new_width - width) * 0.5, (new_height - height) * 0.5
            width, height = round(new_width), round(new_height)
        turned: NDArray[Any] = cv2.warpAffine(
            array, matrix, (width, height), flags=rule, borderValue=(value,) * 4
        )
        return turned


@TRANSFORMS.register_module()
class RandomCutOut(BaseTransform):
    """Fill random boxes of the image, and if asked of the label maps, with one value.

    Args:
        prob: Probability in [0, 1] that there are any.
        n_holes: Number of boxes, or smallest and largest number.
        cutout_shape: (width, height) of a box in px, or several to choose from.
        cutout_ratio: The same as a share of the image's width and height.
        fill_in: Value of each channel of the image.
        seg_fill_in: Label inside the boxes; None keeps the labels.

    Raises:
        ConfigError: Not exactly one of shape and ratio is given, or a number is out of its range.
    """

    def __init__(
        self,
        prob: float,
        n_holes: int | tuple[int, int],
        *,
        cutout_shape: Pair | Sequence[Pair] | None = None,
        cutout_ratio: Pair | Sequence[Pair] | None = None,
        fill_in: Sequence[float] = (0, 0, 0),
        seg_fill_in: int | None = None,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ConfigError(f"RandomCutOut.prob: {prob} is outside [0, 1]")
        if (cutout_shape is None) == (cutout_ratio is None):
            raise ConfigError("RandomCutOut: give either cutout_shape or cutout_ratio")
        if seg_fill_in is not None and not 0 <= seg_fill_in <= 255:
            raise ConfigError(f"RandomCutOut.seg_fill_in: {seg_fill_in} is outside 0..255")
        self.prob = prob
        self.n_holes = (n_holes, n_holes) if isinstance(n_holes, int) else n_holes
        self.is_ratio = cutout_ratio is not None
        given: Any = cutout_ratio if self.is_ratio else cutout_shape
        self.candidates: list[Pair] = given if isinstance(given, list) else [given]
        self.fill_in = fill_in
        self.seg_fill_in = seg_fill_in

    def transform(self, sample: Sample) -> Sample:
        """Fill boxes of ``img`` and, with ``seg_fill_in``, of all ``seg_fields``."""
        boxes = self.draw_boxes(sample)
        if not boxes:
            return sample
        sample["img"] = sample["img"].copy()
        for rows, columns in boxes:
            sample["img"][rows, columns] = self.fill_in
        for key in sample.get("seg_fields", ()) if self.seg_fill_in is not None else ():
            sample[key] = sample[key].copy()
            for rows, columns in boxes:
                sample[key][rows, columns] = self.seg_fill_in
        return sample

    def draw_boxes(self, sample: Sample) -> list[tuple[slice, slice]]:
        """Draw rows and columns of each box. The only random step."""
        rng = rng_of(sample)
        height, width = sample["img"].shape[:2]
        if rng.rand() >= self.prob:
            return []
        boxes = []
        for _ in range(rng.randint(self.n_holes[0], self.n_holes[1] + 1)):
            left, top = rng.randint(0, width), rng.randint(0, height)
            across, down = self.candidates[rng.randint(0, len(self.candidates))]
            if self.is_ratio:
                across, down = int(across * width), int(down * height)
            boxes.append((slice(top, top + int(down)), slice(left, left + int(across))))
        return boxes
