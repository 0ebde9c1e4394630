"""The blocks alone: non-local in its four modes, and global context."""

from functools import partial
from typing import Any

import mmcv.cnn
import torch
from torch import Tensor, nn

from benchmark import baseline
from benchmark.measure import Work
from nlseg.ops.global_context import ContextBlock
from nlseg.ops.non_local import AttentionMode, NonLocal2d
from nlseg.run.fast import find_hardware

_WARM = (8, 16)


def non_local(
    way: str,
    device: str,
    *,
    mode: AttentionMode,
    size: tuple[int, int],
    batch: int = 1,
    channels: int = 512,
    backward: bool = False,
) -> Work:
    """Run the non-local block on noise (N, C, H, W), forward only or with gradients.

    Args:
        way: 'baseline', 'nlseg', or 'best' for half precision.
        device: 'cpu' or 'cuda'.
        mode: Pairwise function of the block.
        size: Height H and width W.
        batch: Number of maps N.
        channels: Channels C; embeddings have half of them.
        backward: Whether gradients are computed.
    """
    torch.manual_seed(0)
    block: nn.Module = NonLocal2d(channels, mode=mode)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.03)
    if way == "baseline":
        block = baseline.non_local_block(block, channels, mode=mode)
    return _work(block, way, device, (batch, channels, *size), backward)


def global_context(
    way: str, device: str, *, size: tuple[int, int], channels: int = 512, backward: bool = False
) -> Work:
    """Run the global context block on noise (1, C, H, W).

    Args:
        way: 'baseline', 'nlseg', or 'best' for half precision.
        device: 'cpu' or 'cuda'.
        size: Height H and width W.
        channels: Channels C.
        backward: Whether gradients are computed.
    """
    kind: Any = mmcv.cnn.ContextBlock if way == "baseline" else ContextBlock
    return _work(kind(channels, ratio=0.25), way, device, (1, channels, *size), backward)


def _work(block: nn.Module, way: str, device: str, shape: tuple[int, ...], backward: bool) -> Work:
    block = block.to(device).train(backward)
    half = find_hardware().half if way == "best" else None
    dtype = getattr(torch, half) if half else None
    torch.manual_seed(1)  # building draws, too, and not in every way the same
    small = torch.randn(1, shape[1], *_WARM, device=device)
    return Work(
        partial(_step, block, torch.randn(shape, device=device), backward, dtype),
        partial(_step, block, small, backward, dtype),
        {None: "fp32", "bfloat16": "bf16", "float16": "fp16"}[half],
    )


def _step(block: nn.Module, x: Tensor, backward: bool, dtype: torch.dtype | None) -> Any:
    with (
        torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None),
        torch.set_grad_enabled(backward),
    ):
        out = block(x.requires_grad_(backward))
    if not backward:
        return out
    out.float().square().mean().backward()
    gradient, x.grad = x.grad, None
    block.zero_grad()
    return gradient
