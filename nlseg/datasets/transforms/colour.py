"""Change the colours of the image; label maps stay."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.random import RandomState
from numpy.typing import NDArray

from nlseg.bounds import AT_LEAST_0, LOW_HIGH, Count, Natural, NotNegative, Positive
from nlseg.datasets.transforms.draws import rng_of
from nlseg.errors import ConfigError, DataError
from nlseg.extension import Extensible
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample

_LEVELS = np.arange(256)
_HUE, _SATURATION = 0, 1


class ColourStep(NamedTuple):
    """A table (256,) for the levels, or for one channel of (hue, saturation, value).

    ``linear`` lists the (alpha, beta) that a table for the levels was made of, in their order.
    """

    table: NDArray[np.uint8]
    hsv_channel: int | None = None
    linear: tuple[tuple[float, float], ...] = ()


def linear_levels(values: NDArray[Any], alpha: float = 1, beta: float = 0) -> NDArray[np.uint8]:
    """Return clip(alpha * value + beta) of values of any shape, rounded towards zero."""
    changed = values.astype(np.float32) * np.float32(alpha) + np.float32(beta)
    levels: NDArray[np.uint8] = np.clip(changed, 0, 255).astype(np.uint8)
    return levels


def level_step(*linear: tuple[float, float]) -> ColourStep:
    """Return the step that changes the levels by several (alpha, beta) after each other."""
    table = _LEVELS.astype(np.uint8)
    for alpha, beta in linear:
        table = linear_levels(table, alpha, beta)
    return ColourStep(table, linear=linear)


def check_levels(sample: Sample, transform: BaseTransform) -> NDArray[Any]:
    """Return the image of a sample if it has levels 0..255, as uint8 or floating point.

    Raises:
        DataError: It is of another kind, such as 16 bits, and would be cut to 8 bits.
    """
    image: NDArray[Any] = sample["img"]
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise DataError(
            f"{sample.get('img_path')}: {type(transform).__name__} works on levels 0..255, this "
            f"image is {image.dtype}; load it by color_type='color', which scales 16 bits to 8"
        )
    return image


@TRANSFORMS.register_module()
class PhotoMetricDistortion(Extensible, BaseTransform):
    """Distort brightness, contrast, saturation and hue, each with probability one half.

    Contrast comes right after brightness or at the very end, each with probability one half.
    Every step works on uint8 levels and rounds, through a table of 256 values. A floating-point
    image of levels 0..255 stays one. It is changed like OpenMMLab's; but where saturation or hue
    come first, it is rounded to levels, while OpenMMLab takes their fractions for whole numbers and
    loses the colours.

    Args:
        brightness_delta: Largest change of the levels.
        contrast_range: Smallest and largest factor of the levels.
        saturation_range: Smallest and largest factor of the saturation.
        hue_delta: Largest change of the hue, in steps of two degrees.
    """

    not_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("convert", "brightness", "contrast", "saturation", "hue"), "write transform(self, sample)"
    )

    def __init__(
        self,
        brightness_delta: NotNegative = 32,
        contrast_range: Annotated[tuple[float, float], AT_LEAST_0, LOW_HIGH] = (0.5, 1.5),
        saturation_range: Annotated[tuple[float, float], AT_LEAST_0, LOW_HIGH] = (0.5, 1.5),
        hue_delta: Natural = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def transform(self, sample: Sample) -> Sample:
        """Distort ``img`` (H, W, 3) BGR.

        Raises:
            DataError: The image has no levels 0..255.
        """
        image = check_levels(sample, self)
        steps = self.draw_steps(rng_of(sample))
        if image.dtype == np.uint8:
            for step in steps:
                image = _apply(image, step)
        elif steps:
            image = _apply_to_float(image, steps)
        sample["img"] = image
        return sample

    def draw_steps(self, rng: RandomState) -> list[ColourStep]:
        """Draw the tables to apply. The only random step.

        Neighbouring steps on the levels become one table.
        """
        linear: list[tuple[float, float]] = []
        steps: list[ColourStep] = []
        if rng.randint(2):
            linear.append((1, rng.uniform(-self.brightness_delta, self.brightness_delta)))
        contrast_first = rng.randint(2) == 1
        if contrast_first and rng.randint(2):
            linear.append((rng.uniform(*self.contrast_range), 0))
        if linear:
            steps.append(level_step(*linear))
        if rng.randint(2):
            saturation = linear_levels(_LEVELS, rng.uniform(*self.saturation_range))
            steps.append(ColourStep(saturation, _SATURATION))
        if rng.randint(2):
            hue = (_LEVELS + rng.randint(-self.hue_delta, self.hue_delta)) % 180
            steps.append(ColourStep(hue.astype(np.uint8), _HUE))
        if not contrast_first and rng.randint(2):
            steps.append(level_step((rng.uniform(*self.contrast_range), 0)))
        return steps


def _apply(image: NDArray[np.uint8], step: ColourStep) -> NDArray[np.uint8]:
    changed: NDArray[np.uint8]
    if step.hsv_channel is None:
        changed = cv2.LUT(image, step.table)
        return changed
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    channel = cv2.LUT(cv2.extractChannel(hsv, step.hsv_channel), step.table)
    changed = cv2.cvtColor(
        cv2.insertChannel(channel, hsv, step.hsv_channel), cv2.COLOR_HSV2BGR, dst=hsv
    )
    return changed


def _apply_to_float(image: NDArray[Any], steps: Sequence[ColourStep]) -> NDArray[Any]:
    """Apply steps to levels with fractions; what comes first decides how these are rounded."""
    if steps[0].linear:
        (alpha, beta), *later = steps[0].linear
        levels = linear_levels(image, alpha, beta)
        steps = [*([level_step(*later)] if later else []), *steps[1:]]
    else:
        levels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    for step in steps:
        levels = _apply(levels, step)
    return levels.astype(image.dtype)


@TRANSFORMS.register_module()
class AdjustGamma(BaseTransform):
    """Raise the levels, as shares of 255, to the power 1 / gamma.

    Args:
        gamma: Above 1 brightens, below 1 darkens.
    """

    def __init__(self, gamma: Positive = 1.0) -> None:
        self.gamma = gamma
        self.table = ((np.arange(256) / 255.0) ** (1.0 / gamma) * 255).astype(np.uint8)

    def transform(self, sample: Sample) -> Sample:
        """Change ``img``.

        Raises:
            DataError: The image has no levels 0..255.
        """
        sample["img"] = cv2.LUT(check_levels(sample, self).astype(np.uint8), self.table)
        return sample


@TRANSFORMS.register_module()
class CLAHE(BaseTransform):
    """Equalise the histogram of each channel tile by tile, with limited contrast.

    Args:
        clip_limit: Limit of the contrast.
        tile_grid_size: Tiles in a row and in a column.
    """

    def __init__(
        self, clip_limit: Positive = 40.0, tile_grid_size: tuple[Count, Count] = (8, 8)
    ) -> None:
        self.clip_limit = clip_limit
        self.tile_grid_size = (int(tile_grid_size[0]), int(tile_grid_size[1]))

    def transform(self, sample: Sample) -> Sample:
        """Change ``img``.

        Raises:
            DataError: The image has no levels 0..255.
        """
        # made here: the object of OpenCV cannot travel to a worker process
        method = cv2.createCLAHE(self.clip_limit, self.tile_grid_size)
        channels = cv2.split(check_levels(sample, self).astype(np.uint8))
        sample["img"] = cv2.merge([method.apply(channel) for channel in channels])
        return sample


@TRANSFORMS.register_module()
class RGB2Gray(BaseTransform):
    """Replace the channels by their weighted sum.

    Args:
        out_channels: How many equal channels to give; None for as many as there are.
        weights: Weight of each channel in the order of the image, which is BGR after loading.
    """

    def __init__(
        self, out_channels: Count | None = None, weights: Sequence[float] = (0.299, 0.587, 0.114)
    ) -> None:
        self.out_channels = out_channels
        self.weights = tuple(weights)

    def transform(self, sample: Sample) -> Sample:
        """Change ``img`` to floating point (H, W, C)."""
        grey = (sample["img"] * np.array(self.weights)).sum(axis=2, keepdims=True)
        sample["img"] = grey.repeat(self.out_channels or len(self.weights), axis=2)
        sample["img_shape"] = sample["img"].shape[:2]
        return sample


@TRANSFORMS.register_module()
class Rerange(BaseTransform):
    """Stretch the image's levels to a range.

    Args:
        min_value: Value of the darkest pixel afterwards.
        max_value: Value of the brightest pixel afterwards.

    Raises:
        ConfigError: The range is empty.
    """

    def __init__(self, min_value: float = 0, max_value: float = 255) -> None:
        if min_value >= max_value:
            raise ConfigError(f"Rerange: {min_value} is not below {max_value}")
        self.min_value = min_value
        self.max_value = max_value

    def transform(self, sample: Sample) -> Sample:
        """Change ``img`` to floating point; an image of one level becomes ``min_value``."""
        image = sample["img"].astype(np.float32)
        low, span = image.min(), image.max() - image.min()
        share = (image - low) / (span if span > 0 else 1)
        sample["img"] = share * (self.max_value - self.min_value) + self.min_value
        return sample
