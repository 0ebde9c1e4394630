"""The head of the Non-local network."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from typing_extensions import Unpack

from nlseg.bounds import Count
from nlseg.models.heads.fcn import FCNHead, FCNHeadArgs
from nlseg.ops.non_local import AttentionMode
from nlseg.registry import MODELS


@MODELS.register_module()
class NLHead(FCNHead):
    """Convolution, non-local block, convolution, ``conv_cat`` over input and result, classifier.

    Source: Wang et al., Non-local Neural Networks (1711.07971), with the surrounding convolutions
    of mmsegmentation.

    Args:
        reduction: How many times narrower the block's embeddings are than ``channels``.
        use_scale: Whether embedded-Gaussian scores are divided by the root of their width.
        mode: How two positions are compared: 'embedded_gaussian', 'gaussian', 'dot_product' or
            'concatenation'.
        sub_sample: Whether only every second row and column is looked at.
        zeros_init: Whether the block starts as the identity: its last norm starts at 0, else at 1
            with ``init_cfg=None``.
        **kwargs: See ``FCNHead`` and ``BaseDecodeHead``.
    """

    def __init__(
        self,
        reduction: Count = 2,
        use_scale: bool = True,
        mode: AttentionMode = "embedded_gaussian",
        sub_sample: bool = False,
        zeros_init: bool = True,
        **kwargs: Unpack[FCNHeadArgs],
    ) -> None:
        super().__init__(num_convs=2, **kwargs)
        self.reduction = reduction
        self.use_scale = use_scale
        self.mode = mode
        settings = {
            "in_channels": self.channels,
            "reduction": reduction,
            "use_scale": use_scale,
            "sub_sample": sub_sample,
            "conv_cfg": self.conv_cfg,
            "norm_cfg": self.norm_cfg,
            "mode": mode,
            "std": None if self.init_cfg is None else 0.01,
            "zeros_init": zeros_init,
        }
        self._add_block(settings)

    def _add_block(self, settings: dict[str, Any]) -> None:
        """Build the block from the arguments of ``NonLocal2d``."""
        self.nl_block = MODELS.build({"type": "NonLocal2d", **settings})

    def layers(self) -> Iterable[nn.Module]:
        """Return what lies between the head's input and ``conv_cat``, in order."""
        return self.convs[0], self.nl_block, self.convs[1]
