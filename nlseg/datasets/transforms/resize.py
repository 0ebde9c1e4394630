"""Change the size of image and label maps: OpenMMLab's size rules, OpenCV's pixels."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import Unpack

from nlseg.bounds import ABOVE_0, AT_LEAST_1, LOW_HIGH, WIDTH_HEIGHT, Count, Natural, Positive
from nlseg.datasets.transforms.draws import rng_of
from nlseg.errors import ConfigError
from nlseg.extension import Extensible
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample

Scale = tuple[int, int]
"""(width, height) in px, the order of OpenMMLab's ``scale``."""
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


def scale_size(size: Scale, factor: tuple[float, float]) -> Scale:
    """Multiply a (width, height) by a factor per axis and round half up."""
    return int(size[0] * float(factor[0]) + 0.5), int(size[1] * float(factor[1]) + 0.5)


def fit_size(size: Scale, scale: Scale) -> Scale:
    """Return the largest (width, height) of the same shape that fits a scale.

    The longer side of ``scale`` limits the longer side, its shorter side the shorter one.
    """
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return scale_size(size, (factor, factor))


def as_size(value: Any, where: str) -> Scale:
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
    array: NDArray[Any], size: Scale, interpolation: str, backend: str = "cv2"
) -> NDArray[Any]:
    """Resize an array (H, W[, C]) to a (width, height)."""
    if backend == "pillow":
        return np.array(Image.fromarray(array).resize(size, _PILLOW_CODES[interpolation]))
    resized: NDArray[Any] = cv2.resize(array, size, interpolation=CV2_CODES[interpolation])
    return resized


@TRANSFORMS.register_module()
class Resize(Extensible, BaseTransform):
    """Resize ``img`` and every label map to a fixed size or by a fixed factor.

    Args:
        scale: (width, height) in px, or one number for both; 0 where ``scale`` is set before each
            use, as OpenMMLab's random resizes do.
        scale_factor: Factor of the width and the height, or one for both; its result is used like
            ``scale``.
        keep_ratio: Keep the shape of the image and take ``scale`` as the size to fit into.
        clip_object_border: Accepted for OpenMMLab's configs; there are no boxes here.
        backend: ``cv2`` or ``pillow``.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``, with ``cv2`` also
            ``area``, with ``pillow`` ``box`` or ``hamming``, for the image; label maps are resized
            by ``nearest``.

    Raises:
        ConfigError: Neither scale nor factor is given, or the backend has no such interpolation.
    """

    not_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("_resize_img", "_resize_seg", "_resize_bboxes", "_resize_keypoints"),
        "write transform(self, sample)",
    )

    def __init__(
        self,
        scale: Natural | Annotated[Scale, AT_LEAST_1, WIDTH_HEIGHT] | None = None,
        scale_factor: Annotated[float | tuple[float, float], ABOVE_0] | None = None,
        *,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: Backend = "cv2",
        interpolation: Interpolation = "bilinear",
    ) -> None:
        if scale is None and scale_factor is None:
            raise ConfigError("Resize: neither scale nor scale_factor is given; one is needed")
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

    def target_size(self, size: Scale, scale: Scale) -> Scale:
        """Return the new (width, height) of an image of ``size``."""
        return fit_size(size, scale) if self.keep_ratio else scale

    def note(self, sample: Sample, old: Scale, new: Scale, scale: Scale) -> None:
        """Write down what happened to the image's size."""
        sample["scale"] = scale
        sample["img_shape"] = (new[1], new[0])
        sample["scale_factor"] = (new[0] / old[0], new[1] / old[1])
        sample["keep_ratio"] = self.keep_ratio


@TRANSFORMS.register_module()
class ResizeToMultiple(BaseTransform):
    """Stretch image and label maps to the next multiple of a number.

    Args:
        size_divisor: Number for width and height in px, or (width, height).
        interpolation: See ``Resize``; None for ``bilinear``.
        scale: See ``Resize``; the multiple is the next one above the size that it gives. None
            starts from the image's own size.
        keep_ratio: See ``Resize``; it goes with ``scale``.
    """

    def __init__(
        self,
        size_divisor: Annotated[int | Scale, AT_LEAST_1, WIDTH_HEIGHT] = 32,
        interpolation: Interpolation | None = None,
        *,
        scale: Annotated[int | Scale, AT_LEAST_1, WIDTH_HEIGHT] | None = None,
        keep_ratio: bool = False,
    ) -> None:
        self.size_divisor = as_size(size_divisor, "ResizeToMultiple.size_divisor")
        self.interpolation: Interpolation = interpolation or "bilinear"
        self.scale = scale
        self.keep_ratio = keep_ratio

    def transform(self, sample: Sample) -> Sample:
        """Resize ``img`` and all ``seg_fields``; note ``img_shape`` and ``pad_shape``."""
        size = self.target_size(sample["img"].shape)
        sample["img"] = resize_array(sample["img"], size, self.interpolation)
        for key in sample.get("seg_fields", ()):
            sample[key] = resize_array(sample[key], size, "nearest")
        sample["img_shape"] = sample["pad_shape"] = sample["img"].shape[:2]
        return sample

    def target_size(self, shape: Sequence[int]) -> Scale:
        """Return the new (width, height) of an image of (height, width)."""
        width, height = shape[1], shape[0]
        if self.scale is not None:
            scale = as_size(self.scale, "ResizeToMultiple.scale")
            width, height = fit_size((width, height), scale) if self.keep_ratio else scale
        across, down = self.size_divisor
        return -(-width // across) * across, -(-height // down) * down


@TRANSFORMS.register_module()
class ResizeShortestEdge(Extensible, BaseTransform):
    """Resize so that the shorter side gets a length, unless the longer one then gets too long.

    Args:
        scale: Length of the shorter side in px; of two numbers the smaller one.
        max_size: Longest allowed longer side in px.
        keep_ratio: Accepted for OpenMMLab's configs; the shape is kept anyway.
        backend: See ``Resize``.
        interpolation: See ``Resize``.
    """

    not_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("_get_output_shape",), "write target_size(self, shape)"
    )

    def __init__(
        self,
        scale: Annotated[int | Scale, AT_LEAST_1],
        max_size: Count,
        *,
        keep_ratio: bool = True,
        backend: Backend = "cv2",
        interpolation: Interpolation = "bilinear",
    ) -> None:
        self.scale = scale
        self.max_size = max_size
        self.keep_ratio = keep_ratio
        self.resize = Resize(scale=1, backend=backend, interpolation=interpolation)

    def transform(self, sample: Sample) -> Sample:
        """Resize ``img`` and all ``seg_fields``."""
        self.resize.scale = self.target_size(sample["img"].shape)
        return self.resize.transform(sample)

    def target_size(self, shape: Sequence[int]) -> Scale:
        """Return the new (width, height) of an image of (height, width)."""
        height, width = shape[0], shape[1]
        edge = min(as_size(self.scale, "ResizeShortestEdge.scale"))
        factor = min(edge / min(height, width), self.max_size / max(height, width))
        return int(width * factor + 0.5), int(height * factor + 0.5)


@TRANSFORMS.register_module()
class SegRescale(BaseTransform):
    """Resize the label maps alone, to the size of a network's output.

    Args:
        scale_factor: Factor of width and height.
    """

    def __init__(self, scale_factor: Positive = 1) -> None:
        self.scale_factor = scale_factor

    def transform(self, sample: Sample) -> Sample:
        """Resize all ``seg_fields`` by ``nearest``."""
        for key in sample.get("seg_fields", ()):
            height, width = sample[key].shape[:2]
            size = scale_size((width, height), (self.scale_factor, self.scale_factor))
            sample[key] = resize_array(sample[key], size, "nearest")
        return sample


class ResizeArgs(TypedDict, total=False):
    """Arguments of our transforms that resize; a ``resize_type`` of a user's may have others."""

    keep_ratio: bool
    clip_object_border: bool
    backend: Backend
    interpolation: Interpolation
    max_size: int
    size_divisor: int | Scale


class _DrawnResize(Extensible, BaseTransform):
    """Resize to a scale that is drawn for each sample; a child draws it.

    Args:
        resize_type: Registered name of the transform that resizes, or its class. It takes
            ``scale``, and follows its attribute ``scale``, which is set anew for each sample.
        resize_args: Further arguments of that transform.

    Raises:
        ConfigError: The transform has no such argument, or no ``scale``.
    """

    hands_on_to: ClassVar[str] = "resize_type"
    """The argument that names the class which takes the further arguments."""
    hands_on_itself: ClassVar[tuple[str, ...]] = ("scale",)

    not_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("_random_scale", "_random_sample", "_random_sample_ratio", "_random_select"),
        "write draw_scale(self, sample)",
    )

    def __init__(self, resize_type: str | type[Any], **resize_args: Unpack[ResizeArgs]) -> None:
        where = type(self).__name__
        try:
            self.resize = TRANSFORMS.build({"type": resize_type, "scale": 1, **resize_args})
        except TypeError as error:
            raise ConfigError(
                f"{where}.resize_type: {resize_type} cannot be built: {error}; it has to take "
                "'scale' and the further arguments given here"
            ) from error

    def transform(self, sample: Sample) -> Sample:
        """Draw a scale and resize to it."""
        scale = self.draw_scale(sample)
        sample["scale"] = scale
        is_ours = isinstance(self.resize, Resize)
        self.resize.scale = as_size(scale, "scale") if is_ours else scale
        resized: Sample = self.resize(sample)
        return resized

    @abstractmethod
    def draw_scale(self, sample: Sample) -> int | Scale:
        """Draw a (width, height), or one number as it was given. The only random step."""


@TRANSFORMS.register_module()
class RandomResize(_DrawnResize):
    """Resize to a random scale.

    Args:
        scale: (width, height) that ``ratio_range`` multiplies, or two of them, between which
            width and height are drawn.
        ratio_range: Smallest and largest factor of ``scale``.
        resize_type: Registered name of the transform that resizes, or its class: ``Resize``,
            ``ResizeShortestEdge``, ``ResizeToMultiple`` or one of your own that takes ``scale``.
        resize_args: Further arguments of that transform, such as ``keep_ratio``.

    Raises:
        ConfigError: ``scale`` is one size and ``ratio_range`` is not given, or is none of both.
    """

    def __init__(
        self,
        scale: Annotated[Scale | Sequence[Scale], AT_LEAST_1],
        ratio_range: Annotated[tuple[float, float], ABOVE_0, LOW_HIGH] | None = None,
        resize_type: str | type[Any] = "Resize",
        **resize_args: Unpack[ResizeArgs],
    ) -> None:
        self.is_range = not isinstance(scale[0], int)
        if len(scale) != 2 or (not self.is_range and ratio_range is None):
            raise ConfigError(
                f"RandomResize: scale {scale!r} with ratio_range {ratio_range!r}; give one "
                "(width, height) with a ratio_range, or two of them without"
            )
        self.scale: Any = scale
        self.ratio_range = ratio_range
        super().__init__(resize_type, **resize_args)

    def draw_scale(self, sample: Sample) -> Scale:
        """Draw a (width, height). The only random step."""
        rng = rng_of(sample)
        if self.is_range:
            widths, heights = sorted(s[0] for s in self.scale), sorted(s[1] for s in self.scale)
            width = int(rng.randint(widths[0], widths[1] + 1))
            return width, int(rng.randint(heights[0], heights[1] + 1))
        assert self.ratio_range is not None
        low, high = self.ratio_range
        ratio = rng.random_sample() * (high - low) + low
        return int(self.scale[0] * ratio), int(self.scale[1] * ratio)


@TRANSFORMS.register_module()
class RandomChoiceResize(_DrawnResize):
    """Resize to one of several scales, drawn at random.

    Args:
        scales: The (width, height) to choose from, or single numbers.
        resize_type: Registered name of the transform that resizes, or its class: ``Resize``,
            ``ResizeShortestEdge``, ``ResizeToMultiple`` or one of your own that takes ``scale``.
        resize_args: Further arguments of that transform, such as ``keep_ratio``.
    """

    def __init__(
        self,
        scales: Annotated[Sequence[int | Scale], AT_LEAST_1],
        resize_type: str | type[Any] = "Resize",
        **resize_args: Unpack[ResizeArgs],
    ) -> None:
        is_one = isinstance(scales, tuple) and isinstance(scales[0], int)
        self.scales: list[Any] = [scales] if is_one else list(scales)
        for scale in self.scales:
            as_size(scale, "RandomChoiceResize.scales")
        super().__init__(resize_type, **resize_args)

    def draw_scale(self, sample: Sample) -> int | Scale:
        """Draw one of the scales, note its place as ``scale_idx``. The only random step."""
        index = int(rng_of(sample).randint(len(self.scales)))
        sample["scale_idx"] = index
        scale: int | Scale = self.scales[index]
        return scale
