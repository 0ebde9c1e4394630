"""Cross-entropy of upsampled logits without ever holding the upsampled logits.

A block of rows of them is made, turned into its losses and their gradient, before the next block
is made; the gradient with respect to the small logits is complete when the forward pass ends.
"""

# Shape suffixes: N images, K classes, h and w the logits' size, H and W the labels' size,
# B rows of a block.

from typing import Any

import torch
from torch import Tensor

from nlseg.ops.upsampled import BLOCK_BYTES, Block, full_precision, upsampled_blocks

__all__ = ["BLOCK_BYTES", "upsampled_cross_entropy"]


def upsampled_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Upsample logits to the labels' size and compare, a block of rows at a time.

    Arithmetic and result are float32, under autocast too.

    Args:
        logits: Logits (N, K, h, w).
        label: Labels (N, H, W), int64.
        weight: Factor of each pixel (N, H, W), without gradient.
        ignore_index: Label whose pixels have no loss.
        align_corners: See ``nlseg.ops.resize.resize``.

    Returns:
        The sum over pixels of weight times cross-entropy (differentiable with respect to the
        logits), the unweighted cross-entropy (N, H, W) of every pixel, 0 where ignored, and the
        number of pixels whose class is right.
    """
    needs_grad = torch.is_grad_enabled() and logits.requires_grad
    total, each, correct, _ = _cross_entropy(
        logits.float(), label, weight, ignore_index, align_corners, needs_grad
    )
    return total, each, correct


@torch.library.custom_op("nlseg::upsampled_cross_entropy", mutates_args=())
def _cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    align_corners: bool,
    needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return total, cross-entropies (N, H, W), count and gradient (N, K, h, w) or (0,)."""
    height, width = label.shape[1:]
    total = logits.new_zeros(())
    correct = torch.zeros((), dtype=torch.int64, device=logits.device)
    each = logits.new_empty(label.shape)
    grad = torch.empty_like(logits) if needs_grad else None
    with full_precision():
        for block in upsampled_blocks(logits, (height, width), align_corners, grad):
            place = block.image, block.rows
            total_B, correct_B = _compare(
                block,
                label[place],
                None if weight is None else weight[place],
                ignore_index,
                each[place],
                needs_grad,
            )
            total += total_B
            correct += correct_B
    return total, each, correct, logits.new_empty(0) if grad is None else grad


def _compare(
    block: Block,
    label_BW: Tensor,
    weight_BW: Tensor | None,
    ignore_index: int,
    each_BW: Tensor,
    needs_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Write a block's cross-entropies and gradient, return its total and right pixels."""
    valid_BW = label_BW != ignore_index
    inside_BW1 = (label_BW * valid_BW).unsqueeze(2)
    correct = ((block.logits.max(dim=2).indices == label_BW) & valid_BW).sum()
    log_p_BWK = block.logits.log_softmax(dim=2)
    each_BW.copy_(log_p_BWK.gather(2, inside_BW1).squeeze(2)).neg_().mul_(valid_BW)
    factor_BW = valid_BW.to(log_p_BWK.dtype) if weight_BW is None else weight_BW * valid_BW
    if needs_grad:
        grad_BWK = log_p_BWK.exp_().mul_(factor_BW.unsqueeze(2))
        at_label_BW1 = grad_BWK.gather(2, inside_BW1) - factor_BW.unsqueeze(2)
        block.grad = grad_BWK.scatter_(2, inside_BW1, at_label_BW1)
    return (each_BW * factor_BW).sum(), correct


@_cross_entropy.register_fake
def _(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    align_corners: bool,
    needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        logits.new_empty(()),
        logits.new_empty(label.shape),
        label.new_empty(()),
        torch.empty_like(logits) if needs_grad else logits.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[3])


def _backward(ctx: Any, grad_total: Tensor | None, *_: Any) -> tuple[Any, ...]:
    (grad,) = ctx.saved_tensors
    return None if grad_total is None else grad * grad_total, None, None, None, None, None


_cross_entropy.register_autograd(_backward, setup_context=_setup_context)
