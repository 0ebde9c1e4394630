"""Other rules for the size of image and label maps."""

from mmcv.transforms import BaseTransform

from nlseg.datasets.transforms.resize import (
    Backend,
    Interpolation,
    Resize,
    Size,
    as_size,
    resize_array,
)
from nlseg.errors import ConfigError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample


@TRANSFORMS.register_module()
class ResizeToMultiple(BaseTransform):
    """Stretch image and label maps to the next multiple of a number.

    Args:
        size_divisor: Number for width and height in px, or (width, height).
        interpolation: See ``Resize``; None for ``bilinear``.
    """

    def __init__(
        self, size_divisor: int | Size = 32, interpolation: Interpolation | None = None
    ) -> None:
        self.size_divisor = as_size(size_divisor, "ResizeToMultiple.size_divisor")
        self.interpolation: Interpolation = interpolation or "bilinear"

    def transform(self, sample: Sample) -> Sample:
        """Resize ``img`` and all ``seg_fields``; note ``img_shape`` and ``pad_shape``."""
        height, width = sample["img"].shape[:2]
        across, down = self.size_divisor
        size = (-(-width // across) * across, -(-height // down) * down)
        sample["img"] = resize_array(sample["img"], size, self.interpolation)
        for key in sample.get("seg_fields", ()):
            sample[key] = resize_array(sample[key], size, "nearest")
        sample["img_shape"] = sample["pad_shape"] = sample["img"].shape[:2]
        return sample


@TRANSFORMS.register_module()
class ResizeShortestEdge(BaseTransform):
    """Resize so that the shorter side gets a length, unless the longer one then gets too long.

    Args:
        scale: Length of the shorter side in px.
        max_size: Longest allowed longer side in px.
        keep_ratio: Accepted for OpenMMLab's configs; the shape is kept anyway.
        backend: See ``Resize``.
        interpolation: See ``Resize``.

    Raises:
        ConfigError: A length is not above 0.
    """

    def __init__(
        self,
        scale: int,
        max_size: int,
        *,
        keep_ratio: bool = True,
        backend: Backend = "cv2",
        interpolation: Interpolation = "bilinear",
    ) -> None:
        if scale <= 0 or max_size <= 0:
            raise ConfigError(
                f"ResizeShortestEdge: scale={scale}, max_size={max_size}; both must be above 0"
            )
        self.scale = scale
        self.max_size = max_size
        self.keep_ratio = keep_ratio
        self.resize = Resize(scale=1, backend=backend, interpolation=interpolation)

    def transform(self, sample: Sample) -> Sample:
        """Resize ``img`` and all ``seg_fields``."""
        self.resize.scale = self.target_size(sample["img"].shape)
        return self.resize.transform(sample)

    def target_size(self, shape: tuple[int, ...]) -> Size:
        """Return the new (width, height) of an image of (height, width)."""
        height, width = shape[0], shape[1]
        factor = min(self.scale / min(height, width), self.max_size / max(height, width))
        return int(width * factor + 0.5), int(height * factor + 0.5)
