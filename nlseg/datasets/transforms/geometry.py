"""Flip, turn, pad and blank out, the same for image and label maps."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from nlseg.bounds import (
    AT_LEAST_0,
    AT_LEAST_1,
    LOW_HIGH,
    PROBABILITIES,
    WIDTH_HEIGHT,
    Count,
    NotNegative,
    Positive,
    Probability,
    Range,
)
from nlseg.datasets.transforms.draws import rng_of
from nlseg.errors import ConfigError
from nlseg.extension import Extensible
from nlseg.registry import TRANSFORMS
from nlseg.structures import IGNORE_INDEX, Sample

FlipDirection = Literal["horizontal", "vertical", "diagonal"]
PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]
_CV2_FLIPS = {"horizontal": 1, "vertical": 0, "diagonal": -1}
_BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
}


@TRANSFORMS.register_module()
class RandomFlip(Extensible, BaseTransform):
    """Flip image and label maps with a probability.

    Args:
        prob: Probability in [0, 1] of a flip, shared by all directions, or one for each.
        direction: ``horizontal``, ``vertical``, ``diagonal`` (both), or a list of them.
        swap_seg_labels: Pairs of classes that change places in a flip, such as left and right arm.

    Raises:
        ConfigError: There is no probability, or there are not as many as directions.
    """

    not_called: ClassVar[Mapping[str, str]] = {
        "_choose_direction": "write draw_direction(self, sample)",
        "_flip": "write apply(self, sample, direction)",
        "_flip_on_direction": "write apply(self, sample, direction)",
        "_flip_bbox": "write apply(self, sample, direction)",
        "_flip_keypoints": "write apply(self, sample, direction)",
        "_flip_seg_map": "write swap_labels(self, label)",
    }

    def __init__(
        self,
        prob: Annotated[float | Sequence[float], PROBABILITIES] | None = None,
        direction: FlipDirection | Sequence[FlipDirection] = "horizontal",
        swap_seg_labels: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        if prob is None:
            raise ConfigError("RandomFlip.prob: not given; give a probability in [0, 1]")
        count = len(self.directions)
        probs = [prob / count] * count if isinstance(prob, int | float) else list(prob)
        if len(probs) != count:
            raise ConfigError(
                f"RandomFlip.prob: {prob!r}; give one number, or one for each of {self.directions}"
            )
        self.prob = prob
        self.direction = direction
        self.probs = [*probs, 1.0 - sum(probs) if len(probs) > 1 else 1.0 - probs[0]]
        self.swap_seg_labels = swap_seg_labels

    def transform(self, sample: Sample) -> Sample:
        """Draw a direction or none, flip, note ``flip`` and ``flip_direction``."""
        return self.apply(sample, self.draw_direction(sample))

    def draw_direction(self, sample: Sample) -> str | None:
        """Draw a direction, None for no flip. The only random step."""
        choice = int(rng_of(sample).choice(len(self.probs), p=self.probs))
        return self.directions[choice] if choice < len(self.directions) else None

    def apply(self, sample: Sample, direction: str | None) -> Sample:
        """Flip a sample in one direction, or not for None."""
        sample["flip"] = direction is not None
        sample["flip_direction"] = direction
        if direction is not None:
            sample["img"] = cv2.flip(sample["img"], _CV2_FLIPS[direction])
            for key in sample.get("seg_fields", ()):
                sample[key] = self.swap_labels(cv2.flip(sample[key], _CV2_FLIPS[direction]))
                sample["swap_seg_labels"] = self.swap_seg_labels
        return sample

    def swap_labels(self, label: NDArray[Any]) -> NDArray[Any]:
        """Exchange the pairs of ``swap_seg_labels`` in a label map (H, W)."""
        if not self.swap_seg_labels:
            return label
        swapped = label.copy()
        for first, second in self.swap_seg_labels:
            swapped[label == first] = second
            swapped[label == second] = first
        return swapped


@TRANSFORMS.register_module()
class Pad(Extensible, BaseTransform):
    """Pad image and label maps at the right and the bottom.

    Args:
        size: (width, height) in px to reach. A larger image keeps its size.
        size_divisor: Number that width and height shall be multiples of.
        pad_to_square: Pad the shorter side to the longer one first.
        pad_val: Value for the image, or ``dict(img=..., seg=...)``; label maps get 255 unless
            ``seg`` says otherwise.
        padding_mode: ``constant``, ``edge``, ``reflect`` or ``symmetric``.

    Raises:
        ConfigError: Not exactly one of size, divisor and square is given.
    """

    not_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("_pad_img", "_pad_seg"), "write pad(self, array, height, width, value)"
    )

    def __init__(
        self,
        size: Annotated[tuple[int, int], AT_LEAST_1, WIDTH_HEIGHT] | None = None,
        size_divisor: Count | None = None,
        *,
        pad_to_square: bool = False,
        pad_val: float | Mapping[str, float] | None = None,
        padding_mode: PaddingMode = "constant",
    ) -> None:
        if size is None and size_divisor is None and not pad_to_square:
            raise ConfigError("Pad: none of size, size_divisor, pad_to_square is given")
        if size is not None and (size_divisor is not None or pad_to_square):
            raise ConfigError("Pad: size goes with neither size_divisor nor pad_to_square")
        if pad_val is None:
            pad_val = {"img": 0, "seg": IGNORE_INDEX}
        elif not isinstance(pad_val, Mapping):
            pad_val = {"img": pad_val, "seg": IGNORE_INDEX}
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.size_divisor = size_divisor
        self.pad_to_square = pad_to_square
        self.pad_val = pad_val
        self.padding_mode = padding_mode

    def transform(self, sample: Sample) -> Sample:
        """Pad ``img`` and all ``seg_fields``; note ``pad_shape`` and ``img_shape``."""
        height, width = self.target(sample["img"].shape)
        sample["img"] = self.pad(sample["img"], height, width, self.pad_val.get("img", 0))
        for key in sample.get("seg_fields", ()):
            seg_value = self.pad_val.get("seg", IGNORE_INDEX)
            sample[key] = self.pad(sample[key], height, width, seg_value)
        sample["pad_shape"] = sample["img"].shape
        sample["pad_fixed_size"] = self.size
        sample["pad_size_divisor"] = self.size_divisor
        sample["img_shape"] = sample["img"].shape[:2]
        return sample

    def target(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return the (height, width) that an image of this shape is padded to."""
        height, width = int(shape[0]), int(shape[1])
        if self.pad_to_square:
            height = width = max(height, width)
        if self.size is not None:
            width, height = self.size
        if self.size_divisor is not None:
            divisor = self.size_divisor
            height, width = -(-height // divisor) * divisor, -(-width // divisor) * divisor
        return height, width

    def pad(self, array: NDArray[Any], height: int, width: int, value: float) -> NDArray[Any]:
        """Pad an array (H, W[, C]) with a value; a larger one is returned as it is."""
        bottom, right = max(height - array.shape[0], 0), max(width - array.shape[1], 0)
        if bottom == right == 0:
            return array
        values = (value,) * (array.shape[2] if array.ndim == 3 else 1)
        padded: NDArray[Any] = cv2.copyMakeBorder(
            np.ascontiguousarray(array),
            0,
            bottom,
            0,
            right,
            _BORDERS[self.padding_mode],
            value=values,
        )
        return padded


Pair = tuple[float, float]


@TRANSFORMS.register_module()
class RandomRotate(Extensible, BaseTransform):
    """Turn image and label maps by the same random angle.

    Args:
        prob: Probability in [0, 1] of a turn.
        degree: Smallest and largest angle, clockwise, or one number for both directions.
        pad_val: Image value of what comes into the picture.
        seg_pad_val: Label of what comes into the picture.
        center: (x, y) of the centre in px; None for the middle.
        auto_bound: Enlarge the picture until all of it is seen.

    Raises:
        ConfigError: A centre is given with ``auto_bound``.
    """

    not_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("generate_degree",), "write transform(self, sample)"
    )

    def __init__(
        self,
        prob: Probability,
        degree: NotNegative | Pair,
        *,
        pad_val: float = 0,
        seg_pad_val: float = IGNORE_INDEX,
        center: Pair | None = None,
        auto_bound: bool = False,
    ) -> None:
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
        return turn(array, angle, rule, value, center=self.center, auto_bound=self.auto_bound)


def turn(
    array: NDArray[Any],
    angle: float,
    rule: int,
    value: float,
    *,
    center: Pair | None = None,
    auto_bound: bool = False,
) -> NDArray[Any]:
    """Turn an array (H, W[, C]).

    Args:
        array: Image or label map.
        angle: Clockwise, in degrees.
        rule: OpenCV's code of an interpolation.
        value: What comes into the picture.
        center: (x, y) of the centre in px; None for the middle.
        auto_bound: Enlarge the picture until all of it is seen.
    """
    height, width = array.shape[:2]
    center = center or ((width - 1) * 0.5, (height - 1) * 0.5)
    matrix = cv2.getRotationMatrix2D(center, -angle, 1.0)
    if auto_bound:
        cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
        new_width, new_height = height * sin + width * cos, height * cos + width * sin
        matrix[:, 2] += (new_width - width) * 0.5, (new_height - height) * 0.5
        width, height = round(new_width), round(new_height)
    turned: NDArray[Any] = cv2.warpAffine(
        array, matrix, (width, height), flags=rule, borderValue=(value,) * 4
    )
    return turned


@TRANSFORMS.register_module()
class RandomRotFlip(Extensible, BaseTransform):
    """Turn by a random angle, else turn by right angles and flip; image and label maps alike.

    Deviation from OpenMMLab's: it interpolates label maps, here they keep their values.

    Args:
        rotate_prob: Probability of a turn by an angle.
        flip_prob: Probability of right angles and a flip where there was no such turn.
        degree: Smallest and largest angle, clockwise, or one number for both directions.
        pad_val: Image value of what comes into the picture.
        seg_pad_val: Label of what comes into the picture.
    """

    not_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("random_rot_flip", "random_rotate"), "write transform(self, sample)"
    )

    def __init__(
        self,
        rotate_prob: Probability = 0.5,
        flip_prob: Probability = 0.5,
        degree: Positive | Pair = (-20, 20),
        *,
        pad_val: float = 0,
        seg_pad_val: float = 0,
    ) -> None:
        self.rotate_prob = rotate_prob
        self.flip_prob = flip_prob
        self.degree = (-degree, degree) if isinstance(degree, int | float) else degree
        self.pad_val = pad_val
        self.seg_pad_val = seg_pad_val

    def transform(self, sample: Sample) -> Sample:
        """Change ``img`` and all ``seg_fields``; note ``img_shape``."""
        rng = rng_of(sample)
        maps = sample.get("seg_fields", ())
        if rng.rand() < self.rotate_prob:
            angle = rng.uniform(min(self.degree), max(self.degree))
            sample["img"] = turn(sample["img"], angle, cv2.INTER_LINEAR, self.pad_val)
            for key in maps:
                sample[key] = turn(sample[key], angle, cv2.INTER_NEAREST, self.seg_pad_val)
        elif rng.rand() < self.flip_prob:
            quarters, axis = rng.randint(4), rng.randint(2)
            for key in ("img", *maps):
                turned = np.flip(np.rot90(sample[key], quarters), axis)
                sample[key] = np.ascontiguousarray(turned)
            sample["img_shape"] = sample["img"].shape[:2]
        return sample


@TRANSFORMS.register_module()
class RandomCutOut(Extensible, BaseTransform):
    """Fill random boxes of the image, and if asked of the label maps, with one value.

    Args:
        prob: Probability in [0, 1] that there are any.
        n_holes: Number of boxes, or smallest and largest number.
        cutout_shape: (width, height) of a box in px, or several to choose from.
        cutout_ratio: The same as a share of the image's width and height.
        fill_in: Value of each channel of the image.
        seg_fill_in: Label inside the boxes; None keeps the labels.

    Raises:
        ConfigError: Not exactly one of shape and ratio is given.
    """

    not_called: ClassVar[Mapping[str, str]] = {
        "do_cutout": "write transform(self, sample)",
        "generate_patches": "write draw_boxes(self, sample)",
    }

    def __init__(
        self,
        prob: Probability,
        n_holes: Annotated[int | tuple[int, int], AT_LEAST_0, LOW_HIGH],
        *,
        cutout_shape: Annotated[Pair | Sequence[Pair], AT_LEAST_0] | None = None,
        cutout_ratio: Annotated[Pair | Sequence[Pair], AT_LEAST_0] | None = None,
        fill_in: Sequence[float] = (0, 0, 0),
        seg_fill_in: Annotated[int, Range(0, 255)] | None = None,
    ) -> None:
        if (cutout_shape is None) == (cutout_ratio is None):
            raise ConfigError("RandomCutOut: give either cutout_shape or cutout_ratio")
        self.prob = prob
        self.n_holes = (n_holes, n_holes) if isinstance(n_holes, int) else n_holes
        self.is_ratio = cutout_ratio is not None
        given: Any = cutout_ratio if self.is_ratio else cutout_shape
        self.candidates: list[Pair] = [given] if isinstance(given[0], int | float) else list(given)
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
