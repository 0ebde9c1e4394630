"""The baseline of each step, which everything is compared with.

Plain float32 PyTorch, channels first, as segmentation toolkits write it: a map of all pairs of
positions, logits resized to the labels' size before the loss and to the image's before the argmax,
three float histograms to count. It runs on the modules of this package's networks, so that both
ways have the same weights; only parameter names are relied on.
"""

from collections.abc import Sequence
from typing import Any

import mmcv.cnn
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from nlseg.ops.resize import Size
from nlseg.ops.sliding_window import window_grid


def non_local_block(ours: nn.Module, in_channels: int, **settings: Any) -> nn.Module:
    """Build mmcv's non-local block with the weights of another.

    Args:
        ours: Where the weights come from.
        in_channels: Channels C.
        **settings: Arguments of ``mmcv.cnn.NonLocal2d``.
    """
    block: nn.Module = mmcv.cnn.NonLocal2d(in_channels, **settings)
    block.load_state_dict(ours.state_dict())
    return block.train(ours.training)


def replace_non_local(head: nn.Module) -> None:
    """Replace a head's non-local block by mmcv's, with the same weights."""
    ours: Any = getattr(head, "nl_block", None)
    if ours is not None:
        out: Any = ours.conv_out
        norm = {"type": "BN"} if out.with_norm else None
        settings = {"mode": ours.mode, "norm_cfg": norm, "use_scale": ours.scale != 1}
        head.nl_block = non_local_block(ours, out.conv.out_channels, **settings)


def features(backbone: Any, images: Tensor) -> list[Tensor]:
    """Run a ResNet: (N, 3, H, W) to one map for each stage."""
    x = images
    for name in backbone.stem_names:
        x = getattr(backbone, name)(x)
    x = backbone.maxpool(x)
    maps = []
    for stage in backbone.stages:
        for block in getattr(backbone, stage):
            x = residual_block(block, x)
        maps.append(x)
    return maps


def residual_block(block: Any, x: Tensor) -> Tensor:
    """Run one residual block."""
    out, last = x, len(block.norm_names)
    for i, norm in enumerate(block.norm_names, 1):
        out = getattr(block, norm)(getattr(block, f"conv{i}")(out))
        if i < last:
            out = F.relu(out, inplace=True)
    out += x if block.downsample is None else block.downsample(x)
    return F.relu(out, inplace=True)


def head_logits(head: Any, maps: Sequence[Tensor]) -> Tensor:
    """Run a decode or auxiliary head: maps to logits (N, K, h, w)."""
    x = maps[head.in_index]
    block = getattr(head, "nl_block", None) or getattr(head, "gc_block", None)
    out: Tensor = x
    for i, conv in enumerate(head.convs):
        out = ConvModule.forward(conv, out)
        if i == 0 and block is not None:
            out = block(out)
    if head.concat_input:
        out = ConvModule.forward(head.conv_cat, torch.cat([x, out], dim=1))
    if head.dropout is not None:
        out = head.dropout(out)
    logits: Tensor = head.conv_seg(out)
    return logits


def resize(maps: Tensor, size: Size) -> Tensor:
    """Resize maps (N, C, h, w) bilinearly; also where they have that size already."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def pixel_loss(logits: Tensor, label: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of upsampled logits and the share of right pixels in percent.

    Args:
        logits: Logits (N, K, h, w).
        label: Labels (N, H, W).
        ignore_index: Label that does not count.
    """
    upsampled = resize(logits, (label.shape[1], label.shape[2]))
    each = F.cross_entropy(upsampled, label, ignore_index=ignore_index, reduction="none")
    _, best = upsampled.topk(1, dim=1)
    best = best.transpose(0, 1)
    right = best.eq(label.unsqueeze(0).expand_as(best))[:, label != ignore_index]
    valid = label[label != ignore_index].numel()
    share = right[:1].reshape(-1).float().sum(0, keepdim=True) * (100.0 / (valid + 1e-7))
    return each.mean(), share


def region_loss(kind: str, logits: Tensor, label: Tensor, ignore_index: int = 255) -> Tensor:
    """Return the Dice, Tversky or focal loss of upsampled logits, from whole one-hot maps.

    Args:
        kind: 'DiceLoss', 'TverskyLoss' or 'FocalLoss', with their default settings.
        logits: Logits (N, K, h, w).
        label: Labels (N, H, W).
        ignore_index: Label that does not count.
    """
    upsampled = resize(logits, (label.shape[1], label.shape[2]))
    classes = upsampled.shape[1]
    valid = (label != ignore_index).unsqueeze(1)
    one_hot = F.one_hot(label.clamp(max=classes), classes + 1)[..., :classes].permute(0, 3, 1, 2)
    true = one_hot.float()
    if kind == "DiceLoss":
        p = upsampled.sigmoid().flatten(1)
        both = (p * true.flatten(1)).sum(1)
        size = p.square().sum(1) + true.square().flatten(1).sum(1) + 2e-3
        return (1 - 2 * both / size).mean()
    if kind == "TverskyLoss":
        p = upsampled.softmax(1)
        hit = (p * true * valid).flatten(2).sum(2) + 1
        wrong = (p * (1 - true) * valid).flatten(2).sum(2)
        missed = ((1 - p) * true * valid).flatten(2).sum(2)
        return (1 - hit / (hit + 0.3 * wrong + 0.7 * missed)).mean()
    p = upsampled.sigmoid()
    wrong = (1 - p) * true + p * (1 - true)
    each = F.binary_cross_entropy_with_logits(upsampled, true, reduction="none")
    return (0.5 * each * wrong.pow(2) * valid).mean()


def loss(model: Any, images: Tensor, label: Tensor) -> Tensor:
    """Return the sum of a segmentor's losses for images (N, 3, H, W) and labels (N, H, W)."""
    maps = features(model.backbone, images)
    total, _ = pixel_loss(head_logits(model.decode_head, maps), label)
    if model.auxiliary_head is not None:
        value, _ = pixel_loss(head_logits(model.auxiliary_head, maps), label)
        total = total + 0.4 * value
    return total


def logits_of(model: Any, images: Tensor) -> Tensor:
    """Return logits (N, K, H, W) at the images' size."""
    maps = features(model.backbone, images)
    size = (images.shape[2], images.shape[3])
    return resize(head_logits(model.decode_head, maps), size)


def slide_logits(model: Any, images: Tensor, crop: Size, stride: Size) -> Tensor:
    """Return logits (N, K, H, W) averaged over windows, which are run one by one."""
    size = (images.shape[2], images.shape[3])
    total = images.new_zeros((len(images), model.out_channels, *size))
    count = images.new_zeros((len(images), 1, *size))
    for top, bottom, left, right in window_grid(size, crop, stride):
        part = logits_of(model, images[:, :, top:bottom, left:right])
        total += F.pad(part, (left, size[1] - right, top, size[0] - bottom))
        count[:, :, top:bottom, left:right] += 1
    return total / count


def label_map(logits: Tensor, size: Size, flip: bool = False) -> tuple[Tensor, Tensor]:
    """Turn one image's logits (1, K, h, w) to logits (K, H, W) and classes (1, H, W)."""
    if flip:
        logits = logits.flip(dims=(3,))
    upsampled = resize(logits, size).squeeze(0)
    return upsampled, upsampled.argmax(dim=0, keepdim=True)


def normalize(image: Tensor, preprocessor: Any) -> Tensor:
    """Turn a uint8 image (3, H, W) into a normalised batch of one (1, 3, H, W)."""
    device = preprocessor.mean.device
    floats = image.to(device)[[2, 1, 0]].float()
    batch: Tensor = ((floats - preprocessor.mean) / preprocessor.std).unsqueeze(0)
    return batch


def augmented(model: Any, views: Sequence[tuple[Tensor, bool]], size: Size) -> Tensor:
    """Return classes (1, H, W) from the mean probability over all views, which are all kept.

    Args:
        model: The segmentor.
        views: Images (3, h, w) uint8, and whether each is flipped.
        size: Size of the original image.
    """
    kept = []
    for image, flip in views:
        logits = logits_of(model, normalize(image, model.data_preprocessor))
        kept.append(label_map(logits, size, flip)[0])
    total = torch.zeros_like(kept[0])
    for logits in kept:
        total += logits.softmax(dim=0)
    return (total / len(kept)).argmax(dim=0, keepdim=True)


def count(pred: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> list[Tensor]:
    """Return intersection, union, predicted and labelled pixels of each class, as floats (K,)."""
    mask = label != ignore_index
    pred, label = pred[mask], label[mask]
    hit = pred[pred == label]
    area = [
        torch.histc(x.float(), bins=num_classes, min=0, max=num_classes - 1).cpu()
        for x in (hit, pred, label)
    ]
    return [area[0], area[1] + area[2] - area[0], area[1], area[2]]
