"""Softmax attention tile by tile: exact, in linear memory, at the full rate of the CPU.

A tile of queries meets one tile of keys after the other, with a running maximum and denominator;
the backward pass computes every tile again. To autograd, ``torch.compile`` and fake tensors it is
one operator: the loop over tiles is neither unrolled nor compiled again for another size.

Source: Dao et al., "FlashAttention", 2022, algorithms 1 and 4, with the exponential to base 2.
"""

from collections.abc import Iterator
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

# Shape suffixes: N batch, L queries, S keys, D channels of query and key, E channels of a value;
# one tile has B queries and T keys. Of a product: M rows, K deep, N columns; P products.

LONG_SIDE, SHORT_SIDE = 1024, 512
"""Positions along the sides of a tile: its scores are 2 MiB of float32, which caches hold."""
CUDA_SIDE = 4096
"""Both sides on a GPU: 64 MiB, which keep it busy with few launches."""


@torch.library.custom_op("nlseg::tiled_attention", mutates_args=())
def tiled_attention(
    query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute softmax(scale * query @ key^T) @ value.

    Everything between input and result is float32, or float64 for float64 inputs, also under
    autocast. There is no second derivative.

    Returns:
        The context (N, L, E) in the type of ``value``, and log2 of each softmax's denominator,
        (N, L), which the backward pass needs and no gradient flows into.
    """
    results: tuple[Tensor, Tensor] = _empty_results(query_NLD, key_NSD, value_NSE, scale)
    with torch.autocast(query_NLD.device.type, enabled=False):
        for n in range(len(query_NLD)):
            query_LD, key_SD, value_SE = (_wide(x[n]) for x in (query_NLD, key_NSD, value_NSE))
            for rows in _cut(len(query_LD), _sides(query_LD)[0]):
                tile = _attend(query_LD[rows] * (scale / log(2)), key_SD, value_SE)
                for result, part in zip(results, tile, strict=True):
                    result[n, rows] = part
    return results


def _attend(query_BD: Tensor, key_SD: Tensor, value_SE: Tensor) -> tuple[Tensor, Tensor]:
    """Show one tile of queries all keys. ``exp2`` takes a quarter of the time of ``exp``."""
    top_B1 = query_BD.new_full((len(query_BD), 1), -torch.inf)
    total_B1 = torch.zeros_like(top_B1)
    context_BE = query_BD.new_zeros(len(query_BD), value_SE.shape[1])
    for cols in _cut(len(key_SD), _sides(key_SD)[1]):
        score_BT = product(query_BD, key_SD[cols])
        new_top_B1 = torch.maximum(top_B1, score_BT.amax(1, keepdim=True))
        shrink_B1 = (top_B1 - new_top_B1).exp2()
        weight_BT = score_BT.sub_(new_top_B1).exp2_()
        total_B1 = total_B1 * shrink_B1 + weight_BT.sum(1, keepdim=True)
        context_BE *= shrink_B1
        context_BE += product(weight_BT, value_SE[cols].t())
        top_B1 = new_top_B1
    return context_BE / total_B1, (top_B1 + total_B1.log2())[:, 0]


@torch.library.custom_op("nlseg::tiled_attention_backward", mutates_args=())
def tiled_attention_backward(
    grad_NLE: Tensor,
    query_NLD: Tensor,
    key_NSD: Tensor,
    value_NSE: Tensor,
    context_NLE: Tensor,
    log2_total_NL: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value, each in the type of its tensor."""
    tensors = (grad_NLE, query_NLD, key_NSD, value_NSE, context_NLE, log2_total_NL)
    grads: tuple[Tensor, Tensor, Tensor] = _empty_gradients(*tensors, scale)
    with torch.autocast(query_NLD.device.type, enabled=False):
        for n in range(len(query_NLD)):
            sample = _attend_backward(*(_wide(x[n]) for x in tensors), scale=scale)
            for grad, part in zip(grads, sample, strict=True):
                grad[n] = part
    return grads


def _attend_backward(
    grad_LE: Tensor,
    query_LD: Tensor,
    key_SD: Tensor,
    value_SE: Tensor,
    context_LE: Tensor,
    log2_total_L: Tensor,
    *,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk through the tiles of one sample, each lying (T, B), so that both shifts are biases."""
    query_LD = query_LD * (scale / log(2))
    delta_L = (grad_LE * context_LE).sum(1)
    query_DL, key_DS, grad_EL = (x.t().contiguous() for x in (query_LD, key_SD, grad_LE))
    grad_query_LD, grad_key_SD = torch.zeros_like(query_LD), torch.zeros_like(key_SD)
    grad_value_SE = torch.zeros_like(value_SE)
    long_side, short_side = _sides(key_SD)
    for cols in _cut(len(key_SD), long_side):
        for rows in _cut(len(query_LD), short_side):
            weight_TB = product(key_SD[cols], query_LD[rows], -log2_total_L[rows]).exp2_()
            grad_value_SE[cols] += product(weight_TB, grad_EL[:, rows])
            grad_score_TB = product(value_SE[cols], grad_LE[rows], -delta_L[rows]).mul_(weight_TB)
            grad_key_SD[cols] += product(grad_score_TB, query_DL[:, rows])
            grad_query_LD[rows] += product(grad_score_TB.t(), key_DS[:, cols])
    return grad_query_LD * scale, grad_key_SD * log(2), grad_value_SE


def _sides(x: Tensor) -> tuple[int, int]:
    return (CUDA_SIDE, CUDA_SIDE) if x.is_cuda else (LONG_SIDE, SHORT_SIDE)


def _cut(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


# What fake tensors, autograd and the FLOP counter need to know of the two operators.


@tiled_attention.register_fake
def _empty_results(
    query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    num, length, _ = query_NLD.shape
    wide = torch.promote_types(query_NLD.dtype, torch.float32)
    context_NLE = value_NSE.new_empty(num, length, value_NSE.shape[2])
    return context_NLE, query_NLD.new_empty(num, length, dtype=wide)


@tiled_attention_backward.register_fake
def _empty_gradients(
    grad_NLE: Tensor,
    query_NLD: Tensor,
    key_NSD: Tensor,
    value_NSE: Tensor,
    context_NLE: Tensor,
    log2_total_NL: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_query, grad_key, grad_value = (
        x.new_empty(x.shape) for x in (query_NLD, key_NSD, value_NSE)
    )
    return grad_query, grad_key, grad_value


def _keep_for_backward(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]
) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_NLE: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *tiled_attention_backward(grad_NLE, *ctx.saved_tensors, ctx.scale), None


tiled_attention.register_autograd(_backward, setup_context=_keep_for_backward)


@register_flop_formula(torch.ops.nlseg.tiled_attention)
def _flops(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    return 2 * query[0] * query[1] * key[1] * (query[2] + value[2])


@register_flop_formula(torch.ops.nlseg.tiled_attention_backward)
def _flops_backward(
    _: list[int], query: list[int], key: list[int], value: list[int], *__: Any, **___: Any
) -> int:
    return 2 * query[0] * query[1] * key[1] * (3 * query[2] + 2 * value[2])


def product(rows_MK: Tensor, weights_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return rows @ weights^T + bias, shape (M, N): ``F.linear``, but float32 runs in oneDNN.

    PyTorch sends float32 products on a CPU to MKL, which on AMD reaches half the rate of oneDNN;
    only convolutions go there. So rows become pixels of a 1x1 convolution, channels last, which
    copies nothing; in a batch, because with one image and one thread oneDNN would not be taken.
    """
    if rows_MK.device.type != "cpu" or rows_MK.dtype != torch.float32:
        return F.linear(rows_MK, weights_NK, bias_N)
    num_rows, depth = rows_MK.shape
    batch = 32 if num_rows % 32 == 0 else 1
    pixels = rows_MK.reshape(batch, 1, num_rows // batch, depth).permute(0, 3, 1, 2)
    out = F.conv2d(pixels, weights_NK[:, :, None, None], bias_N)
    return out.permute(0, 2, 3, 1).reshape(num_rows, len(weights_NK))


def products(rows_PMK: Tensor, weights_PNK: Tensor) -> Tensor:
    """Return every rows @ weights^T, shape (P, M, N)."""
    if rows_PMK.device.type != "cpu" or rows_PMK.dtype != torch.float32:
        return torch.bmm(rows_PMK, weights_PNK.mT)
    if len(rows_PMK) == 1:
        return product(rows_PMK[0], weights_PNK[0])[None]
    return torch.stack([product(*pair) for pair in zip(rows_PMK, weights_PNK, strict=True)])
