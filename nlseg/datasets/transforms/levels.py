"""Fixed changes of the image's levels; label maps stay."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from nlseg.errors import ConfigError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample


@TRANSFORMS.register_module()
class AdjustGamma(BaseTransform):
    """Raise the levels, as shares of 255, to the power 1 / gamma.

    Args:
        gamma: Above 1 brightens, below 1 darkens.

    Raises:
        ConfigError: ``gamma`` is not above 0.
    """

    def __init__(self, gamma: float = 1.0) -> None:
        if gamma <= 0:
            raise ConfigError(f"AdjustGamma.gamma: {gamma} is not above 0")
        self.gamma = gamma
        self.table = ((np.arange(256) / 255.0) ** (1.0 / gamma) * 255).astype(np.uint8)

    def transform(self, sample: Sample) -> Sample:
        """Change ``img``."""
        sample["img"] = cv2.LUT(sample["img"].astype(np.uint8), self.table)
        return sample


@TRANSFORMS.register_module()
class CLAHE(BaseTransform):
    """Equalise the histogram of each channel tile by tile, with limited contrast.

    Args:
        clip_limit: Limit of the contrast.
        tile_grid_size: Tiles in a row and in a column.
    """

    def __init__(self, clip_limit: float = 40.0, tile_grid_size: Sequence[int] = (8, 8)) -> None:
        self.clip_limit = clip_limit
        self.tile_grid_size = (int(tile_grid_size[0]), int(tile_grid_size[1]))

    def transform(self, sample: Sample) -> Sample:
        """Change ``img``."""
        # made here: the object of OpenCV cannot travel to a worker process
        method = cv2.createCLAHE(self.clip_limit, self.tile_grid_size)
        channels = cv2.split(sample["img"].astype(np.uint8))
        sample["img"] = cv2.merge([method.apply(channel) for channel in channels])
        return sample


@TRANSFORMS.register_module()
class RGB2Gray(BaseTransform):
    """Replace the channels by their weighted sum.

    Args:
        out_channels: How many equal channels to give; None for as many as there are.
        weights: Weight of each channel in the order of the image, which is BGR after loading.

    Raises:
        ConfigError: ``out_channels`` is not above 0.
    """

    def __init__(
        self, out_channels: int | None = None, weights: Sequence[float] = (0.299, 0.587, 0.114)
    ) -> None:
        if out_channels is not None and out_channels <= 0:
            raise ConfigError(f"RGB2Gray.out_channels: {out_channels} is not above 0")
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
