"""Cross-entropy of upsampled logits without ever holding the upsampled logits.

A block of rows of them is made, turned into its losses and their gradient, before the next block
is made; the gradient with respect to the small logits is complete when the forward pass ends. On a
GPU with Triton, one kernel does the same without making the blocks.
"""

# Shape suffixes: N images, K classes, h and w the logits' size, H and W the labels' size,
# B rows of a block.

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from nlseg.ops.attention import AMPERE
from nlseg.ops.upsampled import BLOCK_BYTES, Block, full_precision, upsampled_blocks

__all__ = ["BLOCK_BYTES", "upsampled_cross_entropy"]
TRITON_IS_NEW = TorchVersion(torch.__version__) >= "2.6"
"""Whether Triton is 3.2 or later: what 3.0 interprets of the kernel is wrong."""


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


_Form = Callable[
    [Tensor, Tensor, Tensor | None, int, bool, bool], tuple[Tensor, Tensor, Tensor, Tensor]
]
"""A way to compute what ``_cross_entropy`` returns, of its arguments."""


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
    form: _Form = cross_entropy_by_blocks
    if logits.is_cuda and not torch.are_deterministic_algorithms_enabled():
        size = (label.shape[1], label.shape[2])
        form = _fused_form(logits, size, align_corners) or form
    return form(logits, label, weight, ignore_index, align_corners, needs_grad)


def _fused_form(logits: Tensor, size: tuple[int, int], align_corners: bool) -> _Form | None:
    """Return the kernel for these logits (N, K, h, w), None where there is none for them."""
    if not fused_kernel_works(logits.device):
        return None
    from nlseg.ops import triton_loss

    fits = triton_loss.takes(logits, size, align_corners)
    return triton_loss.fused_cross_entropy if fits else None


@lru_cache
def fused_kernel_works(device: torch.device) -> bool:
    """Return whether Triton compiles the kernel for a CUDA device, and it computes what it should.

    It is tried once a process on a few pixels, from Ampere on. Where it fails (Triton needs a C
    compiler, for one), that is said, and the loss goes block by block.
    """
    ampere = torch.cuda.get_device_capability(device)[0] >= AMPERE
    if not (ampere and TRITON_IS_NEW and find_spec("triton")):
        return False
    logits = torch.linspace(-3, 3, 2 * 5 * 3 * 4, device=device).reshape(2, 5, 3, 4).sin()
    label = torch.arange(2 * 24 * 32, device=device).reshape(2, 24, 32) % 6
    given = logits, label, None, 5, False, True
    try:
        from nlseg.ops.triton_loss import fused_cross_entropy

        expected = cross_entropy_by_blocks(*given)
        torch.testing.assert_close(fused_cross_entropy(*given), expected, rtol=1e-4, atol=1e-5)
    except Exception as error:  # whatever a compiler or driver raises
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(
            f"the Triton kernel of the loss does not work here ({type(error).__name__}: {reason}); "
            "the loss is computed block by block",
            stacklevel=2,
        )
        return False
    return True


def cross_entropy_by_blocks(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    align_corners: bool,
    needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute it a block of rows at a time."""
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
