"""Attention with weights ReLU(a_i + b_j): exact in O((L + S) (log S + E)), without a map of pairs.

Sorted by falling b, the keys that position i sees, those with b_j > -a_i, are the first few. Over
them the weighted sum of values is linear in a_i,

    sum_j ReLU(a_i + b_j) v_j = a_i * sum_j v_j + sum_j b_j v_j,

so two prefix sums answer every position. The gradient of the values is the same sum with the parts
of a and b exchanged; the gradients of a and b need the first prefix sum alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Shape suffixes: N batch, L positions that ask, S positions that answer, E channels of a value.


def relu_attention(a_NL: Tensor, b_NS: Tensor, value_NES: Tensor) -> Tensor:
    """Return sum_j ReLU(a_i + b_j) value_j / S, shape (N, E, L).

    Computed in float32, or float64 for float64. A prefix sum rounds relative to its largest entry,
    so errors are relative to the largest |a|, |b| and context, not to each context.
    """
    wide = torch.promote_types(value_NES.dtype, torch.float32)
    context_NEL: Tensor = ReluSum.apply(  # type: ignore[no-untyped-call]
        a_NL.to(wide), b_NS.to(wide), value_NES.to(wide)
    )
    return (context_NEL / b_NS.shape[1]).to(value_NES.dtype)


class ReluSum(torch.autograd.Function):
    """The sum over j of ReLU(a_i + b_j) v_j, with its gradient. No second derivative."""

    @staticmethod
    def forward(ctx: Any, a_NL: Tensor, b_NS: Tensor, value_NES: Tensor) -> Tensor:
        """Return the sums (N, E, L)."""
        ctx.save_for_backward(a_NL, b_NS, value_NES)
        return _sum_and_slope(a_NL, b_NS, value_NES)[0]

    @staticmethod
    def backward(ctx: Any, grad_NEL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of a, b and values."""
        a_NL, b_NS, value_NES = ctx.saved_tensors
        _, slope_NEL = _sum_and_slope(a_NL, b_NS, value_NES)
        grad_value_NES, slope_NES = _sum_and_slope(b_NS, a_NL, grad_NEL)
        grad_a_NL = (slope_NEL * grad_NEL).sum(1)
        grad_b_NS = (slope_NES * value_NES).sum(1)
        return grad_a_NL, grad_b_NS, grad_value_NES


def _sum_and_slope(a_NL: Tensor, b_NS: Tensor, value_NES: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums (N, E, L) and their slopes in a_i: the sums of all v_j that i sees."""
    threshold_NS, order_NS = (-b_NS).sort(dim=1)
    prefix_NEL = _in_all_channels(torch.searchsorted(threshold_NS, a_NL), value_NES)
    sorted_NES = value_NES.gather(2, _in_all_channels(order_NS, value_NES))
    slope_NEL = F.pad(sorted_NES, (1, 0)).cumsum_(2).gather(2, prefix_NEL)
    sorted_NES *= -threshold_NS[:, None]
    sum_NEL = F.pad(sorted_NES, (1, 0)).cumsum_(2).gather(2, prefix_NEL)
    return sum_NEL.addcmul_(slope_NEL, a_NL[:, None]), slope_NEL


def _in_all_channels(index_NL: Tensor, value_NES: Tensor) -> Tensor:
    return index_NL[:, None].expand(-1, value_NES.shape[1], -1)
