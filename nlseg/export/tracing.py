"""The non-local blocks in the form in which a graph can hold them.

Tiles whose number depends on the size are one operator of ours, which no other program knows. A
graph has a fixed number of steps: so the queries are padded to a fixed number of equal blocks, each
of which meets all keys. Memory is that of one block, and linear in the keys.
"""

from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlseg.errors import UserError
from nlseg.models.fuse import fuse_conv_bn
from nlseg.ops.disentangled import DisentangledNonLocal2d
from nlseg.ops.non_local import NonLocal2d, to_rows
from nlseg.ops.resize import Size

# Shape suffixes as in nlseg.ops.non_local: N batch, L positions that ask, S positions that answer,
# D channels in which they are compared, E channels of a value; one block has B queries; M is L + S.

BLOCK_BYTES = 64 << 20
"""What the scores of one block of queries may take, in float32."""
MOST_BLOCKS = 64
"""Each is three steps of the graph, which become slow to trace and to load."""
_PROBE = 64  # px; a side on which strides are measured


class BlockPlan(NamedTuple):
    """How one non-local block is exported.

    Args:
        name: Its path in the network.
        mode: How it compares positions.
        positions: Queries L of the largest image.
        num_blocks: Blocks of queries; 1 where the mode is linear without blocks.
        score_mib: What the scores of one block take at that size, in MiB.
    """

    name: str
    mode: str
    positions: int
    num_blocks: int
    score_mib: float


def traceable(model: nn.Module, largest: Size) -> tuple[nn.Module, list[BlockPlan]]:
    """Return a copy of a network that ``torch.export`` can take, and how its blocks were cut.

    Batch norms are folded into their convolutions. A block whose weights a subclass computes itself
    is left as it is.

    Args:
        model: The segmentor, in evaluation mode; it stays as it is.
        largest: Height and width for which the number of blocks is chosen; other sizes run, too.
    """
    copy = fuse_conv_bn(deepcopy(model)).requires_grad_(False)
    return copy, [_replace(*found, largest) for found in _measured(copy)]


def block_names(model: nn.Module) -> list[str]:
    """Return the paths of all non-local blocks of a network."""
    return [name for name, module in model.named_modules() if isinstance(module, NonLocal2d)]


def image_channels(model: nn.Module) -> int:
    """Return how many channels a network's images have.

    Raises:
        UserError: It has no convolution to tell by.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise UserError("export: the network has no convolution, so its input is not known")
    return first.in_channels


def _measured(model: nn.Module) -> list[tuple[str, NonLocal2d, tuple[float, float, int]]]:
    """Return each block with its share of rows and columns, and how many queries meet one key."""
    seen: dict[str, tuple[float, float, int]] = {}

    def note(name: str, block: Any, inputs: Any) -> None:
        height, width = inputs[0].shape[2:]
        seen[name] = height / _PROBE, width / _PROBE, 4 if block.sub_sample else 1

    blocks = {name: model.get_submodule(name) for name in block_names(model)}
    hooks = [block.register_forward_pre_hook(partial(note, name)) for name, block in blocks.items()]
    with torch.no_grad():
        model(torch.zeros(1, image_channels(model), _PROBE, _PROBE), mode="tensor")
    for hook in hooks:
        hook.remove()
    return [(name, blocks[name], place) for name, place in seen.items()]  # type: ignore[misc]


def _replace(name: str, block: Any, place: tuple[float, float, int], largest: Size) -> BlockPlan:
    """Give one block, a copy, methods that a graph can hold."""
    positions = round(largest[0] * place[0]) * round(largest[1] * place[1])
    keys = max(positions // place[2], 1)
    softmax = block.mode in ("gaussian", "embedded_gaussian")
    number = min(max(1, -(-positions * keys * 4 // BLOCK_BYTES)), MOST_BLOCKS) if softmax else 1
    block.memory_efficient = True
    if type(block).attend in (NonLocal2d.attend, DisentangledNonLocal2d.attend):
        block.attend = partial(_attend, block.mode, block.scale, number)
    if type(block).attend_by_association is NonLocal2d.attend_by_association:
        block.attend_by_association = partial(_associate, block)
    rows = -(-positions // number)
    mib = rows * keys * 4 / 2**20 if softmax else 0.0
    return BlockPlan(name, block.mode, positions, number, mib)


def _attend(
    mode: str, scale: float, number: int, query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor
) -> Tensor:
    """Return the context (N, L, E); scores, sums and softmax are float32 in a half network, too."""
    query, key, value = (x.float() for x in (query_NLD, key_NSD, value_NSE))
    if mode == "concatenation":
        context_NLE = relu_sum(query[..., 0], key[..., 0], value) / key_NSD.shape[1]
    elif mode == "dot_product":
        context_NLE = associated(query, key, value)
    else:
        context_NLE = attend_in_blocks(query, key, value, scale, number)
    return context_NLE.to(value_NSE.dtype)


def _associate(block: NonLocal2d, x_NCHW: Tensor) -> Tensor:
    maps = (to_rows(part(x_NCHW)) for part in (block.theta, block.phi, block.g))
    return _attend("dot_product", 1.0, 1, *maps)


def attend_in_blocks(
    query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor, scale: float, number: int
) -> Tensor:
    """Return softmax(scale * query @ key^T) @ value, (N, L, E), a block of queries at a time.

    Args:
        query_NLD: Queries.
        key_NSD: Keys.
        value_NSE: Values.
        scale: Factor of the scores.
        number: How many blocks the queries are padded to; the steps of the graph.
    """
    length = query_NLD.shape[1]
    size = (length + number - 1) // number
    padded = F.pad(query_NLD * scale, (0, 0, 0, size * number - length))
    key_NDS = key_NSD.mT
    blocks = [
        torch.bmm(torch.bmm(block_NBD, key_NDS).softmax(2), value_NSE)
        for block_NBD in padded.reshape(-1, number, size, padded.shape[2]).unbind(1)
    ]
    return torch.cat(blocks, dim=1)[:, :length]


def associated(query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor) -> Tensor:
    """Return query @ (key^T @ value) / S, (N, L, E): no map of pairs."""
    return torch.bmm(query_NLD, torch.bmm(key_NSD.mT / key_NSD.shape[1], value_NSE))


def relu_sum(a_NL: Tensor, b_NS: Tensor, value_NSE: Tensor) -> Tensor:
    """Return sum_j ReLU(a_i + b_j) value_j, (N, L, E), by two prefix sums as ``relu_attention``.

    ONNX has no search in a sorted row. So a position's rank among the keys is read off one sorted
    row of both: it is the number of keys in front of it.
    """
    keys = b_NS.shape[1]
    threshold_NM = torch.cat((-b_NS, a_NL), dim=1)
    order_NM = _ascending(threshold_NM)
    before_NM = (order_NM < keys).long().cumsum(1)
    rank_NM = torch.zeros_like(order_NM).scatter(1, order_NM, before_NM)
    sorted_NS = _ascending(-b_NS)
    value_NSE = value_NSE.gather(1, _in_all_channels(sorted_NS, value_NSE))
    weighted_NSE = value_NSE * b_NS.gather(1, sorted_NS)[..., None]
    rank_NLE = _in_all_channels(rank_NM[:, keys:], value_NSE)
    slope_NLE, offset_NLE = (
        F.pad(x.cumsum(1), (0, 0, 1, 0)).gather(1, rank_NLE) for x in (value_NSE, weighted_NSE)
    )
    return a_NL[..., None] * slope_NLE + offset_NLE


def _ascending(x_NM: Tensor) -> Tensor:
    """Return the order that sorts rows; as the M smallest, for which ONNX has an operator."""
    return torch.topk(x_NM, x_NM.shape[1], dim=1, largest=False, sorted=True).indices


def _in_all_channels(index_NM: Tensor, value_NSE: Tensor) -> Tensor:
    return index_NM[..., None].expand(-1, -1, value_NSE.shape[2])
