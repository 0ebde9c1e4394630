"""What is done with every pixel outside the network: loss, label map, counting."""

from functools import partial
from typing import Any

import torch
from mmengine.structures import PixelData
from torch import Tensor

from benchmark import baseline
from benchmark.measure import Work
from nlseg.models.heads import FCNHead
from nlseg.ops.confusion import count_pairs
from nlseg.ops.logit_rows import Held, Resized, label_map
from nlseg.ops.resize import Size
from nlseg.structures import IGNORE_INDEX, SegDataSample

BYTES = "uint8"


def noise_labels(classes: int, shape: tuple[int, ...], device: str = "cpu") -> Tensor:
    """Draw labels in blocks of 16 x 16 px, as large as objects are, with a few ignored."""
    *batch, height, width = shape
    coarse = torch.randint(classes, (*batch, -(-height // 16), -(-width // 16)))
    fine = coarse.repeat_interleave(16, -2).repeat_interleave(16, -1)[..., :height, :width]
    fine[..., :8, :] = IGNORE_INDEX
    return fine.contiguous().to(device)


def loss(
    way: str,
    device: str,
    *,
    kind: str = "CrossEntropyLoss",
    classes: int,
    size: Size,
    batch: int,
    stride: int = 8,
) -> Work:
    """Upsample logits, compare them with labels, and compute the logits' gradient.

    Args:
        way: 'baseline' or 'nlseg'.
        device: 'cpu' or 'cuda'.
        kind: Which loss.
        classes: Number of classes K.
        size: Height and width of the labels.
        batch: Number of images.
        stride: How many times smaller the logits are.
    """
    head = FCNHead(
        num_convs=0,
        concat_input=False,
        in_channels=8,
        channels=8,
        num_classes=classes,
        loss_decode={"type": kind},
    ).to(device)
    step = partial(_baseline_loss, kind) if way == "baseline" else partial(_loss, head)

    def ready(size: Size, batch: int) -> Any:
        logits = torch.randn(batch, classes, size[0] // stride, size[1] // stride, device=device)
        label = noise_labels(classes, (batch, *size), device)
        return partial(step, logits.requires_grad_(), label)

    return Work(ready(size, batch), ready((64, 64), 1))


def _baseline_loss(kind: str, logits: Tensor, label: Tensor) -> Tensor | None:
    if kind == "CrossEntropyLoss":
        value, _ = baseline.pixel_loss(logits, label)
    else:
        value = baseline.region_loss(kind, logits, label)
    value.backward()  # type: ignore[no-untyped-call]
    gradient, logits.grad = logits.grad, None
    return gradient


def _loss(head: FCNHead, logits: Tensor, label: Tensor) -> Tensor | None:
    samples = [SegDataSample() for _ in label]
    for sample, one in zip(samples, label, strict=True):
        sample.gt_sem_seg = PixelData(data=one.unsqueeze(0))
    losses = head.loss_by_feat(logits, samples)
    (value,) = (losses[name] for name in losses if name != "acc_seg")
    value.backward()  # type: ignore[no-untyped-call]
    gradient, logits.grad = logits.grad, None
    return gradient


def upsample(way: str, device: str, *, classes: int, size: Size, stride: int = 8) -> Work:
    """Turn logits into a label map of the image's size.

    Args:
        way: 'baseline' or 'nlseg'.
        device: 'cpu' or 'cuda'.
        classes: Number of classes K.
        size: Height and width of the image.
        stride: How many times smaller the logits are.
    """
    step = _baseline_label_map if way == "baseline" else _label_map

    def ready(size: Size) -> Any:
        logits = torch.randn(1, classes, size[0] // stride, size[1] // stride, device=device)
        return partial(step, logits, size)

    return Work(ready(size), ready((64, 128)))


@torch.no_grad()
def _baseline_label_map(logits: Tensor, size: Size) -> Any:
    return baseline.label_map(baseline.resize(logits, size), size)[1]


@torch.no_grad()
def _label_map(logits: Tensor, size: Size) -> Any:
    return label_map(Resized(Held(logits[0]), size, align_corners=False))


def count(way: str, device: str, *, classes: int, size: Size) -> Work:
    """Count which class was predicted where which was true.

    Args:
        way: 'baseline', 'nlseg', or 'uint8' for maps of one byte.
        device: 'cpu' or 'cuda'.
        classes: Number of classes.
        size: Height and width of the image.
    """
    step = baseline.count if way == "baseline" else count_pairs

    def ready(size: Size) -> Any:
        dtype = torch.uint8 if way == BYTES else torch.int64
        pred = noise_labels(classes, size, device).clamp(max=classes - 1)
        label = noise_labels(classes, size, device)
        return partial(step, pred.to(dtype), label.to(dtype), classes)

    return Work(ready(size), ready((64, 128)))
