"""The plain head: a few convolutions in front of the classifier."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from typing_extensions import Unpack

from nlseg.bounds import Count, Natural
from nlseg.errors import ConfigError
from nlseg.extension import extension_point
from nlseg.models.heads.decode_head import BaseDecodeHead, DecodeHeadArgs
from nlseg.registry import MODELS


class FCNHeadArgs(DecodeHeadArgs, total=False):
    """Arguments that NLHead and GCHead hand on; ``FCNHead`` says what they mean."""

    kernel_size: int
    concat_input: bool
    dilation: int


@MODELS.register_module()
class FCNHead(BaseDecodeHead):
    """Convolutions, then a convolution over input and result together, then the classifier.

    Source: Long et al., Fully Convolutional Networks (1411.4038).

    Args:
        num_convs: Number of convolutions; 0 hands the input on.
        kernel_size: Side of their kernels.
        concat_input: Whether ``conv_cat`` looks at the head's input beside the result.
        dilation: Dilation of the convolutions, not of ``conv_cat``.
        **kwargs: See ``BaseDecodeHead``.

    Raises:
        ConfigError: For ``num_convs=0`` with different ``in_channels`` and ``channels``.
    """

    def __init__(
        self,
        num_convs: Natural = 2,
        kernel_size: Count = 3,
        concat_input: bool = True,
        dilation: Count = 1,
        **kwargs: Unpack[DecodeHeadArgs],
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[misc]
        if num_convs == 0 and self.in_channels != self.channels:
            raise ConfigError(
                f"head.num_convs: 0 needs in_channels ({self.in_channels}) equal to channels "
                f"({self.channels})"
            )
        self.num_convs = num_convs
        self.concat_input = concat_input
        self.kernel_size = kernel_size
        convs = [
            self._conv(self.in_channels if i == 0 else self.channels, dilation)  # type: ignore[arg-type]
            for i in range(num_convs)
        ]
        self.convs = nn.Sequential(*convs)
        if concat_input:
            self.conv_cat = self._conv(self.in_channels + self.channels, 1)  # type: ignore[operator]

    def _conv(self, in_channels: int, dilation: int) -> nn.Module:
        conv: nn.Module = ConvModule(
            in_channels,
            self.channels,
            kernel_size=self.kernel_size,
            padding=self.kernel_size // 2 * dilation,
            dilation=dilation,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
        return conv

    @extension_point
    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map the backbone's feature maps to logits (N, K, h, w)."""
        return self.cls_seg(self._forward_feature(inputs))

    @extension_point
    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map the backbone's feature maps to features (N, channels, h, w) for the classifier."""
        x = self._transform_inputs(inputs)
        features = x
        for layer in self.layers():
            features = layer(features)
        return self._see_both(x, features) if self.concat_input else features

    def layers(self) -> Iterable[nn.Module]:
        """Return what lies between the head's input and ``conv_cat``, in order."""
        return (self.convs,)

    def _see_both(self, x: Tensor, features: Tensor) -> Tensor:
        """Return ``conv_cat`` of input and features together, without joining the two maps.

        A convolution of joined channels is the sum of one over each part: the same products in
        another order, as fast, and one copy of the input less to hold.
        """
        block: Any = self.conv_cat
        if type(block) is not ConvModule or type(block.conv) is not nn.Conv2d:
            joined: Tensor = block(torch.cat([x, features], dim=1))
            return joined
        conv = block.conv
        weight_x, weight_features = conv.weight[:, : x.shape[1]], conv.weight[:, x.shape[1] :]
        out: Tensor = conv._conv_forward(x, weight_x, conv.bias)
        out = out + conv._conv_forward(features, weight_features, None)
        if block.with_norm:
            out = block.norm(out)
        if block.with_activation:
            out = block.activate(out)
        return out
