"""Label files to maps of class indices."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from nlseg.datasets.transforms.label_table import check_range, colours_to_index, label_table
from nlseg.datasets.transforms.loading import ImageBackend, check_option, decode, read_bytes
from nlseg.datasets.transforms.png import decode_fast, read_header
from nlseg.errors import ConfigError, DataError
from nlseg.registry import TRANSFORMS
from nlseg.structures import IGNORE_INDEX, Sample


@TRANSFORMS.register_module()
class LoadAnnotations(BaseTransform):
    """Load ``gt_seg_map`` (H, W) uint8 class indices from ``seg_map_path``.

    The raw values of the file go through three steps: colours to indices where asked, the shift of
    ``reduce_zero_label`` (0 to 255, k to k - 1), the sample's ``label_map``.

    Args:
        reduce_zero_label: Shift labels by one so that 0 is ignored. None takes the data set's.
        backend_args: Arguments of an mmengine file backend for files that are not local.
        imdecode_backend: ``pillow`` keeps the indices of palette images, ``cv2`` gives their
            colours.
        palette_to_index: RGB colours whose position is the class, or a mapping from RGB tuples to
            classes, for masks that are painted in colours. None takes the data set's.

    Raises:
        ConfigError: The backend is not one of those above.
    """

    def __init__(
        self,
        reduce_zero_label: bool | None = None,
        backend_args: Mapping[str, Any] | None = None,
        *,
        imdecode_backend: ImageBackend = "pillow",
        palette_to_index: Any = None,
    ) -> None:
        check_option("LoadAnnotations.imdecode_backend", imdecode_backend, ("cv2", "pillow"))
        self.reduce_zero_label = reduce_zero_label
        self.backend_args = backend_args
        self.imdecode_backend = imdecode_backend
        self.palette_to_index = palette_to_index

    def transform(self, sample: Sample) -> Sample:
        """Set ``gt_seg_map`` and list it in ``seg_fields``.

        Raises:
            DataError: The file cannot be read, is no index mask, or holds a label outside the
                class range.
            ConfigError: Pipeline and data set disagree about ``reduce_zero_label``.
        """
        path = sample["seg_map_path"]
        label = sample.pop("cached_label", None)
        if label is None:
            label = self.read(path, sample)
        _check_same_size(label, sample)
        table = label_table(self.reduces(sample), sample.get("label_map"))
        if table is not None:
            label = cv2.LUT(label, table)
        if sample.get("num_classes") is not None:
            check_range(
                label, path, sample["num_classes"], sample.get("ignore_index", IGNORE_INDEX)
            )
        sample["gt_seg_map"] = label
        sample["seg_fields"] = [*sample.get("seg_fields", ()), "gt_seg_map"]
        return sample

    def reduces(self, sample: Sample) -> bool:
        """Tell whether labels are shifted: the pipeline's word, else the data set's."""
        theirs = sample.get("reduce_zero_label")
        if self.reduce_zero_label is None:
            return bool(theirs)
        if theirs is not None and self.reduce_zero_label != theirs:
            raise ConfigError(
                f"LoadAnnotations.reduce_zero_label: the pipeline says {self.reduce_zero_label} "
                f"and the data set says {theirs}; set it in the data set and leave it out here"
            )
        return self.reduce_zero_label

    def read(self, path: str, sample: Sample) -> NDArray[np.uint8]:
        """Return the raw class indices (H, W) of a file."""
        data = read_bytes(path, self.backend_args)
        colours = self.palette_to_index
        if colours is None:
            colours = sample.get("palette_to_index")
        if colours is not None:
            return colours_to_index(decode(data, path, "color", "pillow"), path, colours)
        header = read_header(data)
        if header is not None and header.is_grey:
            label = decode_fast(data, header, header.height)
            if label is not None:
                return label
        raw = decode(data, path, "unchanged", self.imdecode_backend)
        if raw.ndim == 3 and raw.shape[2] == 1:
            raw = raw[..., 0]
        return _as_index_map(raw, path)


def _as_index_map(raw: NDArray[Any], path: str) -> NDArray[np.uint8]:
    if raw.ndim != 2:
        raise DataError(
            f"{path}: a label map has one value per pixel, this file has shape {raw.shape}; "
            'for masks painted in colours see "Masks painted in colours" in docs/datasets.md'
        )
    if raw.dtype.itemsize > 1 and raw.size and (raw.min() < 0 or raw.max() > 255):
        raise DataError(
            f"{path}: labels are stored in 8 bits, this file is {raw.dtype} with values "
            f"{raw.min()}..{raw.max()}"
        )
    return np.ascontiguousarray(raw, dtype=np.uint8)


def _check_same_size(label: NDArray[np.uint8], sample: Sample) -> None:
    expected = sample.get("ori_shape")
    if expected is not None and tuple(label.shape) != tuple(expected):
        raise DataError(
            f"{sample['seg_map_path']}: label map of {label.shape[0]} x {label.shape[1]} px for "
            f"the image {sample.get('img_path')} of {expected[0]} x {expected[1]} px "
            "(height x width)"
        )
