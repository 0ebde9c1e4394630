"""Arrays to the tensors and data samples that a model takes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from numpy.typing import NDArray
from torch import Tensor

from nlseg.errors import DataError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample, SegDataSample

LabelType = Literal["int64", "uint8"]
META_KEYS = (
    "img_path",
    "seg_map_path",
    "ori_shape",
    "img_shape",
    "pad_shape",
    "scale_factor",
    "flip",
    "flip_direction",
    "reduce_zero_label",
)


def image_to_tensor(image: NDArray[Any]) -> Tensor:
    """Turn an image (H, W[, C]) into a tensor (C, H, W) of the same type; uint16 becomes int32."""
    if image.dtype == np.uint16:  # torch knows it, but computes and collates little of it
        image = image.astype(np.int32)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype == np.uint8 and image.shape[2] == 3:
        planes = np.empty((3, *image.shape[:2]), np.uint8)
        cv2.split(image, list(planes))
        return torch.from_numpy(planes)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@TRANSFORMS.register_module()
class PackSegInputs(BaseTransform):
    """Pack a sample as ``dict(inputs, data_samples)``.

    Args:
        meta_keys: Keys of the sample to keep as meta information; missing ones are left out.
        label_dtype: ``int64``, or ``uint8`` for an eighth of the memory on the way to the network,
            where training widens labels on the device and evaluation counts them as they are.
            ``int64`` is what transforms, hooks and metrics written for mmsegmentation find, and
            what labels above 255 need.
    """

    def __init__(
        self, meta_keys: Sequence[str] = META_KEYS, *, label_dtype: LabelType = "int64"
    ) -> None:
        self.meta_keys = tuple(meta_keys)
        self.label_dtype = label_dtype

    def transform(self, sample: Sample) -> dict[str, Any]:
        """Return ``inputs`` (C, H, W) and a ``SegDataSample`` with ``gt_sem_seg`` (1, H, W).

        Raises:
            DataError: The label map has not one value per pixel.
        """
        packed: dict[str, Any] = {}
        if "img" in sample:
            packed["inputs"] = image_to_tensor(sample["img"])
        data_sample = SegDataSample()
        if "gt_seg_map" in sample:
            label = sample["gt_seg_map"]
            if label.ndim != 2:
                raise DataError(
                    f"{sample.get('seg_map_path')}: gt_seg_map has shape {label.shape}, "
                    "one value per pixel is needed"
                )
            values = label[None].astype(self.label_dtype, order="C")
            data_sample.gt_sem_seg = PixelData(data=torch.from_numpy(values))
        data_sample.set_metainfo({key: sample[key] for key in self.meta_keys if key in sample})
        packed["data_samples"] = data_sample
        return packed


def final_label(result: Any) -> NDArray[Any] | None:
    """Return the label map that a pipeline ends with, packed or not; None where there is none.

    Args:
        result: What a pipeline gives. Of several views of one image the first counts.
    """
    if not isinstance(result, Mapping):
        return None
    packed = result.get("data_samples")
    first = packed[0] if isinstance(packed, list) and packed else packed
    if isinstance(first, SegDataSample) and "gt_sem_seg" in first:
        return np.asarray(first.gt_sem_seg.data)
    label = result.get("gt_seg_map")
    return label if isinstance(label, np.ndarray) else None
