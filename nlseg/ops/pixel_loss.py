"""Cross-entropy of upsampled logits without ever holding the upsampled logits.

With the matrices R and C of the two axes, the upsampled logits of one image and class are
``R @ logits @ C.T``. A block of rows of them is made, turned into its losses and their gradient,
and the gradient taken back through R, before the next block is made; the gradient with respect to
the small logits is complete when the forward pass ends.
"""

# Shape suffixes: N images, K classes, h and w the logits' size, H and W the labels' size,
# B rows of a block, S rows of the logits that the block needs.

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nlseg.ops.resize import AxisMatrix, axis_matrix

BLOCK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


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
    rows = axis_matrix(logits.shape[2], height, align_corners, logits.device)
    columns = axis_matrix(logits.shape[3], width, align_corners, logits.device)
    total = logits.new_zeros(())
    correct = torch.zeros((), dtype=torch.int64, device=logits.device)
    each = logits.new_empty(label.shape)
    grad = torch.empty_like(logits) if needs_grad else logits.new_empty(0)
    with _full_precision():
        for n in range(len(logits)):
            wide_hWK = columns.weight @ logits[n].permute(1, 2, 0)
            grad_hWK = torch.zeros_like(wide_hWK) if needs_grad else None
            for top, bottom in _blocks(height, wide_hWK[0].numel() * 4, logits.device.type):
                total_B, correct_B = _block(
                    wide_hWK,
                    grad_hWK,
                    rows,
                    (top, bottom),
                    label[n, top:bottom],
                    None if weight is None else weight[n, top:bottom],
                    ignore_index,
                    each[n, top:bottom],
                )
                total += total_B
                correct += correct_B
            if grad_hWK is not None:
                grad[n] = (columns.weight.T @ grad_hWK).permute(2, 0, 1)
    return total, each, correct, grad


def _block(
    wide_hWK: Tensor,
    grad_hWK: Tensor | None,
    rows: AxisMatrix,
    block: tuple[int, int],
    label_BW: Tensor,
    weight_BW: Tensor | None,
    ignore_index: int,
    each_BW: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write a block's cross-entropies, add its gradient, return its total and right pixels."""
    top, bottom = block
    first, last = rows.first[top], rows.last[bottom - 1] + 1
    blend_BS = rows.weight[top:bottom, first:last]
    _, width, classes = wide_hWK.shape
    logits_BWK = (blend_BS @ wide_hWK[first:last].flatten(1)).view(-1, width, classes)
    valid_BW = label_BW != ignore_index
    inside_BW1 = (label_BW * valid_BW).unsqueeze(2)
    correct = ((logits_BWK.max(dim=2).indices == label_BW) & valid_BW).sum()
    log_p_BWK = logits_BWK.log_softmax(dim=2)
    each_BW.copy_(log_p_BWK.gather(2, inside_BW1).squeeze(2)).neg_().mul_(valid_BW)
    factor_BW = valid_BW.to(log_p_BWK.dtype) if weight_BW is None else weight_BW * valid_BW
    if grad_hWK is not None:
        grad_BWK = log_p_BWK.exp_().mul_(factor_BW.unsqueeze(2))
        at_label_BW1 = grad_BWK.gather(2, inside_BW1) - factor_BW.unsqueeze(2)
        grad_BWK.scatter_(2, inside_BW1, at_label_BW1)
        grad_hWK[first:last].flatten(1).addmm_(blend_BS.T, grad_BWK.flatten(1))
    return (each_BW * factor_BW).sum(), correct


def _blocks(height: int, row_bytes: int, device: str) -> Iterator[tuple[int, int]]:
    step = max(BLOCK_BYTES.get(device, BLOCK_BYTES["cuda"]) // row_bytes, 1)
    for top in range(0, height, step):
        yield top, min(top + step, height)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply in float32 whatever TF32 setting and autocast the network runs under."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


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
