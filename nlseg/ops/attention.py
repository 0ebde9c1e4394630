"""Softmax attention in linear memory: the map of all pairs of positions is never held."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import (
    SDPAParams,
    can_use_efficient_attention,
    can_use_flash_attention,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from nlseg.ops.tiled_attention import tiled_attention

# Shape suffixes: N batch, L queries, S keys, D channels of query and key, E channels of a value.

FUSED_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
]


def softmax_attention(
    query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor, scale: float
) -> Tensor:
    """Return softmax(scale * query @ key^T) @ value, shape (N, L, E).

    On CUDA a fused kernel of PyTorch computes it: flash or cudnn in half precision, the
    memory-efficient one in float32, on a V100, and for more than 256 channels. Where none takes
    the inputs (float64), in the determinism mode, as their gradients add up in any order, and on
    every other device, tiles do. Scores and softmax are never narrower than float32.
    """
    if query_NLD.is_cuda and not torch.are_deterministic_algorithms_enabled():
        heads = as_head(query_NLD), as_head(key_NSD), as_head(value_NSE)
        if fused_kernel_takes(*heads):
            return fused_attention(*heads, scale)[:, 0, :, : value_NSE.shape[2]]
    context_NLE: Tensor = tiled_attention(query_NLD, key_NSD, value_NSE, scale)[0]
    return context_NLE


def fused_kernel_takes(query_N1LD: Tensor, key_N1SD: Tensor, value_N1SE: Tensor) -> bool:
    """Say whether a fused CUDA kernel takes inputs of this device, type and number of channels."""
    params = SDPAParams(query_N1LD, key_N1SD, value_N1SE, None, 0.0, False, False)
    return can_use_flash_attention(params) or can_use_efficient_attention(params)


def fused_attention(
    query_N1LD: Tensor, key_N1SD: Tensor, value_N1SE: Tensor, scale: float
) -> Tensor:
    """Return the context (N, 1, L, E) from a fused kernel; raises RuntimeError if none can."""
    with sdpa_kernel(FUSED_KERNELS):
        return F.scaled_dot_product_attention(query_N1LD, key_N1SD, value_N1SE, scale=scale)


def as_head(x_NLD: Tensor) -> Tensor:
    """Make one attention head (N, 1, L, D): contiguous, D filled with zeros to a multiple of 8."""
    return F.pad(x_NLD, (0, -x_NLD.shape[2] % 8))[:, None].contiguous()
