"""Flip, turn, pad and blank out, the same for image and label maps."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from nlseg.datasets.transforms.draws import rng_of
from nlseg.errors import ConfigError
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
class RandomFlip(BaseTransform):
    """Flip image and label maps with a probability.

    Args:
        prob: Probability in [0, 1] of a flip, shared by all directions, or one for each.
        direction: ``horizontal``, ``vertical``, ``diagonal`` (both), or a list of them.
        swap_seg_labels: Pairs of classes that change places in a flip, such as left and right arm.

    Raises:
        ConfigError: A probability or direction is not allowed.
    """

    def __init__(
        self,
        prob: float | Sequence[float] | None = None,
        direction: FlipDirection | Sequence[FlipDirection] = "horizontal",
        swap_seg_labels: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        for name in self.directions:
            if name not in _CV2_FLIPS:
                raise ConfigError(
                    f"RandomFlip.direction: {name!r} is not one of {list(_CV2_FLIPS)}"
                )
        if prob is None:
            raise ConfigError("RandomFlip.prob: not given; give a probability in [0, 1]")
        count = len(self.directions)
        probs = [prob / count] * count if isinstance(prob, int | float) else list(prob)
        if len(probs) != count or min(probs) < 0 or sum(probs) > 1 + 1e-9:
            raise ConfigError(
                f"RandomFlip.prob: {prob!r}; give one number in [0, 1], or one for each of "
                f"{self.directions} with a sum of at most 1"
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
class Pad(BaseTransform):
    """Pad image and label maps at the right and the bottom.

    Args:
        size: (width, height) in px to reach. A larger image keeps its size.
        size_divisor: Number that width and height shall be multiples of.
        pad_to_square: Pad the shorter side to the longer one first.
        pad_val: Value for the image, or ``dict(img=..., seg=...)``; label maps get 255 unless
            ``seg`` says otherwise.
        padding_mode: ``constant``, ``edge``, ``reflect`` or ``symmetric``.

    Raises:
        ConfigError: Not exactly one of size, divisor and square is given, or a mode is unknown.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        *,
        pad_to_square: bool = False,
        pad_val: float | Mapping[str, float] | None = None,
        padding_mode: PaddingMode = "constant",
    ) -> None:
        if size is None and size_divisor is None and not pad_to_square:
            raise ConfigError("Pad: none of size, size_divisor, pad_to_square is given")
        if size is not None and (size_divisor is not None or pad_to_square):
            raise ConfigError("Pad: size goes with neither size_divisor nor pad_to_square")
        if padding_mode not in _BORDERS:
            raise ConfigError(f"Pad.padding_mode: {padding_mode!r} is not one of {list(_BORDERS)}")
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
