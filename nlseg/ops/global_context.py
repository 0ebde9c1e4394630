"""The global context block of GCNet: one attention map for all positions, linear in the pixels."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from mmengine.model import constant_init, kaiming_init
from torch import Tensor, nn

from nlseg.bounds import Count, Positive
from nlseg.errors import ConfigError
from nlseg.extension import check_overrides, extension_point
from nlseg.registry import MODELS

# Shape suffixes: N batch, C channels, P bottleneck planes, H and W height and width, L = H * W.

PoolingType = Literal["att", "avg"]
FusionType = Literal["channel_add", "channel_mul"]
POOLING_TYPES: tuple[str, ...] = get_args(PoolingType)
FUSION_TYPES: tuple[str, ...] = get_args(FusionType)


@MODELS.register_module()
class ContextBlock(nn.Module):
    """Pool a feature map into one context vector and fuse it into every position.

    Args:
        in_channels: Channels C of input and output.
        ratio: P / C, the width of the bottleneck that transforms the context; at least 1 / C.
        pooling_type: ``att`` weighs the positions by a learned softmax, ``avg`` equally.
        fusion_types: What the context does to the input: ``channel_mul`` scales its channels by a
            sigmoid, ``channel_add`` is added to them. With both, scaling comes first.

    Raises:
        ConfigError: For an unknown pooling or fusion type, none at all, or a bottleneck of no
            planes.

    Source:
        Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
        2019, eq. 4 and 5, figure 4 (d). Arguments and parameter names are those of mmcv.
    """

    _abbr_ = "context_block"

    def __init__(
        self,
        in_channels: Count,
        ratio: Positive,
        pooling_type: PoolingType = "att",
        fusion_types: Sequence[FusionType] = ("channel_add",),
    ) -> None:
        super().__init__()
        _check_choices(pooling_type, fusion_types)
        self.in_channels = in_channels
        self.ratio = ratio
        self.pooling_type = pooling_type
        self.fusion_types = fusion_types
        self.planes = planes = int(in_channels * ratio)
        if planes < 1:
            raise ConfigError(
                f"ContextBlock.ratio: {ratio} of {in_channels} channels leaves no plane; "
                f"give at least {1 / in_channels}"
            )
        self.conv_mask = nn.Conv2d(in_channels, 1, kernel_size=1) if pooling_type == "att" else None
        adds, muls = ("channel_add" in fusion_types), ("channel_mul" in fusion_types)
        self.channel_add_conv = _bottleneck(in_channels, planes) if adds else None
        self.channel_mul_conv = _bottleneck(in_channels, planes) if muls else None
        self.reset_parameters()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides, see ``nlseg.extension``."""
        super().__init_subclass__(**kwargs)
        advice = "write spatial_pool(self, x)"
        check_overrides(cls, {"pool": (("spatial_pool", "forward"), advice)})

    def reset_parameters(self) -> None:
        """Draw the mask weights (He et al., fan in) and make every fusion start at zero."""
        if self.conv_mask is not None:
            kaiming_init(self.conv_mask, mode="fan_in")
        for branch in (self.channel_add_conv, self.channel_mul_conv):
            if branch is not None:
                constant_init(branch[-1], val=0)

    @extension_point
    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the input with its global context fused in, same shape (N, C, H, W)."""
        context_NC11 = self.spatial_pool(x_NCHW)
        out_NCHW = x_NCHW
        if self.channel_mul_conv is not None:
            out_NCHW = out_NCHW * torch.sigmoid(self.channel_mul_conv(context_NC11))
        if self.channel_add_conv is not None:
            out_NCHW = out_NCHW + self.channel_add_conv(context_NC11)
        return out_NCHW

    @extension_point
    def spatial_pool(self, x_NCHW: Tensor) -> Tensor:
        """Return the weighted mean of all positions, shape (N, C, 1, 1)."""
        if self.conv_mask is None:
            return x_NCHW.mean(dim=(2, 3), keepdim=True)
        weight_N1L = self.conv_mask(x_NCHW).flatten(2).softmax(dim=2)
        context_NC1: Tensor = x_NCHW.flatten(2) @ weight_N1L.transpose(1, 2)
        return context_NC1.unsqueeze(3)


def _bottleneck(in_channels: int, planes: int) -> nn.Sequential:
    """Build C -> P -> C of 1x1 convolutions around a layer norm over the P planes."""
    return nn.Sequential(
        nn.Conv2d(in_channels, planes, kernel_size=1),
        nn.LayerNorm([planes, 1, 1]),
        nn.ReLU(inplace=True),
        nn.Conv2d(planes, in_channels, kernel_size=1),
    )


def _check_choices(pooling_type: str, fusion_types: Sequence[str]) -> None:
    if isinstance(fusion_types, str) or not fusion_types or set(fusion_types) - set(FUSION_TYPES):
        raise ConfigError(
            f"ContextBlock.fusion_types: {fusion_types!r} is not a list of one or both of "
            f"{', '.join(FUSION_TYPES)}"
        )
