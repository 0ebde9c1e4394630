"""What the exported file computes: images in, logits or labels out."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlseg.errors import UserError
from nlseg.export.tracing import image_channels
from nlseg.models.inference import completed
from nlseg.ops.resize import Size

# Shape suffixes: N batch, C channels, H and W height and width, K classes, T steps of windows.

InferenceMode = Literal["whole", "slide"]


@dataclass(frozen=True)
class Choices:
    """What the user chose.

    Args:
        mode: Whole images or overlapping windows.
        with_preprocessing: The file takes uint8 pictures (N, H, W, C) as decoders give them, and
            not normalised floats (N, C, H, W).
        argmax: The file gives labels (N, H, W), and not logits (N, K, H, W).
        half: Weights and maps are float16; input, scores of attention and output are float32.
    """

    mode: InferenceMode = "whole"
    with_preprocessing: bool = False
    argmax: bool = False
    half: bool = False


class ExportedNetwork(nn.Module):
    """Preprocessing where wanted, the network, and its logits at the size of the images.

    Args:
        model: What ``traceable`` gave.
        choices: See there.

    Raises:
        UserError: Windows are wanted and ``test_cfg`` has no size for them, or a single-output head
            has no threshold.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, choices: Choices) -> None:
        super().__init__()
        segmentor: Any = model
        rule = segmentor.data_preprocessor
        self.register_buffer("mean", rule.mean.clone())  # stay float32 in a half network
        self.register_buffer("std", rule.std.clone())
        self.model: Any = model.half() if choices.half else model
        self.choices = choices
        self.channels = image_channels(model)
        windows = segmentor.test_cfg
        self.crop: Size | None = windows.crop_size
        self.stride: Size | None = windows.stride
        if choices.mode == "slide" and not (self.crop and self.stride):
            raise UserError(
                "--slide: model.test_cfg has no 'crop_size' and 'stride'; add them by "
                "--cfg-options model.test_cfg.crop_size=(769,769) model.test_cfg.stride=(513,513)"
            )
        self.threshold: float | None = segmentor.last_head.threshold

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits (N, K, H, W) float32, or labels (N, H, W) int32.

        Args:
            images: See ``Choices.with_preprocessing``.
        """
        inputs = self.prepare(images) if self.choices.with_preprocessing else images
        height, width = inputs.shape[2], inputs.shape[3]
        inputs, top, left = self.pad(inputs)
        inputs = inputs.half() if self.choices.half else inputs
        logits = self.slide(inputs) if self.choices.mode == "slide" else self.logits_of(inputs)
        if self.model.data_preprocessor.test_cfg:
            logits = logits[:, :, top : top + height, left : left + width]
        if not self.choices.argmax:
            return logits
        if logits.shape[1] == 1:
            return (logits[:, 0].sigmoid() > (self.threshold or 0.0)).int()
        return logits.argmax(1).int()

    def prepare(self, pictures: Tensor) -> Tensor:
        """Swap, normalise and turn pictures (N, H, W, C) uint8 into (N, C, H, W) float32."""
        rule = self.model.data_preprocessor
        images = pictures.permute(0, 3, 1, 2)
        if rule.swap_channels and self.channels == 3:
            images = images.flip(1)
        images = images.float()
        if rule.normalises:
            images = (images - self.mean) / self.std
        return images

    def pad(self, inputs: Tensor) -> tuple[Tensor, Any, Any]:
        """Pad images as evaluation does; returns them with the rows and columns put before."""
        rule = self.model.data_preprocessor
        padding = rule.test_cfg or {}
        if not padding:
            return inputs, 0, 0
        height, width = inputs.shape[2], inputs.shape[3]
        if "size" in padding:
            rows = _larger(padding["size"][0] - height, 0)
            columns = _larger(padding["size"][1] - width, 0)
        else:
            step = padding["size_divisor"]
            rows = (height + step - 1) // step * step - height
            columns = (width + step - 1) // step * step - width
        centred = rule.pad_mode == "center"
        top, left = (rows // 2, columns // 2) if centred else (0, 0)
        sides = (left, columns - left, top, rows - top)
        return F.pad(inputs, sides, value=float(rule.pad_val)), top, left

    def logits_of(self, inputs: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, K, H, W) float32."""
        if not self.model.streams:
            metas = completed([{}] * inputs.shape[0], (inputs.shape[2], inputs.shape[3]))
            full: Tensor = self.model.encode_decode(inputs, metas).float()
            return full
        logits: Tensor = self.model(inputs, mode="tensor").float()
        size = (inputs.shape[2], inputs.shape[3])
        align = self.model.align_corners
        return F.interpolate(logits, size, mode="bilinear", align_corners=align)

    def slide(self, inputs: Tensor) -> Tensor:
        """Return logits (N, K, H, W) averaged over windows, one after the other.

        The loop is one step of the graph, repeated for each window; the windows are those of
        ``nlseg.ops.sliding_window.window_grid``. A graph may not ask whether there is more than
        one; so there are always two, and a single window is looked at twice.
        """
        from torch._higher_order_ops.scan import scan

        assert self.crop is not None
        assert self.stride is not None
        height, width = inputs.shape[2], inputs.shape[3]
        down, across = (
            windows_along(*each)
            for each in zip((height, width), self.crop, self.stride, strict=True)
        )
        row_T, column_T = grid(down.number, across.number)
        top_T = torch.minimum(row_T * self.stride[0], _scalar(height - down.size))
        left_T = torch.minimum(column_T * self.stride[1], _scalar(width - across.size))
        all_H, all_W = torch.arange(height), torch.arange(width)
        rows_h, columns_w = torch.arange(down.size), torch.arange(across.size)

        def add(total: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
            crops = inputs.index_select(2, rows_h + place[0]).index_select(3, columns_w + place[1])
            logits = self.logits_of(crops)
            for axis, index, length in (
                (2, all_H - place[0], rows_h.shape[0]), (3, all_W - place[1], columns_w.shape[0]),
            ):  # fmt: skip
                inside = (index >= 0) & (index < length)
                logits = logits.index_select(axis, index.clamp(0, length - 1))
                logits = logits * (inside[:, None] if axis == 2 else inside)
            return total + logits, place.clone()

        shape = (inputs.shape[0], self.model.out_channels, height, width)
        total = inputs.new_zeros(shape, dtype=torch.float32)
        total, _ = scan(add, total, torch.stack((top_T, left_T), dim=1))
        seen_HW = covered(top_T, down.size, all_H).mT @ covered(left_T, across.size, all_W)
        mean: Tensor = total / seen_HW
        return mean


class Windows(NamedTuple):
    """Windows along one axis: the length of each, and how many there are; symbols in a graph."""

    size: Any
    number: Any


def windows_along(length: Any, crop: int, step: int) -> Windows:
    """Lay windows of ``crop`` at distance ``step``; the last one ends where the axis ends."""
    beyond = _larger(length - crop, 0)
    return Windows(_smaller(length, crop), (beyond + step - 1) // step + 1)


def grid(rows: Any, columns: Any) -> tuple[Tensor, Tensor]:
    """Return row and column (T,) of each of ``rows * columns`` windows, of two where it is one."""
    number_T = torch.arange(_larger(rows * columns, 2))
    row_T = torch.div(number_T, _scalar(columns), rounding_mode="floor")
    return row_T, number_T - row_T * _scalar(columns)


def covered(start_T: Tensor, size: Any, every_L: Tensor) -> Tensor:
    """Return which positions (T, L) each window covers, as float32."""
    start_T1 = start_T[:, None]
    inside_TL: Tensor = (every_L >= start_T1) & (every_L < start_T1 + size)
    return inside_TL.float()


def _larger(a: Any, b: Any) -> Any:
    return torch.sym_max(a, b)  # type: ignore[no-untyped-call]


def _smaller(a: Any, b: Any) -> Any:
    return torch.sym_min(a, b)  # type: ignore[no-untyped-call]


def _scalar(value: Any) -> Tensor:
    return torch.scalar_tensor(value, dtype=torch.int64)
