"""How predicted and true regions of each class overlap, without holding the upsampled logits.

Losses such as Dice and Tversky are functions of three sums over an image's pixels. The sums are
made of blocks of rows; the backward pass makes the blocks again.
"""

# Shape suffixes: N images, K classes, h and w the logits' size, H and W the labels' size,
# B rows of a block.

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nlseg.ops.upsampled import full_precision, upsampled_blocks

Activation = Literal["softmax", "sigmoid", "none"]


class RegionSums(NamedTuple):
    """Sums over the pixels of each image, each (N, K).

    Args:
        both: Predicted probability where the class is true.
        predicted: Predicted probability, to a power.
        true: Pixels of the class.
        correct: How many pixels of the batch have the right class.
    """

    both: Tensor
    predicted: Tensor
    true: Tensor
    correct: Tensor


def region_sums(
    logits: Tensor,
    label: Tensor,
    *,
    weight: Tensor | None = None,
    activation: Activation = "softmax",
    power: float = 1.0,
    mask_predicted: bool = True,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> RegionSums:
    """Upsample logits to the labels' size and sum over regions, a block of rows at a time.

    Arithmetic and result are float32, under autocast too; sums are gathered in float64.

    Args:
        logits: Logits (N, K, h, w).
        label: Labels (N, H, W), int64.
        weight: Factor of each pixel (N, H, W), without gradient.
        activation: What makes probabilities of logits, 'none' where they are some.
        power: Exponent of the probabilities in ``predicted``.
        mask_predicted: Whether ignored pixels are left out of ``predicted``, too.
        ignore_index: Label whose pixels are of no class.
        align_corners: See ``nlseg.ops.resize.resize``.
    """
    settings = (activation, power, mask_predicted, ignore_index, align_corners)
    (both, predicted, true), correct = _region_sums(logits.float(), label, weight, *settings)
    return RegionSums(both, predicted, true, correct)


@torch.library.custom_op("nlseg::region_sums", mutates_args=())
def _region_sums(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    activation: str,
    power: float,
    mask_predicted: bool,
    ignore_index: int,
    align_corners: bool,
) -> tuple[Tensor, Tensor]:
    """Return the three sums (3, N, K) and the number of right pixels."""
    sums = torch.zeros((3, *logits.shape[:2]), dtype=torch.float64, device=logits.device)
    correct = torch.zeros((), dtype=torch.int64, device=logits.device)
    size = (label.shape[1], label.shape[2])
    with full_precision():
        for block in upsampled_blocks(logits, size, align_corners):
            place = block.image, block.rows
            label_BW = label[place]
            is_right_BW = block.logits.max(dim=2).indices == label_BW
            correct += (is_right_BW & (label_BW != ignore_index)).sum()
            p_BWK = activate(block.logits, activation)
            weight_BW = None if weight is None else weight[place]
            true_BWK, factor_BW1 = _regions(
                p_BWK, label_BW, weight_BW, mask_predicted, ignore_index
            )
            sums[0, block.image] += (p_BWK * true_BWK).sum(dim=(0, 1))
            sums[2, block.image] += true_BWK.sum(dim=(0, 1))
            if power != 1:
                p_BWK.pow_(power)
            sums[1, block.image] += p_BWK.mul_(factor_BW1).sum(dim=(0, 1))
    return sums.to(logits.dtype), correct


@torch.library.custom_op("nlseg::region_sums_backward", mutates_args=())
def _region_sums_backward(
    grad_sums: Tensor,
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    activation: str,
    power: float,
    mask_predicted: bool,
    ignore_index: int,
    align_corners: bool,
) -> Tensor:
    """Return the gradient with respect to the logits (N, K, h, w)."""
    grad = torch.empty_like(logits)
    size = (label.shape[1], label.shape[2])
    with full_precision():
        for block in upsampled_blocks(logits, size, align_corners, grad):
            place = block.image, block.rows
            p_BWK = activate(block.logits, activation)
            weight_BW = None if weight is None else weight[place]
            grad_p_BWK, factor_BW1 = _regions(
                p_BWK, label[place], weight_BW, mask_predicted, ignore_index
            )
            both_K, predicted_K, _ = grad_sums[:, block.image]
            grad_p_BWK.mul_(both_K)
            slope = power * p_BWK.pow(power - 1) if power != 1 else torch.ones_like(p_BWK[:1, :1])
            grad_p_BWK += slope.mul_(predicted_K) * factor_BW1
            block.grad = _through_activation(grad_p_BWK, p_BWK, activation)
    return grad


def activate(logits_BWK: Tensor, activation: str) -> Tensor:
    """Return probabilities as a new tensor (B, W, K)."""
    if activation == "softmax":
        return logits_BWK.softmax(dim=2)
    return logits_BWK.sigmoid() if activation == "sigmoid" else logits_BWK.clone()


def _through_activation(grad_p_BWK: Tensor, p_BWK: Tensor, activation: str) -> Tensor:
    """Return the gradient with respect to the logits."""
    if activation == "softmax":
        mean_BW1 = (grad_p_BWK * p_BWK).sum(dim=2, keepdim=True)
        return grad_p_BWK.sub_(mean_BW1).mul_(p_BWK)
    if activation == "sigmoid":
        return grad_p_BWK.mul_(p_BWK).mul_(1 - p_BWK)
    return grad_p_BWK


def _regions(
    p_BWK: Tensor,
    label_BW: Tensor,
    weight_BW: Tensor | None,
    mask_predicted: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Return each pixel's weight at its class (B, W, K), and its weight in ``predicted``."""
    valid_BW = label_BW != ignore_index
    factor_BW = valid_BW.to(p_BWK.dtype)
    if weight_BW is not None:
        factor_BW = factor_BW * weight_BW
    if p_BWK.shape[2] == 1:  # a single probability is that of class 1
        true_BWK = (factor_BW * (label_BW == 1)).unsqueeze(2)
    else:
        index_BW1 = (label_BW * valid_BW).unsqueeze(2)
        true_BWK = torch.zeros_like(p_BWK).scatter_(2, index_BW1, factor_BW.unsqueeze(2))
    if mask_predicted:
        return true_BWK, factor_BW.unsqueeze(2)
    every_BW = torch.ones_like(factor_BW) if weight_BW is None else weight_BW
    return true_BWK, every_BW.unsqueeze(2)


@_region_sums.register_fake
def _(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    activation: str,
    power: float,
    mask_predicted: bool,
    ignore_index: int,
    align_corners: bool,
) -> tuple[Tensor, Tensor]:
    return logits.new_empty((3, *logits.shape[:2])), label.new_empty(())


@_region_sums_backward.register_fake
def _(
    grad_sums: Tensor,
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    activation: str,
    power: float,
    mask_predicted: bool,
    ignore_index: int,
    align_corners: bool,
) -> Tensor:
    return torch.empty_like(logits)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, label, weight, *ctx.settings = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, label, weight)


def _backward(ctx: Any, grad_sums: Tensor, _: Any) -> tuple[Any, ...]:
    grad = _region_sums_backward(grad_sums.contiguous(), *ctx.saved_tensors, *ctx.settings)
    return grad, *([None] * (2 + len(ctx.settings)))


_region_sums.register_autograd(_backward, setup_context=_setup_context)
