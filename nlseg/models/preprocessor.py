"""From a batch of uint8 images to one normalised float tensor on the model's device."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor
from typing_extensions import TypedDict

from nlseg.bounds import AT_LEAST_1, HEIGHT_WIDTH, Count, Positive
from nlseg.errors import ConfigError
from nlseg.ops.resize import Size
from nlseg.registry import MODELS, Cfg
from nlseg.structures import IGNORE_INDEX, SegDataSample

Padding = tuple[int, int, int, int]
"""Left, right, top and bottom in px."""
PadMode = Literal["bottom_right", "center"]


class EvaluationPadding(TypedDict, total=False):
    """What evaluation pads to; one of the two."""

    size: Annotated[Size, AT_LEAST_1, HEIGHT_WIDTH]
    size_divisor: Count


@MODELS.register_module()
class SegDataPreProcessor(BaseDataPreprocessor):
    """Move a batch to the device, swap channels, normalise, pad and stack.

    In training images and labels are padded to one size, and each sample learns its ``img_shape``
    (before padding), ``pad_shape`` and ``padding_size``. In evaluation images of a batch must have
    one size and are padded only as ``test_cfg`` says.

    Args:
        mean: Mean of each channel, in the order after the swap.
        std: Standard deviation of each channel.
        size: (height, width) that training pads to; larger images stay as they are.
        size_divisor: Training pads to the next multiple of this instead.
        pad_val: Value that pads images, after normalisation: 0 is the mean colour.
        seg_pad_val: Value that pads labels.
        bgr_to_rgb: Swap BGR to RGB; None is as good as False.
        rgb_to_bgr: Swap RGB to BGR; None is as good as False.
        batch_augments: Configs of callables ``(inputs, data_samples)`` applied to training batches.
        test_cfg: ``size`` or ``size_divisor`` for evaluation.
        pad_mode: 'bottom_right' pads below and to the right, 'center' on all sides.
        channels_last: Give the batch the channels-last memory format.
        non_blocking: Let the copy to a GPU run beside the host's work and beside what the GPU
            computes.

    Raises:
        ConfigError: For two swaps, only one of mean and std, or two sizes to pad to.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[Positive] | None = None,
        size: Annotated[Size, AT_LEAST_1, HEIGHT_WIDTH] | None = None,
        size_divisor: Count | None = None,
        pad_val: float = 0,
        seg_pad_val: float = IGNORE_INDEX,
        bgr_to_rgb: bool | None = False,
        rgb_to_bgr: bool | None = False,
        batch_augments: Sequence[Cfg] | None = None,
        test_cfg: EvaluationPadding | None = None,
        pad_mode: PadMode = "bottom_right",
        channels_last: bool = False,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking)
        _check(size, size_divisor, test_cfg, mean, std)
        if bgr_to_rgb and rgb_to_bgr:
            raise ConfigError("data_preprocessor: give one of 'bgr_to_rgb' and 'rgb_to_bgr'")
        self.size = size
        self.size_divisor = size_divisor
        self.pad_val = pad_val
        self.seg_pad_val = seg_pad_val
        self.swap_channels = bool(bgr_to_rgb or rgb_to_bgr)
        self.batch_augments = [MODELS.build(cfg) for cfg in batch_augments or ()]
        self.test_cfg = test_cfg
        self.pad_mode = pad_mode
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.normalises = mean is not None
        self.register_buffer("mean", torch.tensor(mean or [0.0]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or [1.0]).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return the batch as a model takes it.

        Args:
            data: ``inputs``, a list of (3, H, W) images or one tensor (N, 3, H, W), and
                ``data_samples``, one for each image (may be absent in evaluation).
            training: Pad for training, labels too.

        Returns:
            ``inputs`` (N, 3, H, W) float and ``data_samples``.

        Raises:
            ValueError: For evaluation images of different sizes, or training without samples.
        """
        data = self._send(data)
        images: Sequence[Tensor] = data["inputs"]
        samples: list[SegDataSample] | None = data.get("data_samples")
        if training and samples is None:
            raise ValueError("data_preprocessor: training needs 'data_samples' with labels")
        sizes: list[Size] = [(image.shape[-2], image.shape[-1]) for image in images]
        if not training and len(set(sizes)) > 1:
            raise ValueError(
                f"data_preprocessor: evaluation images of one batch differ: {sorted(set(sizes))}; "
                "use batch_size=1 or resize them to one size"
            )
        target = self._target(sizes, training)
        paddings = [self._padding(size, target) for size in sizes]
        inputs = self._stack(images, paddings, target)
        if training:
            assert samples is not None
            self._pad_samples(samples, sizes, paddings)
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        elif self.test_cfg and samples:
            for sample, padding in zip(samples, paddings, strict=True):
                sample.set_metainfo({"img_padding_size": padding, "pad_shape": target})
        return {"inputs": inputs, "data_samples": samples}

    def _send(self, data: dict[str, Any]) -> dict[str, Any]:
        """Copy a batch to the device.

        A GPU copies on a stream of its own: as the host runs ahead, a batch arrives while the
        iteration before is still computed.
        """
        if self.device.type != "cuda" or not self._non_blocking:
            return self.cast_data(data)  # type: ignore[no-any-return]
        computing, copying = torch.cuda.current_stream(self.device), _copy_stream(self.device)
        with torch.cuda.stream(copying):
            data = self.cast_data(data)
        computing.wait_stream(copying)
        for tensor in _tensors(data):
            tensor.record_stream(computing)
        return data

    def _target(self, sizes: Sequence[Size], training: bool) -> Size:
        """Return the common size, at least that of the largest image."""
        rule: Any = self.test_cfg or {}
        size = self.size if training else rule.get("size")
        divisor = self.size_divisor if training else rule.get("size_divisor")
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        if size is not None:
            return max(height, size[-2]), max(width, size[-1])
        step = divisor or 1
        return -(-height // step) * step, -(-width // step) * step

    def _padding(self, size: Size, target: Size) -> Padding:
        rows, columns = target[0] - size[0], target[1] - size[1]
        top, left = (rows // 2, columns // 2) if self.pad_mode == "center" else (0, 0)
        return left, columns - left, top, rows - top

    def _stack(self, images: Sequence[Tensor], paddings: Sequence[Padding], target: Size) -> Tensor:
        """Write every image, normalised, into its place in one float tensor."""
        first = images[0]
        shape = (len(images), first.shape[0], *target)
        if any(any(padding) for padding in paddings):
            out = first.new_full(shape, self.pad_val, dtype=torch.float32)
        else:
            out = first.new_empty(shape, dtype=torch.float32)
        out = out.to(memory_format=self.memory_format)
        parts: Iterable[tuple[Tensor, Padding, Tensor]] = zip(images, paddings, out, strict=True)
        if isinstance(images, Tensor) and images.is_cuda:  # of one size: a few launches for all
            parts = [(images, paddings[0], out)]
        for image, (left, right, top, bottom), place in parts:
            inside = place[..., top : target[0] - bottom, left : target[1] - right]
            inside.copy_(image.flip(-3) if self.swap_channels and image.shape[-3] == 3 else image)
            if self.normalises:
                inside.sub_(self.mean).div_(self.std)
        return out

    def _pad_samples(
        self, samples: Sequence[SegDataSample], sizes: Sequence[Size], paddings: Sequence[Padding]
    ) -> None:
        for sample, size, padding in zip(samples, sizes, paddings, strict=True):
            shape = size
            if "gt_sem_seg" in sample:
                label = sample.gt_sem_seg.data.long()
                if any(padding):
                    label = F.pad(label, padding, value=int(self.seg_pad_val))
                if label is not sample.gt_sem_seg.data:
                    sample.gt_sem_seg = PixelData(data=label)
                shape = (label.shape[-2], label.shape[-1])
            sample.set_metainfo(
                {"img_shape": torch.Size(size), "pad_shape": shape, "padding_size": padding}
            )


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _tensors(data: Any) -> Iterator[Tensor]:
    """Walk over the tensors of a batch."""
    if isinstance(data, Tensor):
        yield data
    elif isinstance(data, Mapping | BaseDataElement):
        for _, value in data.items():
            yield from _tensors(value)
    elif isinstance(data, Sequence) and not isinstance(data, str | bytes):
        for value in data:
            yield from _tensors(value)


def _check(
    size: Size | None,
    size_divisor: int | None,
    test_cfg: EvaluationPadding | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> None:
    if (mean is None) != (std is None):
        raise ConfigError("data_preprocessor: 'mean' and 'std' go together")
    if size is not None and size_divisor is not None:
        raise ConfigError("data_preprocessor: give one of 'size' and 'size_divisor'")
    if len(test_cfg or ()) > 1:
        raise ConfigError("data_preprocessor.test_cfg: give one of 'size' and 'size_divisor'")
