"""Focal loss of upsampled logits without holding them, in blocks of rows like cross-entropy."""

# Shape suffixes: N images, K classes, h and w the logits' size, H and W the labels' size,
# B rows of a block.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nlseg.ops.upsampled import Block, full_precision, upsampled_blocks


def upsampled_focal_loss(
    logits: Tensor,
    label: Tensor,
    *,
    gamma: float,
    positive: Tensor,
    negative: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """Upsample logits to the labels' size and sum the sigmoid focal loss, a block at a time.

    With q the probability of the wrong answer for a class at a pixel, its loss is
    -q**gamma * log(1 - q), and its gradient q**gamma * (q - gamma (1 - q) log(1 - q)), falling with
    the logit where the class is true. Arithmetic is float32, under autocast too.

    Args:
        logits: Logits (N, K, h, w).
        label: Labels (N, H, W), int64.
        gamma: How much less a pixel counts that is right already.
        positive: Factor of each class where it is true (K,).
        negative: Factor of each class where it is not (K,).
        weight: Factor of each pixel (N, H, W), without gradient.
        ignore_index: Label whose pixels have no loss.
        align_corners: See ``nlseg.ops.resize.resize``.

    Returns:
        The sum over pixels and classes, and the number of pixels whose class is right.
    """
    needs_grad = torch.is_grad_enabled() and logits.requires_grad
    total, correct, _ = _focal_loss(
        logits.float(),
        label,
        weight,
        positive,
        negative,
        gamma,
        ignore_index,
        align_corners,
        needs_grad,
    )
    return total, correct


@torch.library.custom_op("nlseg::upsampled_focal_loss", mutates_args=())
def _focal_loss(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    positive: Tensor,
    negative: Tensor,
    gamma: float,
    ignore_index: int,
    align_corners: bool,
    needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return total, count and gradient (N, K, h, w) or (0,)."""
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    correct = torch.zeros((), dtype=torch.int64, device=logits.device)
    grad = torch.empty_like(logits) if needs_grad else None
    size = (label.shape[1], label.shape[2])
    with full_precision():
        for block in upsampled_blocks(logits, size, align_corners, grad):
            place = block.image, block.rows
            valid_BW = label[place] != ignore_index
            is_right_BW = block.logits.max(dim=2).indices == label[place]
            correct += (is_right_BW & valid_BW).sum()
            factor_BW = valid_BW.to(logits.dtype)
            if weight is not None:
                factor_BW *= weight[place]
            true_BWK = _one_hot(block.logits, label[place] * valid_BW)
            factor_BWK = torch.where(true_BWK, positive, negative).mul_(factor_BW.unsqueeze(2))
            total += _losses(block, true_BWK, factor_BWK, gamma, needs_grad).sum()
    return total.to(logits.dtype), correct, logits.new_empty(0) if grad is None else grad


def _losses(
    block: Block, true_BWK: Tensor, factor_BWK: Tensor, gamma: float, needs_grad: bool
) -> Tensor:
    """Return the losses (B, W, K) of a block, and leave their gradient in it."""
    sign_BWK = true_BWK.to(factor_BWK.dtype).mul_(2).sub_(1)
    log_right_BWK = F.logsigmoid(block.logits * sign_BWK)
    right_BWK = log_right_BWK.exp()
    wrong_BWK = 1 - right_BWK
    factor_BWK = factor_BWK * wrong_BWK.pow(gamma)
    if needs_grad:
        slope_BWK = wrong_BWK - gamma * right_BWK * log_right_BWK
        block.grad = slope_BWK.mul_(factor_BWK).mul_(sign_BWK).neg_()
    return log_right_BWK.mul_(factor_BWK).neg_()


def _one_hot(logits_BWK: Tensor, label_BW: Tensor) -> Tensor:
    """Return where each class is true (B, W, K); a single logit is that of class 1."""
    if logits_BWK.shape[2] == 1:
        return label_BW.unsqueeze(2) == 1
    true_BWK = torch.zeros_like(logits_BWK, dtype=torch.bool)
    return true_BWK.scatter_(2, label_BW.unsqueeze(2), True)


@_focal_loss.register_fake
def _(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    positive: Tensor,
    negative: Tensor,
    gamma: float,
    ignore_index: int,
    align_corners: bool,
    needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad = torch.empty_like(logits) if needs_grad else logits.new_empty(0)
    return logits.new_empty(()), label.new_empty(()), grad


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2])


def _backward(ctx: Any, grad_total: Tensor | None, *_: Any) -> tuple[Any, ...]:
    (grad,) = ctx.saved_tensors
    return None if grad_total is None else grad * grad_total, *([None] * 8)


_focal_loss.register_autograd(_backward, setup_context=_setup_context)
