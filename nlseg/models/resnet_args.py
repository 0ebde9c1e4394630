"""What a ResNet is built from: its depths, its arguments, and the checks they go through."""

import math
from collections.abc import Sequence
from typing import Literal, TypedDict

from typing_extensions import NotRequired

from nlseg.errors import ConfigError
from nlseg.models.residual import BasicBlock, Bottleneck, Cfg, Style

Depth = Literal[18, 34, 50, 101, 152]
ARCHITECTURES: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
FROM_SCRATCH: list[Cfg] = [
    {"type": "Kaiming", "layer": "Conv2d"},
    {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
]


class Plugin(TypedDict):
    """A block inside residual blocks: its config, where it sits, and in which stages."""

    cfg: Cfg
    position: Literal["after_conv1", "after_conv2", "after_conv3"]
    stages: NotRequired[Sequence[bool]]


class ResNetArgs(TypedDict, total=False):
    """Arguments that ResNetV1c and ResNetV1d hand on; ``ResNet`` says what they mean."""

    in_channels: int
    stem_channels: int
    base_channels: int
    num_stages: int
    strides: Sequence[int]
    dilations: Sequence[int]
    out_indices: Sequence[int]
    style: Style
    frozen_stages: int
    conv_cfg: Cfg | None
    norm_cfg: Cfg
    norm_eval: bool
    plugins: Sequence[Plugin] | None
    multi_grid: Sequence[int] | None
    contract_dilation: bool
    with_cp: bool
    recompute_norms: bool
    zero_init_residual: bool
    pretrained: str | None
    init_cfg: Cfg | list[Cfg] | None


def check_arguments(
    depth: int,
    num_stages: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    out_indices: Sequence[int],
    style: str,
    plugins: Sequence[Plugin] | None,
) -> None:
    """Refuse what no ResNet can be built from.

    Raises:
        ConfigError: See ``nlseg.models.resnet.ResNet``.
    """
    if depth not in ARCHITECTURES:
        nearest = min(ARCHITECTURES, key=lambda known: abs(math.log(known / max(depth, 1))))
        raise ConfigError(
            f"backbone.depth: {depth} is not one of {list(ARCHITECTURES)}; did you mean {nearest}?"
        )
    if not 1 <= num_stages <= 4:
        raise ConfigError(f"backbone.num_stages: {num_stages} is outside 1..4")
    for name, values in (("strides", strides), ("dilations", dilations)):
        if len(values) != num_stages:
            raise ConfigError(f"backbone.{name}: {tuple(values)} needs {num_stages} numbers")
    if any(not 0 <= i < num_stages for i in out_indices):
        raise ConfigError(
            f"backbone.out_indices: {tuple(out_indices)} has a stage outside 0..{num_stages - 1}"
        )
    if style not in ("pytorch", "caffe"):
        raise ConfigError(f"backbone.style: {style!r} is neither 'pytorch' nor 'caffe'")
    _check_positions(depth, plugins or ())


def _check_positions(depth: int, plugins: Sequence[Plugin]) -> None:
    last = 3 if ARCHITECTURES[depth][0] is Bottleneck else 2
    positions = [f"after_conv{i}" for i in range(1, last + 1)]
    for plugin in plugins:
        if plugin["position"] not in positions:
            raise ConfigError(
                f"backbone.plugins: position {plugin['position']!r} is not one of {positions}"
            )


def choose_init(pretrained: str | None, init_cfg: Cfg | list[Cfg] | None) -> Cfg | list[Cfg]:
    """Return the ``init_cfg`` that the two arguments stand for."""
    if pretrained and init_cfg:
        raise ConfigError("backbone: give either 'pretrained' or 'init_cfg', not both")
    if pretrained:
        return {"type": "Pretrained", "checkpoint": pretrained}
    return init_cfg or FROM_SCRATCH


def block_dilations(
    num_blocks: int, dilation: int, multi_grid: Sequence[int] | None, contract: bool
) -> list[int]:
    """Return the dilation of every block of a stage."""
    if multi_grid is not None:
        if len(multi_grid) < num_blocks:
            raise ConfigError(
                f"backbone.multi_grid: {list(multi_grid)} has fewer than the {num_blocks} blocks "
                "of the last stage"
            )
        return list(multi_grid[:num_blocks])
    first = dilation // 2 if contract and dilation > 1 else dilation
    return [first] + [dilation] * (num_blocks - 1)
