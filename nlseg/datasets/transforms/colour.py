"""Change the colours of the image; label maps stay."""

from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.random import RandomState
from numpy.typing import NDArray

from nlseg.datasets.transforms.draws import rng_of
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample

_LEVELS = np.arange(256)
_HUE, _SATURATION = 0, 1


class ColourStep(NamedTuple):
    """A table (256,) for the levels, or for one channel of (hue, saturation, value)."""

    table: NDArray[np.uint8]
    hsv_channel: int | None = None


def linear_table(alpha: float = 1, beta: float = 0) -> NDArray[np.uint8]:
    """Tabulate clip(alpha * level + beta) for the levels 0..255, rounded towards zero."""
    values = _LEVELS.astype(np.float32) * np.float32(alpha) + np.float32(beta)
    table: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return table


@TRANSFORMS.register_module()
class PhotoMetricDistortion(BaseTransform):
    """Distort brightness, contrast, saturation and hue, each with probability one half.

    Contrast comes right after brightness or at the very end, each with probability one half.
    Every step works on uint8 levels and rounds, through a table of 256 values.

    Args:
        brightness_delta: Largest change of the levels.
        contrast_range: Smallest and largest factor of the levels.
        saturation_range: Smallest and largest factor of the saturation.
        hue_delta: Largest change of the hue, in steps of two degrees.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def transform(self, sample: Sample) -> Sample:
        """Distort ``img`` (H, W, 3) uint8 BGR."""
        for step in self.draw_steps(rng_of(sample)):
            sample["img"] = _apply(sample["img"], step)
        return sample

    def draw_steps(self, rng: RandomState) -> list[ColourStep]:
        """Draw the tables to apply. The only random step.

        Neighbouring steps on the levels become one table.
        """
        levels: NDArray[np.uint8] | None = None
        steps: list[ColourStep] = []
        if rng.randint(2):
            delta = self.brightness_delta
            levels = linear_table(beta=rng.uniform(-delta, delta))
        contrast_first = rng.randint(2) == 1
        if contrast_first and rng.randint(2):
            contrast = linear_table(alpha=rng.uniform(*self.contrast_range))
            levels = contrast if levels is None else contrast[levels]
        if levels is not None:
            steps.append(ColourStep(levels))
        if rng.randint(2):
            saturation = linear_table(alpha=rng.uniform(*self.saturation_range))
            steps.append(ColourStep(saturation, _SATURATION))
        if rng.randint(2):
            hue = (_LEVELS + rng.randint(-self.hue_delta, self.hue_delta)) % 180
            steps.append(ColourStep(hue.astype(np.uint8), _HUE))
        if not contrast_first and rng.randint(2):
            steps.append(ColourStep(linear_table(alpha=rng.uniform(*self.contrast_range))))
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
