"""Resize to a size that is drawn at random."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from mmcv.transforms import BaseTransform

from nlseg.datasets.transforms.draws import rng_of
from nlseg.datasets.transforms.resize import Backend, Interpolation, Size, as_size
from nlseg.errors import ConfigError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample


class _DrawnResize(BaseTransform):
    """Resize to a scale that is drawn for each sample; a child draws it.

    Args:
        resize_type: Registered name of the transform that resizes.
        keep_ratio: See ``Resize``.
        clip_object_border: See ``Resize``.
        backend: See ``Resize``.
        interpolation: See ``Resize``.
    """

    def __init__(
        self,
        resize_type: str,
        keep_ratio: bool,
        clip_object_border: bool,
        *,
        backend: Backend,
        interpolation: Interpolation,
    ) -> None:
        self.resize = TRANSFORMS.build(
            {
                "type": resize_type,
                "scale": 1,
                "keep_ratio": keep_ratio,
                "clip_object_border": clip_object_border,
                "backend": backend,
                "interpolation": interpolation,
            }
        )

    def transform(self, sample: Sample) -> Sample:
        """Draw a scale and resize to it."""
        self.resize.scale = self.draw_scale(sample)
        resized: Sample = self.resize(sample)
        return resized

    @abstractmethod
    def draw_scale(self, sample: Sample) -> Size:
        """Draw a (width, height). The only random step."""


@TRANSFORMS.register_module()
class RandomResize(_DrawnResize):
    """Resize to a random scale.

    Args:
        scale: (width, height) that ``ratio_range`` multiplies, or two of them, between which
            width and height are drawn.
        ratio_range: Smallest and largest factor of ``scale``.
        resize_type: Registered name of the transform that resizes.
        keep_ratio: See ``Resize``.
        clip_object_border: See ``Resize``.
        backend: See ``Resize``.
        interpolation: See ``Resize``.

    Raises:
        ConfigError: ``scale`` is one size and ``ratio_range`` is not given, or is none of both.
    """

    def __init__(
        self,
        scale: Size | Sequence[Size],
        ratio_range: tuple[float, float] | None = None,
        *,
        resize_type: str = "Resize",
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: Backend = "cv2",
        interpolation: Interpolation = "bilinear",
    ) -> None:
        self.is_range = not isinstance(scale[0], int)
        if len(scale) != 2 or (not self.is_range and ratio_range is None):
            raise ConfigError(
                f"RandomResize: scale {scale!r} with ratio_range {ratio_range!r}; give one "
                "(width, height) with a ratio_range, or two of them without"
            )
        self.scale: Any = scale
        self.ratio_range = ratio_range
        super().__init__(
            resize_type,
            keep_ratio,
            clip_object_border,
            backend=backend,
            interpolation=interpolation,
        )

    def draw_scale(self, sample: Sample) -> Size:
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
        resize_type: Registered name of the transform that resizes.
        keep_ratio: See ``Resize``.
        clip_object_border: See ``Resize``.
        backend: See ``Resize``.
        interpolation: See ``Resize``.
    """

    def __init__(
        self,
        scales: Sequence[int | Size],
        resize_type: str = "Resize",
        *,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: Backend = "cv2",
        interpolation: Interpolation = "bilinear",
    ) -> None:
        given = scales if isinstance(scales, list) else [scales]
        self.scales = [as_size(scale, "RandomChoiceResize.scales") for scale in given]
        super().__init__(
            resize_type,
            keep_ratio,
            clip_object_border,
            backend=backend,
            interpolation=interpolation,
        )

    def transform(self, sample: Sample) -> Sample:
        """Draw one scale and resize to it."""
        self.resize.scale = self.draw_scale(sample)
        resized: Sample = self.resize(sample)
        return resized

    def draw_scale(self, sample: Sample) -> Size:
        """Draw a (width, height), note its place as ``scale_idx``. The only random step."""
        index = int(rng_of(sample).randint(len(self.scales)))
        sample["scale_idx"] = index
        return self.scales[index]
