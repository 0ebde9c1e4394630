"""The disentangled non-local block: whitened pairs of positions, and a term that all share."""

from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from nlseg.bounds import Positive
from nlseg.extension import check_overrides, extension_point, overridden
from nlseg.ops.non_local import NonLocal2d, NonLocalArgs, associate, to_map
from nlseg.ops.tiled_attention import products
from nlseg.registry import MODELS

# Shape suffixes as in nlseg.ops.non_local: N batch, C channels, D channels in which positions are
# compared, E channels of the values, L = H * W positions that ask, S that answer; S is L here.


@MODELS.register_module()
class DisentangledNonLocal2d(NonLocal2d):
    """A non-local block of whitened pairs, and one attention map that all positions share.

    Queries and keys are compared after their mean over the positions is taken off; in mode
    ``embedded_gaussian`` their scores are divided by a temperature, too. A second term weighs the
    values by a softmax over the positions of one learned map, the same for every position. Memory
    is linear in L, as that of ``NonLocal2d``.

    Args:
        in_channels: Channels C of input and output.
        temperature: What embedded-Gaussian scores are divided by.
        **kwargs: See ``NonLocal2d``.

    Source:
        Yin et al., "Disentangled Non-Local Neural Networks", 2020. Arguments and parameter names
        are mmsegmentation's. (In mode ``gaussian`` it takes the mean off the block's input as well;
        here that stays.)
    """

    _abbr_ = "dnl_block"

    def __init__(
        self, in_channels: int, *, temperature: Positive = 0.05, **kwargs: Unpack[NonLocalArgs]
    ) -> None:
        super().__init__(in_channels, **kwargs)
        self.temperature = temperature
        if self.mode == "embedded_gaussian":
            self.scale /= temperature
        self.conv_mask = nn.Conv2d(in_channels, 1, kernel_size=1)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides, see ``nlseg.extension``."""
        super().__init_subclass__(**kwargs)
        check_overrides(cls, {"concatenation": (("forward",), "write forward(self, x)")})

    @extension_point
    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the input plus both terms of its context, same shape (N, C, H, W)."""
        query_NLD, key_NSD, value_NSE = self.embed(x_NCHW)
        plain = overridden(self, self.mode) or not self.memory_efficient
        attend = self.attend_plainly if plain else self.attend
        context_NLE = attend(query_NLD, key_NSD, value_NSE)
        weight_N1S = self.conv_mask(x_NCHW).flatten(2).softmax(dim=2).to(value_NSE.dtype)
        context_NLE = context_NLE + weight_N1S @ value_NSE
        change_NCHW: Tensor = self.conv_out(to_map(context_NLE, x_NCHW.shape[2:]))
        return x_NCHW + change_NCHW

    def embed(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return whitened query (N, L, D), whitened key (N, S, D) and value (N, S, E)."""
        query_NLD, key_NSD, value_NSE = super().embed(x_NCHW)
        query_NLD = query_NLD - query_NLD.mean(dim=1, keepdim=True)
        return query_NLD, key_NSD - key_NSD.mean(dim=1, keepdim=True), value_NSE

    def attend(self, query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor) -> Tensor:
        """Return the context (N, L, E), in memory linear in L and S."""
        if self.mode == "dot_product":
            return products(query_NLD, associate(key_NSD, value_NSE))
        return super().attend(query_NLD, key_NSD, value_NSE)
