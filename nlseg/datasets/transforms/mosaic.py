"""Four images as one."""

from collections.abc import Mapping, Sequence, Sized
from typing import Annotated, Any, ClassVar

import numpy as np
from mmcv.transforms import BaseTransform
from numpy.random import RandomState
from numpy.typing import NDArray

from nlseg.bounds import AT_LEAST_0, AT_LEAST_1, HEIGHT_WIDTH, LOW_HIGH, Probability
from nlseg.datasets.transforms.draws import rng_of
from nlseg.datasets.transforms.resize import resize_array
from nlseg.errors import ConfigError
from nlseg.extension import Extensible
from nlseg.registry import TRANSFORMS
from nlseg.structures import IGNORE_INDEX, Sample

NUM_PARTNERS = 3


@TRANSFORMS.register_module()
class RandomMosaic(Extensible, BaseTransform):
    """Put four images around a point that is drawn: this one to its top left, three others.

    Each is resized to fit into ``img_scale``, laid with a corner at the point, and cut at the edge
    of the mosaic, which is twice as high and wide. It belongs into the pipeline of a
    ``MultiImageMixDataset``, which hands the other samples over as ``mix_results``.

    Args:
        prob: Probability of a mosaic.
        img_scale: Height and width in px of a quarter of the mosaic.
        center_ratio_range: Where the point lies, as a share of ``img_scale`` on each axis.
        pad_val: Image value where no image lies.
        seg_pad_val: Label where no image lies.
    """

    not_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("_mosaic_transform_img", "_mosaic_transform_seg", "_mosaic_combine"),
        "write transform(self, sample)",
    )

    def __init__(
        self,
        prob: Probability,
        img_scale: Annotated[tuple[int, int], AT_LEAST_1, HEIGHT_WIDTH] = (640, 640),
        center_ratio_range: Annotated[tuple[float, float], AT_LEAST_0, LOW_HIGH] = (0.5, 1.5),
        pad_val: float = 0,
        seg_pad_val: float = IGNORE_INDEX,
    ) -> None:
        self.prob = prob
        self.img_scale = img_scale
        self.center_ratio_range = center_ratio_range
        self.pad_val = pad_val
        self.seg_pad_val = seg_pad_val

    def draw_indices(self, rng: RandomState, dataset: Sized) -> list[int]:
        """Draw the images to mix in."""
        return [int(index) for index in rng.randint(0, len(dataset), NUM_PARTNERS)]

    def transform(self, sample: Sample) -> Sample:
        """Make a mosaic of ``img`` and all ``seg_fields``; note ``img_shape`` and ``ori_shape``.

        Raises:
            ConfigError: There are no ``mix_results``.
        """
        rng = rng_of(sample)
        if rng.rand() >= self.prob:
            return sample
        others = sample.get("mix_results")
        if others is None or len(others) != NUM_PARTNERS:
            raise ConfigError(
                "RandomMosaic: there are no other samples; put it into the pipeline of "
                "dict(type='MultiImageMixDataset', dataset=..., pipeline=[...])"
            )
        center = self.draw_center(rng)
        four = [sample, *others]
        for key in sample.get("seg_fields", ()):
            maps = [one[key] for one in four]
            sample[key] = self.lay(maps, center, self.seg_pad_val, "nearest")
        images = [one["img"] for one in four]
        sample["img"] = self.lay(images, center, self.pad_val, "bilinear")
        sample["img_shape"] = sample["ori_shape"] = sample["img"].shape[:2]
        return sample

    def draw_center(self, rng: RandomState) -> tuple[int, int]:
        """Draw the point (x, y) where the four images meet."""
        height, width = self.img_scale
        x = int(rng.uniform(*self.center_ratio_range) * width)
        return x, int(rng.uniform(*self.center_ratio_range) * height)

    def lay(
        self, arrays: Sequence[NDArray[Any]], center: tuple[int, int], value: float, rule: str
    ) -> NDArray[Any]:
        """Lay four arrays (H, W[, C]) around a point.

        Args:
            arrays: For top left, top right, bottom left, bottom right.
            center: The point (x, y).
            value: Of what stays empty.
            rule: Interpolation, see ``Resize``.
        """
        height, width = self.img_scale
        shape = (2 * height, 2 * width, *arrays[0].shape[2:])
        mosaic: NDArray[Any] = np.full(shape, value, arrays[0].dtype)
        x, y = min(center[0], 2 * width), min(center[1], 2 * height)
        for place, array in enumerate(arrays):
            factor = min(height / array.shape[0], width / array.shape[1])
            size = (max(int(array.shape[1] * factor), 1), max(int(array.shape[0] * factor), 1))
            picture = resize_array(array, size, rule)
            is_low, is_right = divmod(place, 2)
            rows = min(picture.shape[0], 2 * height - y if is_low else y)
            columns = min(picture.shape[1], 2 * width - x if is_right else x)
            top, left = (y if is_low else y - rows), (x if is_right else x - columns)
            # a picture that is cut keeps the side that lies at the point
            first_row = 0 if is_low else picture.shape[0] - rows
            first_column = 0 if is_right else picture.shape[1] - columns
            mosaic[top : top + rows, left : left + columns] = picture[
                first_row : first_row + rows, first_column : first_column + columns
            ]
        return mosaic
