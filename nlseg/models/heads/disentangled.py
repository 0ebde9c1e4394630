"""The head of the disentangled non-local network."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from typing_extensions import Unpack

from nlseg.bounds import Count, Positive
from nlseg.models.heads.fcn import FCNHeadArgs
from nlseg.models.heads.non_local import NLHead
from nlseg.ops.non_local import AttentionMode
from nlseg.registry import MODELS


@MODELS.register_module()
class DNLHead(NLHead):
    """Convolution, disentangled non-local block, convolution, ``conv_cat``, classifier.

    Source: Yin et al., Disentangled Non-Local Neural Networks (2006.06668), with the surrounding
    convolutions of mmsegmentation.

    Args:
        reduction: How many times narrower the block's embeddings are than ``channels``.
        use_scale: Whether embedded-Gaussian scores are divided by the root of their width.
        mode: How two positions are compared: 'embedded_gaussian', 'gaussian', 'dot_product' or
            'concatenation'.
        temperature: What embedded-Gaussian scores are divided by, too.
        **kwargs: See ``FCNHead`` and ``BaseDecodeHead``.
    """

    def __init__(
        self,
        reduction: Count = 2,
        use_scale: bool = True,
        mode: AttentionMode = "embedded_gaussian",
        temperature: Positive = 0.05,
        **kwargs: Unpack[FCNHeadArgs],
    ) -> None:
        self.temperature = temperature  # before the parent, whose constructor adds the block
        super().__init__(reduction, use_scale, mode, **kwargs)

    def _add_block(self, settings: dict[str, Any]) -> None:
        """Build the block from the arguments of ``NonLocal2d``."""
        settings.pop("sub_sample")
        cfg = {"type": "DisentangledNonLocal2d", "temperature": self.temperature, **settings}
        self.dnl_block = MODELS.build(cfg)

    def layers(self) -> Iterable[nn.Module]:
        """Return what lies between the head's input and ``conv_cat``, in order."""
        return self.convs[0], self.dnl_block, self.convs[1]
