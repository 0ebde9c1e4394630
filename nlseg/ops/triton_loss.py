"""Cross-entropy of upsampled logits in one Triton kernel: forward and gradient in one pass.

A program makes the upsampled logits of a few columns, row by row, from the two rows of small
logits that they lie between, and turns them into losses and their gradient before it goes on. So
the small logits are all that is read, and labels, losses and the small gradient all that else
crosses the memory.
"""

# Shape suffixes: N images, K classes, h and w the logits' size, H and W the labels' size; a program
# has X columns of the labels, S columns of the logits that they are made of, and P classes, K
# filled up to a power of 2.

import math
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nlseg.ops.resize import AxisTaps, Size, axis_matrix, axis_taps, sent

COLUMNS, WARPS = 16, 8
MOST_CLASSES, MOST_LOGITS = 256, 4096
"""P, and P times S, that fit into the registers of a program on sm_80 and sm_90."""
_LEAST = 16  # of each side of a product in Triton


class Plan(NamedTuple):
    """How the pixels of one pair of sizes are shared out.

    Args:
        rows: Taps of the rows.
        columns: Taps of the columns.
        starts: First row of each run of rows that lie between the same two rows of the logits, and
            behind the last one H; (runs + 1,), int32.
        longest: Rows of the longest run.
        sources: Columns of the logits that a program needs at most, a power of 2.
    """

    rows: AxisTaps
    columns: AxisTaps
    starts: Tensor
    longest: int
    sources: int


@lru_cache(maxsize=64)
def make_plan(small: Size, large: Size, align_corners: bool, device: torch.device) -> Plan:
    """Share out the pixels of logits (h, w) that are upsampled to (H, W)."""
    rows = axis_matrix(small[0], large[0], align_corners, torch.device("cpu"))
    ends = list(zip(rows.first, rows.last, strict=True))
    changes = [i + 1 for i, (above, below) in enumerate(pairwise(ends)) if above != below]
    starts = [0, *changes, large[0]]
    columns = axis_matrix(small[1], large[1], align_corners, torch.device("cpu"))
    blocks = range(0, large[1], COLUMNS)
    spans = [columns.last[min(x + COLUMNS, large[1]) - 1] - columns.first[x] + 1 for x in blocks]
    return Plan(
        axis_taps(small[0], large[0], align_corners, device),
        axis_taps(small[1], large[1], align_corners, device),
        sent(torch.tensor(starts, dtype=torch.int32), device),
        max(stop - start for start, stop in pairwise(starts)),
        _power_of_2(max(spans)),
    )


def _power_of_2(number: int) -> int:
    return max(_LEAST, 1 << math.ceil(math.log2(number)))


def takes(logits: Tensor, size: Size, align_corners: bool) -> bool:
    """Return whether the kernel has room for logits (N, K, h, w) upsampled to a size."""
    classes, *small = logits.shape[1:]
    if classes > MOST_CLASSES or 0 in (*logits.shape, *size):
        return False
    plan = make_plan((small[0], small[1]), size, align_corners, logits.device)
    return plan.sources * _power_of_2(classes) <= MOST_LOGITS


def fused_cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    align_corners: bool,
    needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return total, cross-entropies (N, H, W), count and gradient (N, K, h, w) or (0,).

    The gradient is added up in any order. A label that is neither a class nor ignored makes its
    loss NaN: a kernel cannot raise.

    Args:
        logits: Logits (N, K, h, w), float32.
        label: Labels (N, H, W), of any integer type.
        weight: Factor of each pixel (N, H, W), or None.
        ignore_index: Label whose pixels have no loss.
        align_corners: See ``nlseg.ops.resize.resize``.
        needs_grad: Whether to make the gradient.
    """
    num, classes, *small = logits.shape
    height, width = label.shape[1:]
    plan = make_plan((small[0], small[1]), (height, width), align_corners, logits.device)
    label = label.contiguous()
    weight = None if weight is None else weight.float().expand(label.shape).contiguous()
    each = torch.empty(label.shape, dtype=torch.float32, device=logits.device)
    grad = torch.zeros_like(logits) if needs_grad else logits.new_empty(0)
    grid = (triton.cdiv(width, COLUMNS), len(plan.starts) - 1, num)
    total = logits.new_empty(grid)
    correct = torch.empty(grid, dtype=torch.int32, device=logits.device)
    kernel: Any = _kernel
    kernel[grid](
        logits, label, label if weight is None else weight, grad, each, total, correct,
        plan.starts, *plan.rows, *plan.columns,
        *logits.stride(), *(grad.stride() if needs_grad else (0, 0, 0, 0)),
        classes, small[1], height, width, ignore_index, *grid[1:],
        HAS_WEIGHT=weight is not None, NEEDS_GRAD=needs_grad,
        P=_power_of_2(classes), X=COLUMNS, S=plan.sources, ROWS=plan.longest, num_warps=WARPS,
    )  # fmt: skip
    return total.sum(), each, correct.sum(), grad


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]  # Triton reads the annotations
    logits, label, weight, grad, each, total, correct,
    starts, row_first, row_last, row_of_first, row_of_last,
    column_first, column_last, column_of_first, column_of_last,
    stride_n, stride_k, stride_h, stride_w, grad_n, grad_k, grad_h, grad_w,
    classes, small_width, height, width, ignore_index, num_runs, num_images,
    HAS_WEIGHT: tl.constexpr, NEEDS_GRAD: tl.constexpr,
    P: tl.constexpr, X: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compare X columns of the rows of one run of one image with their labels."""
    block, run, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    x = block * X + tl.arange(0, X)
    in_x = x < width
    source = tl.load(column_first + block * X) + tl.arange(0, S)
    first_X = tl.load(column_first + x, in_x, 0)
    last_X = tl.load(column_last + x, in_x, 0)
    of_first_X = tl.load(column_of_first + x, in_x, 0.0)
    of_last_X = tl.load(column_of_last + x, in_x, 0.0)
    blend_XS = tl.where(first_X[:, None] == source[None, :], of_first_X[:, None], 0.0)
    blend_XS += tl.where(last_X[:, None] == source[None, :], of_last_X[:, None], 0.0)

    start = tl.load(starts + run)
    stop = tl.load(starts + run + 1)
    k = tl.arange(0, P)
    in_k = k < classes
    there_SP = (source[:, None] < small_width) & in_k[None, :]
    upper, lower = tl.load(row_first + start), tl.load(row_last + start)
    place_SP = (
        logits + n.to(tl.int64) * stride_n + source[:, None] * stride_w + k[None, :] * stride_k
    )
    upper_SP = tl.load(place_SP + upper * stride_h, there_SP, 0.0)
    lower_SP = tl.load(place_SP + lower * stride_h, there_SP, 0.0)
    grad_upper_SP = tl.zeros((S, P), tl.float32)
    grad_lower_SP = tl.zeros((S, P), tl.float32)
    total_X = tl.zeros((X,), tl.float32)
    right_X = tl.zeros((X,), tl.int32)
    for i in range(ROWS):  # so many in every run, as Triton 3.6 interprets no bounds from memory
        y = start + i
        inside = in_x & (y < stop)
        of_upper = tl.load(row_of_first + y, y < stop, 0.0)
        of_lower = tl.load(row_of_last + y, y < stop, 0.0)
        row_SP = lower_SP * of_lower + upper_SP * of_upper
        score_XP = tl.dot(blend_XS, row_SP, input_precision="ieee")
        score_XP = tl.where(in_k[None, :], score_XP, -float("inf"))
        pixel = (n.to(tl.int64) * height + y) * width + x
        label_X = tl.load(label + pixel, inside, 0).to(tl.int32)
        valid_X = inside & (label_X != ignore_index)
        is_label_XP = k[None, :] == label_X[:, None]
        top_X = tl.max(score_XP, 1)
        share_XP = tl.exp(score_XP - top_X[:, None])
        sum_X = tl.sum(share_XP, 1)
        at_label_X = tl.sum(tl.where(is_label_XP, score_XP, 0.0), 1)
        loss_X = tl.log(sum_X) + top_X - at_label_X
        loss_X = tl.where((label_X >= 0) & (label_X < classes), loss_X, float("nan"))
        loss_X = tl.where(valid_X, loss_X, 0.0)
        tl.store(each + pixel, loss_X, inside)
        factor_X = tl.where(valid_X, 1.0, 0.0)
        if HAS_WEIGHT:
            factor_X *= tl.load(weight + pixel, inside, 0.0)
        total_X += loss_X * factor_X
        right_X += (valid_X & (tl.argmax(score_XP, 1) == label_X)).to(tl.int32)
        if NEEDS_GRAD:
            share_XP = share_XP / sum_X[:, None]
            grad_XP = (share_XP - tl.where(is_label_XP, 1.0, 0.0)) * factor_X[:, None]
            grad_SP = tl.dot(tl.trans(blend_XS), grad_XP, input_precision="ieee")
            grad_upper_SP += grad_SP * of_upper
            grad_lower_SP += grad_SP * of_lower
    program = (block * num_runs + run) * num_images + n
    tl.store(total + program, tl.sum(total_X, 0))
    tl.store(correct + program, tl.sum(right_X, 0))
    if NEEDS_GRAD:
        to_SP = grad + n.to(tl.int64) * grad_n + source[:, None] * grad_w + k[None, :] * grad_k
        tl.atomic_add(to_SP + upper * grad_h, grad_upper_SP, there_SP)
        tl.atomic_add(to_SP + lower * grad_h, grad_lower_SP, there_SP)
