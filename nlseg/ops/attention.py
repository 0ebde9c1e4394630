"""Softmax attention in linear memory: the map of all pairs of positions is never held."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.torch_version import TorchVersion

from nlseg.ops.tiled_attention import tiled_attention

# Shape suffixes: N batch, L queries, S keys, D channels of query and key, E channels of a value.

FUSED_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
AMPERE, HOPPER = 8, 9  # major compute capabilities
_CHOICE_CAN_BE_TRACED = TorchVersion(torch.__version__) >= "2.5"


def softmax_attention(
    query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor, scale: float
) -> Tensor:
    """Return softmax(scale * query @ key^T) @ value, shape (N, L, E).

    On CUDA a fused kernel of PyTorch computes it. Where none takes the type (float64; bfloat16
    before Ampere), in the determinism mode, as their gradients add up in any order, and on every
    other device, tiles do. Scores and softmax are never narrower than float32. Under autocast the
    value may be narrower than query and key, which a fused kernel takes in the value's type.
    """
    dtype, device = value_NSE.dtype, value_NSE.device
    plain = query_NLD.is_cuda and not torch.are_deterministic_algorithms_enabled()
    if plain and fused_kernel_takes(dtype, device):
        heads = as_head(query_NLD.to(dtype)), as_head(key_NSD.to(dtype)), as_head(value_NSE)
        return fused_attention(*heads, scale)[:, 0, :, : value_NSE.shape[2]]
    context_NLE: Tensor = tiled_attention(query_NLD, key_NSD, value_NSE, scale)[0]
    return context_NLE


def fused_kernel_takes(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a fused kernel takes inputs of this type on this CUDA device.

    The type and the card alone decide, so that compiled and plain code decide alike: the
    memory-efficient kernel takes any width, length and batch.
    """
    if dtype == torch.bfloat16:
        return torch.cuda.get_device_capability(device)[0] >= AMPERE
    return dtype in (torch.float16, torch.float32)


def fused_attention(
    query_N1LD: Tensor, key_N1SD: Tensor, value_N1SE: Tensor, scale: float
) -> Tensor:
    """Return the context (N, 1, L, E) from a fused kernel; raises RuntimeError if none can.

    PyTorch takes flash in half precision up to 256 channels, else the memory-efficient kernel.
    cuDNN's is added for training on Hopper alone. There it was measured 1.7 to 2.3 times as fast
    as flash (huggingface/transformers, pull request 48163), but slower on Ampere and Blackwell and
    at most shapes of inference (the same, and sgl-project/sglang, pull request 30090); and it plans
    anew for each shape, of which training has few and evaluation many.
    """
    trains = torch.is_grad_enabled() and query_N1LD.requires_grad
    kernels = FUSED_KERNELS
    if trains and query_N1LD.is_cuda and _is_hopper(query_N1LD.device):
        kernels = [SDPBackend.CUDNN_ATTENTION, *FUSED_KERNELS]
    if torch.compiler.is_compiling() and not _CHOICE_CAN_BE_TRACED:
        return F.scaled_dot_product_attention(query_N1LD, key_N1SD, value_N1SE, scale=scale)
    with sdpa_kernel(kernels):
        return F.scaled_dot_product_attention(query_N1LD, key_N1SD, value_N1SE, scale=scale)


def _is_hopper(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] == HOPPER


def as_head(x_NLD: Tensor) -> Tensor:
    """Make one attention head (N, 1, L, D): rows in one piece, D filled up to a multiple of 8.

    It copies only where one of the two is not so already.
    """
    if x_NLD.shape[2] % 8:
        x_NLD = F.pad(x_NLD, (0, -x_NLD.shape[2] % 8))
    elif x_NLD.stride(2) != 1:
        x_NLD = x_NLD.contiguous()
    return x_NLD[:, None]
