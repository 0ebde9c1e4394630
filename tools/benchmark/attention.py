"""Softmax attention by each kernel that there is, asked for by its name."""

import itertools
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark.measure import Work
from nlseg.ops.tiled_attention import tiled_attention
from nlseg.run.fast import find_hardware

TILES, FLASH, CUDNN, EFFICIENT, ALL_PAIRS = "tiles", "flash", "cudnn", "efficient", "all pairs"
BACKENDS = {
    FLASH: SDPBackend.FLASH_ATTENTION,
    CUDNN: SDPBackend.CUDNN_ATTENTION,
    EFFICIENT: SDPBackend.EFFICIENT_ATTENTION,
    ALL_PAIRS: SDPBackend.MATH,
}
KERNELS = (FLASH, CUDNN, EFFICIENT, TILES, ALL_PAIRS)
"""Ratios are to flash."""
KERNELS_ON_CPU = (ALL_PAIRS, TILES)
_FIRST, _STEP = 3200, 104
_numbers = itertools.count()


def attend(way: str, device: str, *, positions: int, backward: bool, channels: int = 256) -> Work:
    """Attend among positions with 256 channels, in the half precision of the hardware.

    Args:
        way: One of ``KERNELS``.
        device: 'cpu' or 'cuda'.
        positions: Queries, and keys.
        backward: Whether gradients are computed.
        channels: Channels of query, key and value.
    """
    small = partial(_step, way, drawn(128, channels, device, backward))
    run = partial(_step, way, drawn(positions, channels, device, backward))
    return Work(run, small, _precision(device))


def attend_changing(way: str, device: str, *, count: int = 8, channels: int = 256) -> Work:
    """Attend among numbers of positions that were never seen, as images of many sizes have them.

    Args:
        way: One of ``KERNELS``.
        device: 'cpu' or 'cuda'.
        count: How many sizes in a run.
        channels: Channels of query, key and value.
    """

    def run() -> None:
        for _ in range(count):
            positions = _FIRST + _STEP * next(_numbers)
            _step(way, drawn(positions, channels, device, False))

    small = partial(_step, way, drawn(128, channels, device, False))
    return Work(run, small, _precision(device))


def drawn(positions: int, channels: int, device: str, gradients: bool) -> list[Tensor]:
    """Draw query, key and value (2, 1, positions, channels)."""
    half = find_hardware().half if device == "cuda" else None
    dtype = getattr(torch, half) if half else torch.float32
    shape = (2, 1, positions, channels)
    return [torch.randn(shape, device=device).to(dtype).requires_grad_(gradients) for _ in range(3)]


def _precision(device: str) -> str:
    half = find_hardware().half if device == "cuda" else None
    return {None: "fp32", "bfloat16": "bf16", "float16": "fp16"}[half]


def _step(way: str, inputs: list[Tensor]) -> Any:
    backward = inputs[0].requires_grad
    with torch.set_grad_enabled(backward):
        out = _attention(way, *inputs)
    return torch.autograd.grad(out, inputs, torch.ones_like(out)) if backward else out


def _attention(way: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if way == TILES:
        context: Tensor
        context, _ = tiled_attention(query[:, 0], key[:, 0], value[:, 0], query.shape[3] ** -0.5)
        return context
    with sdpa_kernel(BACKENDS[way]):
        return F.scaled_dot_product_attention(query, key, value)
