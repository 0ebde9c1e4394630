"""Residual blocks of ResNet, with room for plugins such as non-local or context blocks."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmcv.cnn.bricks.plugin import infer_abbr
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from nlseg.errors import ConfigError
from nlseg.extension import check_overrides, extension_point
from nlseg.models.norm_recompute import instead_of
from nlseg.registry import MODELS, Cfg

Style = Literal["pytorch", "caffe"]

BATCH_NORM: Cfg = {"type": "BN", "requires_grad": True}


class ConvSpec(NamedTuple):
    """One convolution of a block; padding keeps the size at stride 1."""

    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1


class ResidualBlock(BaseModule):
    """Chain of convolutions, each with its norm, added to a shortcut.

    Children are called ``conv{i}`` and ``bn{i}`` (``gn{i}`` and so on after the norm's kind), with
    i from 1. ReLU follows every norm but the last, where it follows the sum. A plugin at
    ``after_conv{i}`` follows that ReLU, and at the last convolution comes before the sum; several
    at one position are chained in their order. (mmsegmentation hands each of them the same input
    and drops all results but the last.)

    Args:
        inplanes: Channels of the input.
        planes: Channels of the inner convolutions; the output has ``expansion`` times as many.
        stride: Step of the block.
        dilation: Dilation of its 3x3 convolution, or of the first of them.
        downsample: Shortcut where shape or stride change; the identity where None.
        style: Which convolution has the stride, see ``Bottleneck``.
        with_cp: Keep only the input for the backward pass and compute the rest again.
        conv_cfg: Kind of convolution, ``nn.Conv2d`` where None.
        norm_cfg: Kind of norm.
        dcn: Only None: deformable convolutions are not here.
        plugins: Dicts with ``cfg`` (the plugin's config, with an optional ``postfix`` of its name)
            and ``position`` ``'after_conv{i}'``.
        init_cfg: How ``init_weights`` fills the parameters.
        recompute_norms: Compute inner norms and ReLUs again in the backward pass; no effect with
            ``with_cp``.

    Raises:
        ConfigError: For ``dcn``, or two plugins of one name.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        style: Style = "pytorch",
        with_cp: bool = False,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg = BATCH_NORM,
        dcn: Cfg | None = None,
        plugins: Sequence[Any] | None = None,
        init_cfg: Cfg | list[Cfg] | None = None,
        *,
        recompute_norms: bool = True,
    ) -> None:
        super().__init__(init_cfg)
        if dcn is not None:
            raise ConfigError(
                f"{type(self).__name__}.dcn: deformable convolutions need mmcv's compiled "
                "operators, which are not used here; leave it out"
            )
        self.inplanes = inplanes
        self.planes = planes
        self.stride = stride
        self.dilation = dilation
        self.style = style
        self.with_cp = with_cp
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.recompute_norms = recompute_norms
        convs = self.convs(planes, stride, dilation, style)
        self.num_convs = len(convs)
        widths = [inplanes, *(conv.out_channels for conv in convs)]
        for i, conv in enumerate(convs, 1):
            self.add_module(f"conv{i}", _build_conv(conv_cfg, widths[i - 1], conv))
            name, norm = build_norm_layer(norm_cfg, conv.out_channels, postfix=i)
            self.add_module(name, norm)
            setattr(self, f"norm{i}_name", name)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.plugin_names = [
            self._add_plugins(widths[i], [p for p in plugins or () if p["position"][-1] == str(i)])
            for i in range(1, len(widths))
        ]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides, see ``nlseg.extension``."""
        super().__init_subclass__(**kwargs)
        advice = "write forward(self, x)"
        names = ("make_block_plugins", "forward_plugin", "_inner_forward")
        check_overrides(cls, dict.fromkeys(names, (("forward",), advice)))

    @property
    def norm_names(self) -> list[str]:
        """Names of the norms, in order."""
        return [getattr(self, f"norm{i}_name") for i in range(1, self.num_convs + 1)]

    @property
    def norm1(self) -> nn.Module:
        """The norm behind the first convolution."""
        norm: nn.Module = self.get_submodule(self.norm_names[0])
        return norm

    @property
    def norm2(self) -> nn.Module:
        """The norm behind the second convolution."""
        norm: nn.Module = self.get_submodule(self.norm_names[1])
        return norm

    @staticmethod
    @abstractmethod
    def convs(channels: int, stride: int, dilation: int, style: Style) -> tuple[ConvSpec, ...]:
        """Return the convolutions in order."""

    def _add_plugins(self, channels: int, plugins: Sequence[Cfg]) -> list[str]:
        names = []
        for plugin in plugins:
            cfg = dict(plugin["cfg"])
            postfix = cfg.pop("postfix", "")
            layer = MODELS.build({**cfg, "in_channels": channels})
            name = f"{infer_abbr(type(layer))}{postfix}"
            if hasattr(self, name):
                raise ConfigError(
                    f"plugins: two plugins of one block are called {name!r}; "
                    "give each cfg a postfix of its own"
                )
            self.add_module(name, layer)
            names.append(name)
        return names

    @property
    def last_norm(self) -> nn.Module:
        """The norm whose weight starts at 0 under ``zero_init_residual``."""
        norm: nn.Module = self.get_submodule(self.norm_names[-1])
        return norm

    @extension_point
    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        if self.with_cp and x.requires_grad:
            out = checkpoint(self._branch_and_sum, x, use_reentrant=False, **self._contexts())
        else:
            out = self._branch_and_sum(x)
        result: Tensor = self.relu(out)
        return result

    def _branch_and_sum(self, x: Tensor) -> Tensor:
        out, last = x, self.num_convs
        kept: AbstractContextManager[Any] = nullcontext()
        recompute = self.recompute_norms and not self.with_cp
        for i, (norm_name, plugin_names) in enumerate(
            zip(self.norm_names, self.plugin_names, strict=True), 1
        ):
            with kept:
                before = getattr(self, f"conv{i}")(out)
            norm = getattr(self, norm_name)
            out = norm(before)
            replaced = recompute and i < last and not plugin_names
            kept = instead_of(out, before, norm) if replaced else nullcontext()
            del before
            if i < last:
                with kept:
                    out = self.relu(out)
            for name in plugin_names:
                out = getattr(self, name)(out)
        out += x if self.downsample is None else self.downsample(x)
        return out

    def _contexts(self) -> dict[str, Any]:
        """Keep running statistics as they are while the backward pass computes the block again."""
        if torch.compiler.is_compiling():
            return {}

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _running_stats_kept(self)

        return {"context_fn": contexts}


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (ResNet-18 and 34); only the first has stride and dilation."""

    @staticmethod
    def convs(channels: int, stride: int, dilation: int, style: Style) -> tuple[ConvSpec, ...]:
        """Return the convolutions; ``style`` has no effect."""
        return ConvSpec(channels, 3, stride, dilation), ConvSpec(channels, 3)


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolution (ResNet-50 and deeper); the 3x3 one has the dilation."""

    expansion = 4

    @property
    def norm3(self) -> nn.Module:
        """The norm behind the third convolution."""
        norm: nn.Module = self.get_submodule(self.norm_names[2])
        return norm

    @staticmethod
    def convs(channels: int, stride: int, dilation: int, style: Style) -> tuple[ConvSpec, ...]:
        """Return the convolutions; 'pytorch' strides the 3x3 one, 'caffe' the first."""
        stride_1x1, stride_3x3 = (1, stride) if style == "pytorch" else (stride, 1)
        return (
            ConvSpec(channels, 1, stride_1x1),
            ConvSpec(channels, 3, stride_3x3, dilation),
            ConvSpec(channels * Bottleneck.expansion, 1),
        )


class ResLayer(Sequential):
    """A stage: residual blocks one after the other, the first with a shortcut where it needs one.

    Args:
        block: Class of the blocks: ``BasicBlock``, ``Bottleneck`` or a user's with their first
            arguments and ``expansion``.
        inplanes: Channels of the input.
        planes: Inner channels of the blocks.
        num_blocks: How many.
        stride: Step of the first.
        dilation: Dilation of the blocks.
        avg_down: The shortcut pools, then convolves at stride 1.
        conv_cfg: Kind of convolution, ``nn.Conv2d`` where None.
        norm_cfg: Kind of norm.
        multi_grid: Dilation of each block.
        contract_dilation: The first block has half the dilation.
        **kwargs: Further arguments of every block.

    Raises:
        ConfigError: For fewer dilations than blocks.
    """

    def __init__(
        self,
        block: Callable[..., nn.Module],
        inplanes: int,
        planes: int,
        num_blocks: int,
        stride: int = 1,
        dilation: int = 1,
        avg_down: bool = False,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg = BATCH_NORM,
        multi_grid: Sequence[int] | None = None,
        contract_dilation: bool = False,
        **kwargs: Any,  # of any block, a user's too
    ) -> None:
        self.block = block
        width = planes * block.expansion  # type: ignore[attr-defined]
        shortcut = None
        if stride != 1 or inplanes != width:
            shortcut = _shortcut(inplanes, width, stride, avg_down, conv_cfg, norm_cfg)
        settings = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, **kwargs}
        dilations = block_dilations(num_blocks, dilation, multi_grid, contract_dilation)
        first = block(
            inplanes=inplanes,
            planes=planes,
            stride=stride,
            dilation=dilations[0],
            downsample=shortcut,
            **settings,
        )
        others = (
            block(inplanes=width, planes=planes, stride=1, dilation=dilation, **settings)
            for dilation in dilations[1:]
        )
        super().__init__(first, *others)


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


def _shortcut(
    in_channels: int,
    out_channels: int,
    stride: int,
    avg_down: bool,
    conv_cfg: Cfg | None,
    norm_cfg: Cfg,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    if avg_down:
        layers.append(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
        stride = 1
    layers.append(
        build_conv_layer(
            conv_cfg, in_channels, out_channels, kernel_size=1, stride=stride, bias=False
        )
    )
    layers.append(build_norm_layer(norm_cfg, out_channels)[1])
    return nn.Sequential(*layers)


def _build_conv(conv_cfg: Cfg | None, in_channels: int, conv: ConvSpec) -> nn.Module:
    layer: nn.Module = build_conv_layer(
        conv_cfg,
        in_channels,
        conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.dilation * (conv.kernel_size // 2),
        dilation=conv.dilation,
        bias=False,
    )
    return layer


@contextmanager
def _running_stats_kept(module: nn.Module) -> Iterator[None]:
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
