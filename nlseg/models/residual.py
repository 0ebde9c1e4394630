"""Residual blocks of ResNet, with room for plugins such as non-local or context blocks."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmcv.cnn.bricks.plugin import infer_abbr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from nlseg.models.norm_recompute import instead_of
from nlseg.registry import MODELS

Style = Literal["pytorch", "caffe"]
Cfg = dict[str, Any]


class ConvSpec(NamedTuple):
    """One convolution of a block; padding keeps the size at stride 1."""

    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1


class ResidualBlock(nn.Module):
    """Chain of convolutions, each with its norm, added to a shortcut.

    Children are called ``conv{i}`` and ``bn{i}`` (``gn{i}`` and so on after the norm's kind), with
    i from 1. ReLU follows every norm but the last, where it follows the sum. A plugin at
    ``after_conv{i}`` follows that ReLU, and at the last convolution comes before the sum; several
    at one position are chained in their order. (mmsegmentation hands each of them the same input
    and drops all results but the last.)

    Args:
        in_channels: Channels of the input.
        channels: Channels of the inner convolutions; the output has ``expansion`` times as many.
        stride: Step of the block.
        dilation: Dilation of its 3x3 convolution, or of the first of them.
        style: Which convolution has the stride, see ``Bottleneck``.
        downsample: Shortcut where shape or stride change; the identity where None.
        with_cp: Keep only the input for the backward pass and compute the rest again.
        recompute_norms: Compute inner norms and ReLUs again in the backward pass.
        conv_cfg: Kind of convolution, ``nn.Conv2d`` where None.
        norm_cfg: Kind of norm.
        plugins: Dicts with ``cfg`` (the plugin's config, with an optional ``postfix`` of its name)
            and ``position`` ``'after_conv{i}'``.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        dilation: int,
        style: Style,
        downsample: nn.Sequential | None,
        with_cp: bool,
        recompute_norms: bool,
        conv_cfg: Cfg | None,
        norm_cfg: Cfg,
        plugins: Sequence[Cfg],
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.recompute_norms = recompute_norms and not with_cp
        self.norm_names: list[str] = []
        convs = self.convs(channels, stride, dilation, style)
        widths = [in_channels, *(conv.out_channels for conv in convs)]
        for i, conv in enumerate(convs, 1):
            self.add_module(f"conv{i}", _build_conv(conv_cfg, widths[i - 1], conv))
            name, norm = build_norm_layer(norm_cfg, conv.out_channels, postfix=i)
            self.add_module(name, norm)
            self.norm_names.append(name)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.plugin_names = [
            self._add_plugins(widths[i], [p for p in plugins if p["position"][-1] == str(i)])
            for i in range(1, len(widths))
        ]

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
                raise ValueError(
                    f"plugins: two plugins of one block are called {name!r}; "
                    "give each cfg a postfix of its own"
                )
            self.add_module(name, layer)
            names.append(name)
        return names

    @property
    def last_norm(self) -> nn.Module:
        """The norm whose weight starts at 0 under ``zero_init_residual``."""
        return self.get_submodule(self.norm_names[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        if self.with_cp and x.requires_grad:
            out = checkpoint(self._branch_and_sum, x, use_reentrant=False, **self._contexts())
        else:
            out = self._branch_and_sum(x)
        result: Tensor = self.relu(out)
        return result

    def _branch_and_sum(self, x: Tensor) -> Tensor:
        out, last = x, len(self.norm_names)
        kept: AbstractContextManager[Any] = nullcontext()
        for i, (norm_name, plugin_names) in enumerate(
            zip(self.norm_names, self.plugin_names, strict=True), 1
        ):
            with kept:
                before = getattr(self, f"conv{i}")(out)
            norm = getattr(self, norm_name)
            out = norm(before)
            replaced = self.recompute_norms and i < last and not plugin_names
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

    @staticmethod
    def convs(channels: int, stride: int, dilation: int, style: Style) -> tuple[ConvSpec, ...]:
        """Return the convolutions; 'pytorch' strides the 3x3 one, 'caffe' the first."""
        stride_1x1, stride_3x3 = (1, stride) if style == "pytorch" else (stride, 1)
        return (
            ConvSpec(channels, 1, stride_1x1),
            ConvSpec(channels, 3, stride_3x3, dilation),
            ConvSpec(channels * Bottleneck.expansion, 1),
        )


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
