"""The plain head of depthwise separable convolutions."""

from typing import Any

from mmcv.cnn import DepthwiseSeparableConvModule
from torch import nn
from typing_extensions import Unpack

from nlseg.bounds import Natural
from nlseg.models.heads.fcn import FCNHead, FCNHeadArgs
from nlseg.registry import MODELS


@MODELS.register_module()
class DepthwiseSeparableFCNHead(FCNHead):
    """``FCNHead`` whose convolutions go channel by channel, then position by position.

    Source: Poudel et al., Fast-SCNN (1902.04502).

    Args:
        dw_act_cfg: Kind of activation between the two, none where None.
        num_convs: Number of convolutions; 0 hands the input on.
        **kwargs: See ``FCNHead`` and ``BaseDecodeHead``.
    """

    def __init__(
        self,
        dw_act_cfg: dict[str, Any] | None = None,
        num_convs: Natural = 2,
        **kwargs: Unpack[FCNHeadArgs],
    ) -> None:
        self.dw_act_cfg = dw_act_cfg  # before the parent, whose constructor adds the convolutions
        super().__init__(num_convs, **kwargs)

    def _conv(self, in_channels: int, dilation: int) -> nn.Module:
        conv: nn.Module = DepthwiseSeparableConvModule(
            in_channels,
            self.channels,
            kernel_size=self.kernel_size,
            padding=self.kernel_size // 2 * dilation,
            dilation=dilation,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            dw_act_cfg=self.dw_act_cfg,
        )
        return conv
