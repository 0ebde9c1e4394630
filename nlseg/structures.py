"""What travels between the parts: the sample dict of a pipeline and the data sample of a model."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
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
    """Ground truth, prediction and logits of one image, each a ``PixelData`` of shape (C, H, W).

    ``seg_logits`` of a prediction are made when they are first read, and held from then on. Until
    then ``"seg_logits" in sample`` is False.
    """

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
        """Class logits (K, H, W), float; where K is 1, the probability of class 1."""
        make = self.__dict__.get("_make_logits")
        if "_seg_logits" not in self and make is not None:
            self.seg_logits = make()
        return self._seg_logits

    @seg_logits.setter
    def seg_logits(self, value: PixelData) -> None:
        self.set_field(value, "_seg_logits", dtype=PixelData)

    @seg_logits.deleter
    def seg_logits(self) -> None:
        later = self.__dict__.pop("_make_logits", None)
        if "_seg_logits" in self or later is None:
            del self._seg_logits

    def set_logits_later(self, make: Callable[[], PixelData]) -> None:
        """Let ``seg_logits`` be made when they are read; what is held of them goes.

        Args:
            make: Returns the logits.
        """
        if "_seg_logits" in self:
            del self.seg_logits
        self.__dict__["_make_logits"] = make  # no field, as reading a field would make them

    def new(self, *args: Any, **kwargs: Any) -> "SegDataSample":
        """Return a copy, with other metainfo and fields where they are given."""
        return self._carry(super().new(*args, **kwargs))

    def clone(self) -> "SegDataSample":
        """Return a copy."""
        return self._carry(super().clone())

    def to(self, *args: Any, **kwargs: Any) -> "SegDataSample":
        """Return a copy with every tensor on a device, or of a type."""
        return self._carry(super().to(*args, **kwargs), "to", *args, **kwargs)

    def cpu(self) -> "SegDataSample":
        """Return a copy on the CPU."""
        return self._carry(super().cpu(), "cpu")

    def cuda(self) -> "SegDataSample":
        """Return a copy on the GPU."""
        return self._carry(super().cuda(), "cuda")

    def detach(self) -> "SegDataSample":
        """Return a copy without gradient."""
        return self._carry(super().detach(), "detach")

    def numpy(self) -> "SegDataSample":
        """Return a copy with arrays in place of tensors."""
        return self._carry(super().numpy(), "numpy")

    def pin_memory(self) -> "SegDataSample":
        """Return a copy in pinned memory, from where a copy to the GPU need not be waited for."""
        return self._carry(_pinned(self))

    def to_dict(self) -> dict[str, Any]:
        """Return metainfo and fields as a dict; ``seg_logits`` are made when its data are read."""
        fields: dict[str, Any] = super().to_dict()
        if "_seg_logits" not in self and "_make_logits" in self.__dict__:
            fields["seg_logits"] = _FieldsLater(self)
        return fields

    def _carry(self, copy: Any, conversion: str = "", *args: Any, **kwargs: Any) -> "SegDataSample":
        """Let a copy make its logits as this sample would, and convert them."""
        make = self.__dict__.get("_make_logits")
        if make is not None:
            made = _Converted(make, conversion, args, kwargs) if conversion else make
            copy.__dict__["_make_logits"] = made
        return copy  # type: ignore[no-any-return]


def _pinned(element: Any) -> Any:
    """Return a data element, of whichever kind, with all its tensors in pinned memory."""
    copy = element.new()
    for name, value in element.items():
        if isinstance(value, BaseDataElement):
            copy.set_data({name: _pinned(value)})
        elif isinstance(value, torch.Tensor):
            copy.set_data({name: value.pin_memory()})
    return copy


class _Converted(NamedTuple):
    """Makes logits, and converts them."""

    make: Callable[[], PixelData]
    conversion: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> PixelData:
        pixels: PixelData = getattr(self.make(), self.conversion)(*self.args, **self.kwargs)
        return pixels


class _FieldsLater(Mapping[str, Any]):
    """The fields of a sample's logits, for metrics, which are handed dicts."""

    def __init__(self, sample: SegDataSample) -> None:
        self._sample = sample

    def __getitem__(self, name: str) -> Any:
        return self._sample.seg_logits.to_dict()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("data",))

    def __len__(self) -> int:
        return 1

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({"data": self["data"].cpu()},)  # what is sent or saved is whole


def input_size(metainfo: Mapping[str, Any]) -> tuple[int, int]:
    """Return the height and width of what the network was given of an image, in px.

    Args:
        metainfo: ``img_shape`` counts where it is a ``torch.Size``, as of a window; else
            ``pad_shape``, else ``img_shape``.
    """
    shape = metainfo.get("img_shape")
    if not isinstance(shape, torch.Size):
        shape = metainfo.get("pad_shape", shape)
    assert shape is not None, "metainfo has neither 'img_shape' nor 'pad_shape'"
    return shape[0], shape[1]
