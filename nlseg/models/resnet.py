"""ResNet, ResNetV1c and ResNetV1d, whose last stages may be dilated instead of strided."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Unpack

from nlseg.bounds import Count, Natural, Range
from nlseg.extension import extension_point
from nlseg.models.residual import BasicBlock, Bottleneck, Cfg, ResidualBlock, Style
from nlseg.models.resnet_args import (
    ARCHITECTURES,
    Depth,
    Plugin,
    ResNetArgs,
    block_dilations,
    choose_init,
    conflicts,
)
from nlseg.registry import MODELS
from nlseg.weights.pretrained import use_own_reader

BATCH_NORM: Cfg = {"type": "BN", "requires_grad": True}


@MODELS.register_module()
class ResNet(BaseModule):
    """Residual network that returns the feature maps of chosen stages.

    Stage i (0 to 3) is called ``layer{i + 1}`` and has ``base_channels * 2**i`` channels, times
    four in depths 50 and more. The stem divides the size by 4.

    Source: He et al., Deep Residual Learning (1512.03385); the two other stems and the pooled
    shortcut: He et al., Bag of Tricks (1812.01187), variants C and D.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: Channels of the image.
        stem_channels: Channels behind the stem.
        base_channels: Inner channels of the first stage.
        num_stages: How many of the four stages are built, from the first.
        strides: Step of each stage's first block.
        dilations: Dilation of each stage.
        out_indices: Stages whose output is returned.
        style: 'pytorch' strides the 3x3 convolution of a bottleneck, 'caffe' the first 1x1.
        deep_stem: Three 3x3 convolutions instead of one 7x7.
        avg_down: Shortcuts pool, then convolve at stride 1.
        frozen_stages: Stem and stages up to this number (1 to 4) neither train nor change their
            running statistics; 0 freezes the stem alone, -1 nothing.
        conv_cfg: Kind of convolution, ``nn.Conv2d`` where None.
        norm_cfg: Kind of norm.
        norm_eval: Batch norms use and keep their running statistics in training too.
        plugins: Blocks such as ``ContextBlock`` or ``NonLocal2d`` inside the residual blocks.
        multi_grid: Dilation of each block of the last stage.
        contract_dilation: The first block of a dilated stage has half the stage's dilation.
        with_cp: Activation checkpointing: about the memory of one block, a third more time.
        recompute_norms: Compute norms and ReLUs inside the blocks again in the backward pass, with
            the same bits, rather than keep them. Has no effect with ``with_cp``, and none on
            synchronized norms or in compiled networks.
        zero_init_residual: The last norm of each block starts at 0, when no weights are loaded.
        pretrained: File or URL of weights to start from; short for an ``init_cfg``.
        init_cfg: How ``init_weights`` fills the parameters, e.g.
            ``dict(type='Pretrained', checkpoint=...)``; Kaiming normal where None.

    Raises:
        ConfigError: For a depth, stage count, index or position that does not exist, or when both
            ``pretrained`` and ``init_cfg`` are given.
    """

    check_arguments = staticmethod(conflicts)

    def __init__(
        self,
        depth: Depth,
        in_channels: Count = 3,
        stem_channels: Count = 64,
        base_channels: Count = 64,
        num_stages: Annotated[int, Range(1, 4)] = 4,
        strides: Sequence[Count] = (1, 2, 2, 2),
        dilations: Sequence[Count] = (1, 1, 1, 1),
        out_indices: Sequence[Natural] = (0, 1, 2, 3),
        style: Style = "pytorch",
        deep_stem: bool = False,
        avg_down: bool = False,
        frozen_stages: Annotated[int, Range(-1, 4)] = -1,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg = BATCH_NORM,
        norm_eval: bool = False,
        plugins: Sequence[Plugin] | None = None,
        multi_grid: Sequence[Count] | None = None,
        contract_dilation: bool = False,
        with_cp: bool = False,
        recompute_norms: bool = True,
        zero_init_residual: bool = True,
        pretrained: str | None = None,
        init_cfg: Cfg | list[Cfg] | None = None,
    ) -> None:
        super().__init__(choose_init(pretrained, init_cfg))
        self.zero_init_residual = zero_init_residual and not (pretrained or init_cfg)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.avg_down = avg_down

        self.stem_names = self._add_stem(in_channels, stem_channels, deep_stem)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        block, depths = ARCHITECTURES[depth]
        channels = stem_channels
        self.stages: list[str] = []
        for i in range(num_stages):
            grid = multi_grid if i == num_stages - 1 else None
            stage = self._build_stage(
                block,
                channels,
                base_channels * 2**i,
                stride=strides[i],
                dilations=block_dilations(depths[i], dilations[i], grid, contract_dilation),
                style=style,
                with_cp=with_cp,
                recompute_norms=recompute_norms,
                plugins=[p for p in plugins or () if p.get("stages", (True,) * num_stages)[i]],
            )
            channels = base_channels * 2**i * block.expansion
            self.stages.append(f"layer{i + 1}")
            self.add_module(self.stages[-1], stage)
        self._freeze()

    def _add_stem(self, in_channels: int, channels: int, deep: bool) -> list[str]:
        relu = nn.ReLU(inplace=True)
        if not deep:
            self.conv1 = build_conv_layer(
                self.conv_cfg, in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False
            )
            name, norm = build_norm_layer(self.norm_cfg, channels, postfix=1)
            self.add_module(name, norm)
            self.relu = relu
            return ["conv1", name, "relu"]
        layers: list[nn.Module] = []
        widths = (in_channels, channels // 2, channels // 2, channels)
        for i in range(3):
            conv = build_conv_layer(
                self.conv_cfg,
                widths[i],
                widths[i + 1],
                kernel_size=3,
                stride=2 if i == 0 else 1,
                padding=1,
                bias=False,
            )
            layers += [conv, build_norm_layer(self.norm_cfg, widths[i + 1])[1], relu]
        self.stem = nn.Sequential(*layers)
        return ["stem"]

    def _build_stage(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        in_channels: int,
        channels: int,
        *,
        stride: int,
        dilations: Sequence[int],
        style: Style,
        with_cp: bool,
        recompute_norms: bool,
        plugins: Sequence[Any],
    ) -> nn.Sequential:
        out_channels = channels * block.expansion
        blocks = []
        for i, dilation in enumerate(dilations):
            changes = i == 0 and (stride != 1 or in_channels != out_channels)
            blocks.append(
                block(
                    in_channels if i == 0 else out_channels,
                    channels,
                    stride=stride if i == 0 else 1,
                    dilation=dilation,
                    style=style,
                    downsample=self._shortcut(in_channels, out_channels, stride)
                    if changes
                    else None,
                    with_cp=with_cp,
                    recompute_norms=recompute_norms,
                    conv_cfg=self.conv_cfg,
                    norm_cfg=self.norm_cfg,
                    plugins=plugins,
                )
            )
        return nn.Sequential(*blocks)

    def _shortcut(self, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        if self.avg_down:
            layers.append(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
            stride = 1
        layers.append(
            build_conv_layer(
                self.conv_cfg, in_channels, out_channels, kernel_size=1, stride=stride, bias=False
            )
        )
        layers.append(build_norm_layer(self.norm_cfg, out_channels)[1])
        return nn.Sequential(*layers)

    @extension_point
    def forward(self, x: Tensor, only: Collection[int] | None = None) -> tuple[Tensor | None, ...]:
        """Map images (N, 3, H, W) to one feature map (N, C_i, h_i, w_i) per output index.

        Args:
            x: The images.
            only: Places in the result that are wanted; None stands in the others, whose maps are
                freed as soon as the next stage has read them.
        """
        for name in self.stem_names:
            x = getattr(self, name)(x)
        x = self.maxpool(x)
        features: list[Tensor | None] = []
        for i, name in enumerate(self.stages):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                features.append(x if only is None or len(features) in only else None)
        return tuple(features)

    def init_weights(self) -> None:
        """Fill the parameters as ``init_cfg`` says."""
        use_own_reader(self)
        super().init_weights()
        if self.zero_init_residual:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    nn.init.zeros_(module.last_norm.weight)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "ResNet":
        """Set the mode; frozen stages, and norms under ``norm_eval``, stay as in evaluation."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        stages = self.stages[: self.frozen_stages]
        for name in [*self.stem_names, *stages]:
            module = self.get_submodule(name)
            module.eval()
            module.requires_grad_(False)


@MODELS.register_module()
class ResNetV1c(ResNet):
    """ResNet with three 3x3 convolutions in the stem.

    Args:
        depth: 18, 34, 50, 101 or 152.
        **kwargs: See ``ResNet``.
    """

    def __init__(self, depth: Depth, **kwargs: Unpack[ResNetArgs]) -> None:
        super().__init__(depth, deep_stem=True, avg_down=False, **kwargs)


@MODELS.register_module()
class ResNetV1d(ResNet):
    """ResNet with three 3x3 convolutions in the stem and pooled shortcuts.

    Args:
        depth: 18, 34, 50, 101 or 152.
        **kwargs: See ``ResNet``.
    """

    def __init__(self, depth: Depth, **kwargs: Unpack[ResNetArgs]) -> None:
        super().__init__(depth, deep_stem=True, avg_down=True, **kwargs)
