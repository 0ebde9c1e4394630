"""Change the size of image and label maps: OpenMMLab's size rules, OpenCV's pixels."""

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray
from PIL import Image

from nlseg.errors import ConfigError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample

Size = tuple[int, int]
Backend = Literal["cv2", "pillow"]
Interpolation = Literal[
    "nearest", "bilinear", "bicubic", "area", "lanczos", "box", "hamming"
]  # fmt: skip

CV2_CODES = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
_PILLOW_CODES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
}
_CODES: dict[str, dict[str, Any]] = {"cv2": CV2_CODES, "pillow": _PILLOW_CODES}


def scale_size(size: Size, factor: tuple[float, float]) -> Size:
    """Multiply a (width, height) by a factor per axis and round half up."""
    return int(size[0] * float(factor[0]) + 0.5), int(size[1] * float(factor[1]) + 0.5)


def fit_size(size: Size, scale: Size) -> Size:
    """Return the largest (width, height) of the same shape that fits a scale.

    The longer side of ``scale`` limits the longer side, its shorter side the shorter one.
    """
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return scale_size(size, (factor, factor))


def as_size(value: Any, where: str) -> Size:
    """Read a (width, height) or one number for both.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    raise ConfigError(f"{where}: {value!r} is neither a whole number nor two whole numbers")


def resize_array(
    array: NDArray[Any], size: Size, interpolation: str, backend: str = "cv2"
) -> NDArray[Any]:
    """Resize an array (H, W[, C]) to a (width, height)."""
    if backend == "pillow":
        return np.array(Image.fromarray(array).resize(size, _PILLOW_CODES[interpolation]))
    resized: NDArray[Any] = cv2.resize(array, size, interpolation=CV2_CODES[interpolation])
    return resized


@TRANSFORMS.register_module()
class Resize(BaseTransform):
    """Resize ``img`` and every label map to a fixed size or by a fixed factor.

    Args:
        scale: (width, height) in px, or one number for both.
        scale_factor: Factor of the width and the height, or one for both; its result is used like
            ``scale``.
        keep_ratio: Keep the shape of the image and take ``scale`` as the size to fit into.
        clip_object_border: Accepted for OpenMMLab's configs; there are no boxes here.
        backend: ``cv2`` or ``pillow``.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``, with ``cv2`` also
            ``area``, with ``pillow`` ``box`` or ``hamming``, for the image; label maps are resized
            by ``nearest``.

    Raises:
        ConfigError: Neither scale nor factor is given, or an option is not one of those above.
    """

    def __init__(
        self,
        scale: int | Size | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        *,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: Backend = "cv2",
        interpolation: Interpolation = "bilinear",
    ) -> None:
        if scale is None and scale_factor is None:
            raise ConfigError("Resize: neither scale nor scale_factor is given; one is needed")
        if backend not in _CODES:
            raise ConfigError(f"Resize.backend: {backend!r} is not one of cv2, pillow")
        codes = _CODES[backend]
        if interpolation not in codes:
            raise ConfigError(
                f"Resize.interpolation: {interpolation!r} is not one of {', '.join(codes)}"
            )
        self.scale = None if scale is None else as_size(scale, "Resize.scale")
        if isinstance(scale_factor, int | float):
            scale_factor = (float(scale_factor), float(scale_factor))
        self.scale_factor = scale_factor
        self.keep_ratio = keep_ratio
        self.clip_object_border = clip_object_border
        self.backend = backend
        self.interpolation = interpolation

    def transform(self, sample: Sample) -> Sample:
        """Resize the image and all ``seg_fields``; note ``scale`` and ``scale_factor`` (w, h)."""
        image = sample["img"]
        old = (image.shape[1], image.shape[0])
        if self.scale is not None:
            scale = self.scale
        else:
            assert self.scale_factor is not None
            scale = scale_size(old, self.scale_factor)
        new = self.target_size(old, scale)
        sample["img"] = resize_array(image, new, self.interpolation, self.backend)
        for key in sample.get("seg_fields", ()):
            # a label map that was loaded at another size keeps its own relation to the scale
            size = (sample[key].shape[1], sample[key].shape[0])
            target = self.target_size(size, scale)
            sample[key] = resize_array(sample[key], target, "nearest", self.backend)
        self.note(sample, old, new, scale)
        return sample

    def target_size(self, size: Size, scale: Size) -> Size:
        """Return the new (width, height) of an image of ``size``."""
        return fit_size(size, scale) if self.keep_ratio else scale

    def note(self, sample: Sample, old: Size, new: Size, scale: Size) -> None:
        """Write down what happened to the image's size."""
        sample["scale"] = scale
        sample["img_shape"] = (new[1], new[0])
        sample["scale_factor"] = (new[0] / old[0], new[1] / old[1])
        sample["keep_ratio"] = self.keep_ratio
