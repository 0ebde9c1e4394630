"""What a ResNet is built from: its depths, its arguments, and how they fit together."""

from collections.abc import Iterator, Sequence
from typing import Literal

from typing_extensions import NotRequired, TypedDict

from nlseg.errors import ConfigError
from nlseg.models.residual import BasicBlock, Bottleneck, Style
from nlseg.registry import Cfg

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


def conflicts(
    depth: int,
    num_stages: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    out_indices: Sequence[int],
    plugins: Sequence[Plugin] | None,
) -> Iterator[tuple[str, str]]:
    """Yield what does not fit together: the argument, and why.

    Args:
        depth: See ``nlseg.models.resnet.ResNet``, as for the others.
        num_stages: The number of stages.
        strides: One for each stage.
        dilations: One for each stage.
        out_indices: Stages from 0.
        plugins: Their positions and stages are looked at.
    """
    for name, values in (("strides", strides), ("dilations", dilations)):
        if len(values) != num_stages:
            yield name, f"{tuple(values)} needs {num_stages} numbers, one for each stage"
    if any(i >= num_stages for i in out_indices):
        yield "out_indices", f"{tuple(out_indices)} has a stage outside 0..{num_stages - 1}"
    last = 3 if ARCHITECTURES[depth][0] is Bottleneck else 2
    positions = [f"after_conv{i}" for i in range(1, last + 1)]
    for plugin in plugins or ():
        if plugin["position"] not in positions:
            yield "plugins", f"position {plugin['position']!r} is not one of {positions}"
        stages = plugin.get("stages")
        if stages is not None and len(stages) != num_stages:
            text = f"stages {tuple(stages)} needs {num_stages} entries, one for each stage"
            yield "plugins", text


def choose_init(pretrained: str | None, init_cfg: Cfg | list[Cfg] | None) -> Cfg | list[Cfg]:
    """Return the ``init_cfg`` that the two arguments stand for."""
    if pretrained and init_cfg:
        raise ConfigError("backbone: give either 'pretrained' or 'init_cfg', not both")
    if pretrained:
        return {"type": "Pretrained", "checkpoint": pretrained}
    return init_cfg or FROM_SCRATCH
