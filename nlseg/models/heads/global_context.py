"""The head of GCNet."""

from collections.abc import Iterable, Sequence

from torch import nn
from typing_extensions import Unpack

from nlseg.bounds import Positive
from nlseg.models.heads.fcn import FCNHead, FCNHeadArgs
from nlseg.ops.global_context import FusionType, PoolingType
from nlseg.registry import MODELS


@MODELS.register_module()
class GCHead(FCNHead):
    """Convolution, global context block, convolution, ``conv_cat``, classifier.

    Source: Cao et al., GCNet (1904.11492), with the surrounding convolutions of mmsegmentation.

    Args:
        ratio: Width of the block's bottleneck as a share of ``channels``.
        pooling_type: 'att' pools positions by learned weights, 'avg' by their mean.
        fusion_types: 'channel_add', 'channel_mul' or both.
        **kwargs: See ``FCNHead`` and ``BaseDecodeHead``.
    """

    def __init__(
        self,
        ratio: Positive = 1 / 4.0,
        pooling_type: PoolingType = "att",
        fusion_types: Sequence[FusionType] = ("channel_add",),
        **kwargs: Unpack[FCNHeadArgs],
    ) -> None:
        super().__init__(num_convs=2, **kwargs)
        self.ratio = ratio
        self.pooling_type = pooling_type
        self.fusion_types = fusion_types
        self.gc_block = MODELS.build(
            {
                "type": "ContextBlock",
                "in_channels": self.channels,
                "ratio": ratio,
                "pooling_type": pooling_type,
                "fusion_types": fusion_types,
            }
        )

    def layers(self) -> Iterable[nn.Module]:
        """Return what lies between the head's input and ``conv_cat``, in order."""
        return self.convs[0], self.gc_block, self.convs[1]
