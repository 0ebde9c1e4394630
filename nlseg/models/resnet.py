"""ResNet, ResNetV1c and ResNetV1d, whose last stages may be dilated instead of strided."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Unpack

from nlseg.bounds import Count, Natural, Range
from nlseg.extension import check_overrides, extension_point
from nlseg.models.residual import BATCH_NORM, ResidualBlock, ResLayer, Style
from nlseg.models.resnet_args import (
    ARCHITECTURES,
    Depth,
    Plugin,
    ResNetArgs,
    choose_init,
    conflicts,
)
from nlseg.registry import MODELS, Cfg
from nlseg.weights.pretrained import use_own_reader


@MODELS.register_module()
class ResNet(BaseModule):
    """Residual network that returns the feature maps of chosen stages.

    Stage i (0 to 3) is called ``layer{i + 1}`` and has ``base_channels * 2**i`` channels, times
    four in depths 50 and more. The stem divides the size by 4. A subclass may override
    ``arch_settings``, ``make_res_layer``, ``make_stage_plugins``, ``_make_stem_layer`` and
    ``_freeze_stages``.

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

    Attributes:
        block: Class of the residual blocks.
        stage_blocks: Number of blocks of each stage.
        inplanes: Channels in front of the next stage while stages are built, then of the last.
        feat_dim: Channels of the last stage.
        res_layers: Names of the stages.
    """

    check_arguments = staticmethod(conflicts)
    arch_settings: ClassVar[Mapping[int, Any]] = ARCHITECTURES
    """Block class and blocks of each stage, by depth."""
    absent_arguments: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("dcn", "stage_with_dcn"), "not supported, as it needs compiled operators; leave it out"
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides, see ``nlseg.extension``."""
        super().__init_subclass__(**kwargs)
        check_overrides(cls, {}, may_take_less=("forward",))

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
        self.depth = depth
        self.zero_init_residual = zero_init_residual and not (pretrained or init_cfg)
        self.stem_channels = stem_channels
        self.base_channels = base_channels
        self.num_stages = num_stages
        self.strides = tuple(strides)
        self.dilations = tuple(dilations)
        self.out_indices = tuple(out_indices)
        self.style = style
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.avg_down = avg_down
        self.dcn = None
        self.plugins = plugins
        self.multi_grid = multi_grid
        self.contract_dilation = contract_dilation
        self.with_cp = with_cp

        self.deep_stem = deep_stem
        self._make_stem_layer(in_channels, stem_channels)
        self.stem_names = ["stem"] if self.deep_stem else ["conv1", self.norm1_name, "relu"]
        self.block, depths = self.arch_settings[depth]
        self.stage_blocks = depths[:num_stages]
        self.inplanes = stem_channels
        self.stages: list[str] = []
        for i in range(num_stages):
            stage = self.make_res_layer(
                block=self.block,
                inplanes=self.inplanes,
                planes=base_channels * 2**i,
                num_blocks=depths[i],
                stride=strides[i],
                dilation=dilations[i],
                style=style,
                avg_down=avg_down,
                with_cp=with_cp,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
                multi_grid=multi_grid if i == num_stages - 1 else None,
                contract_dilation=contract_dilation,
                plugins=self.make_stage_plugins(plugins, i),
            )
            for module in stage.modules():
                if isinstance(module, ResidualBlock):
                    module.recompute_norms = recompute_norms
            self.inplanes = base_channels * 2**i * self.block.expansion
            self.stages.append(f"layer{i + 1}")
            self.add_module(self.stages[-1], stage)
        self.res_layers = self.stages
        self.feat_dim = self.inplanes
        self._freeze_stages()

    @extension_point
    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        """Build a stage from the arguments of ``ResLayer``; a subclass may add some."""
        return ResLayer(**kwargs)

    @extension_point
    def make_stage_plugins(
        self, plugins: Sequence[Plugin] | None, stage_idx: int
    ) -> list[Plugin] | None:
        """Return the plugins of one stage, None where it has none.

        Args:
            plugins: Those of all stages.
            stage_idx: Number of the stage, from 0.
        """
        chosen = [p for p in plugins or () if "stages" not in p or p["stages"][stage_idx]]
        return chosen or None

    @extension_point
    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        """Build ``conv1``, its norm and ``relu``, or ``stem``, and ``maxpool``."""
        relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        if not self.deep_stem:
            self.conv1 = build_conv_layer(
                self.conv_cfg,
                in_channels,
                stem_channels,
                kernel_size=7,
                stride=2,
                padding=3,
                bias=False,
            )
            self.norm1_name, norm = build_norm_layer(self.norm_cfg, stem_channels, postfix=1)
            self.add_module(self.norm1_name, norm)
            self.relu = relu
            return
        layers: list[nn.Module] = []
        widths = (in_channels, stem_channels // 2, stem_channels // 2, stem_channels)
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

    @property
    def norm1(self) -> nn.Module:
        """The norm of the plain stem."""
        norm: nn.Module = self.get_submodule(self.norm1_name)
        return norm

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
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @extension_point
    def _freeze_stages(self) -> None:
        """Put stem and frozen stages into evaluation mode, without gradients."""
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
