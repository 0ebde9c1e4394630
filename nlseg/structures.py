"""What travels between the parts: the sample dict of a pipeline and the data sample of a model."""

from typing import Any, NamedTuple

from mmengine.structures import BaseDataElement, PixelData

IGNORE_INDEX = 255
"""Label value that neither trains nor counts."""

Sample = dict[str, Any]
"""One image on its way through a pipeline, under mmcv's keys.

``img`` (H, W, 3) uint8 BGR, ``gt_seg_map`` (H, W) uint8, ``img_path``, ``seg_map_path``,
``img_shape`` and ``ori_shape`` (height, width), ``seg_fields``, ``reduce_zero_label``,
``label_map``, and ``rng``: the ``numpy.random.RandomState`` that every random transform draws from.
"""


class SampleIndex(NamedTuple):
    """What a sampler yields: which image, and which number in the stream of samples it has."""

    index: int  # type: ignore[assignment]  # tuple.index is not needed here
    number: int


class SegDataSample(BaseDataElement):
    """Ground truth, prediction and logits of one image, each a ``PixelData`` of shape (C, H, W)."""

    @property
    def gt_sem_seg(self) -> PixelData:
        """Label map (1, H, W), int64."""
        return self._gt_sem_seg

    @gt_sem_seg.setter
    def gt_sem_seg(self, value: PixelData) -> None:
        self.set_field(value, "_gt_sem_seg", dtype=PixelData)

    @gt_sem_seg.deleter
    def gt_sem_seg(self) -> None:
        del self._gt_sem_seg

    @property
    def pred_sem_seg(self) -> PixelData:
        """Predicted label map (1, H, W), int64."""
        return self._pred_sem_seg

    @pred_sem_seg.setter
    def pred_sem_seg(self, value: PixelData) -> None:
        self.set_field(value, "_pred_sem_seg", dtype=PixelData)

    @pred_sem_seg.deleter
    def pred_sem_seg(self) -> None:
        del self._pred_sem_seg

    @property
    def seg_logits(self) -> PixelData:
        """Class logits (K, H, W), float."""
        return self._seg_logits

    @seg_logits.setter
    def seg_logits(self, value: PixelData) -> None:
        self.set_field(value, "_seg_logits", dtype=PixelData)

    @seg_logits.deleter
    def seg_logits(self) -> None:
        del self._seg_logits
