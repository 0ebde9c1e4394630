"""The non-local block: every position of a feature map looks at every other."""

from typing import Any, Literal, get_args

import torch
from mmcv.cnn import ConvModule
from mmengine.model import constant_init, normal_init
from torch import Tensor, nn
from typing_extensions import TypedDict

from nlseg.bounds import Count, Positive
from nlseg.extension import check_overrides, extension_point, overridden
from nlseg.ops.attention import softmax_attention
from nlseg.ops.relu_attention import relu_attention
from nlseg.ops.tiled_attention import products
from nlseg.registry import MODELS

# Shape suffixes: N batch, C channels, D channels in which positions are compared, E channels of the
# values, H and W height and width, L = H * W positions that ask, S positions that answer.

AttentionMode = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
MODES: tuple[AttentionMode, ...] = get_args(AttentionMode)


class NonLocalArgs(TypedDict, total=False):
    """Arguments that a child hands on; ``NonLocal2d`` says what they mean."""

    conv_cfg: dict[str, Any] | None
    reduction: int
    use_scale: bool
    norm_cfg: dict[str, Any] | None
    mode: AttentionMode
    std: float | None
    zeros_init: bool
    memory_efficient: bool


@MODELS.register_module()
class NonLocal2d(nn.Module):
    """Add to every position what all positions say, weighed by how they compare with it.

    With the embeddings theta (query), phi (key) and g (value), the weight of position j for i is
    - ``embedded_gaussian``: softmax over j of theta_i . phi_j, divided by sqrt(D) if ``use_scale``;
    - ``gaussian``: softmax over j of x_i . x_j;
    - ``dot_product``: theta_i . phi_j / S;
    - ``concatenation``: ReLU(w . [theta_i, phi_j]) / S.

    Args:
        in_channels: Channels C of input and output.
        sub_sample: Whether answers are max-pooled 2x2 first, so that S = L / 4.
        conv_cfg: Kind of the 1x1 convolutions, ``nn.Conv2d`` where None.
        reduction: C / E, how much narrower the embeddings are.
        use_scale: See ``embedded_gaussian``.
        norm_cfg: Kind of the norm after the last convolution, none where None.
        mode: One of the four above.
        std: Standard deviation of the initial weights; None keeps PyTorch's own initialisation.
        zeros_init: Whether the block starts as the identity: its last layer is zero.
        memory_efficient: Whether memory is linear in L. False holds the map of L x S weights, the
            formula as it is written; both give the same values and gradients to rounding. Measured
            against float64 and the largest value, either is within 1e-6 in float32, 2e-3 in
            float16, 2e-2 in bfloat16 and under autocast.

    Source:
        Wang et al., "Non-local Neural Networks", 2018, eq. 1 to 6, figure 2. Arguments and
        parameter names are mmcv's, and so is the division by sqrt(D), which the paper has not.
    """

    _abbr_ = "nonlocal_block"

    def __init__(
        self,
        in_channels: Count,
        *,
        sub_sample: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        reduction: Count = 2,
        use_scale: bool = True,
        norm_cfg: dict[str, Any] | None = None,
        mode: AttentionMode = "embedded_gaussian",
        std: Positive | None = 0.01,
        zeros_init: bool = True,
        memory_efficient: bool = True,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.std = std
        self.zeros_init = zeros_init
        self.memory_efficient = memory_efficient
        self.in_channels = in_channels
        self.reduction = reduction
        self.use_scale = use_scale
        self.sub_sample = sub_sample
        self.inter_channels = width = max(in_channels // reduction, 1)
        self.scale = width**-0.5 if mode == "embedded_gaussian" and use_scale else 1.0

        def embedding() -> ConvModule:
            return ConvModule(in_channels, width, 1, conv_cfg=conv_cfg, act_cfg=None)

        self.g = embedding()
        self.conv_out = ConvModule(
            width, in_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None
        )
        self.theta = embedding() if mode != "gaussian" else nn.Identity()
        self.phi = embedding() if mode != "gaussian" else nn.Identity()
        if mode == "concatenation":
            self.concat_project = ConvModule(width * 2, 1, 1, bias=False)
        self.init_weights()
        if sub_sample:
            pool = nn.MaxPool2d(kernel_size=2)
            self.g = nn.Sequential(self.g, pool)
            self.phi = nn.Sequential(self.phi, pool) if mode != "gaussian" else pool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides, see ``nlseg.extension``."""
        super().__init_subclass__(**kwargs)
        check_overrides(cls, {})

    def init_weights(self) -> None:
        """Draw the initial weights; callable again at any time."""
        out = self.conv_out
        if self.std is None:
            for layer in self.modules():
                if callable(reset := getattr(layer, "reset_parameters", None)):
                    reset()
        else:
            for embedding in (self.g, self.theta, self.phi):
                for layer in (m for m in embedding.modules() if hasattr(m, "weight")):
                    normal_init(layer, std=self.std)
            if not self.zeros_init:
                normal_init(out.norm if out.with_norm else out.conv, std=self.std)
        if self.zeros_init:
            constant_init(out.norm if out.with_norm else out.conv, 0)

    @extension_point
    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the input plus its context, same shape (N, C, H, W)."""
        if overridden(self, self.mode):
            context_NLE = self.attend_by_pairs(x_NCHW)
        elif self.mode == "dot_product" and self.memory_efficient:
            context_NLE = self.attend_by_association(x_NCHW)
        else:
            attend = self.attend if self.memory_efficient else self.attend_plainly
            context_NLE = attend(*self.embed(x_NCHW))
        change_NCHW: Tensor = self.conv_out(to_map(context_NLE, x_NCHW.shape[2:]))
        if change_NCHW.dtype == x_NCHW.dtype:
            return change_NCHW.add_(x_NCHW)
        return x_NCHW + change_NCHW

    def embed(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query (N, L, D), key (N, S, D) and value (N, S, E); D is 1 for concatenation."""
        x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        query_NLD, key_NSD = to_rows(self.theta(x_NCHW)), to_rows(self.phi(x_NCHW))
        if self.mode == "concatenation":
            query_NLD, key_NSD = self.project(query_NLD, key_NSD)
        return query_NLD, key_NSD, to_rows(self.g(x_NCHW))

    def project(self, query_NLD: Tensor, key_NSD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the terms (N, L, 1) and (N, S, 1) whose sum is w . [theta_i, phi_j]."""
        w_query_1D, w_key_1D = self.concat_project.conv.weight.flatten(1).chunk(2, dim=1)
        return query_NLD @ w_query_1D.T, key_NSD @ w_key_1D.T

    def attend(self, query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor) -> Tensor:
        """Return the context (N, L, E), in memory linear in L and S."""
        if self.mode == "concatenation":
            return relu_attention(query_NLD[..., 0], key_NSD[..., 0], value_NSE.mT).mT
        return softmax_attention(query_NLD, key_NSD, value_NSE, self.scale)

    def attend_by_association(self, x_NCHW: Tensor) -> Tensor:
        """Return the context (N, L, E) of ``dot_product``: query @ (key^T @ value) / S."""
        x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        weight_NED = associate(to_rows(self.phi(x_NCHW)), to_rows(self.g(x_NCHW)))
        query_NLD = to_rows(self.theta(x_NCHW))
        del x_NCHW
        return products(query_NLD, weight_NED)

    def attend_plainly(self, query_NLD: Tensor, key_NSD: Tensor, value_NSE: Tensor) -> Tensor:
        """Return the context (N, L, E) by way of the map of all weights: the reference path."""
        return torch.bmm(self.weigh(query_NLD, key_NSD), value_NSE)

    def weigh(self, query_NLD: Tensor, key_NSD: Tensor) -> Tensor:
        """Return the weight of each position for each query (N, L, S), held as a whole."""
        if self.mode == "concatenation":
            return torch.relu(query_NLD + key_NSD.mT) / key_NSD.shape[1]
        weight_NLS: Tensor = getattr(self, self.mode)(query_NLD, key_NSD.mT)
        return weight_NLS

    def attend_by_pairs(self, x_NCHW: Tensor) -> Tensor:
        """Return the context (N, L, E) by the weights of a subclass, whose map is held."""
        query_NLD, key_NSD = to_rows(self.theta(x_NCHW)), to_rows(self.phi(x_NCHW))
        if self.mode == "concatenation":
            weight_NLS = self.concatenation(query_NLD.mT[..., None], key_NSD.mT[:, :, None])
        else:
            weight_NLS = getattr(self, self.mode)(query_NLD, key_NSD.mT)
        return torch.bmm(weight_NLS, to_rows(self.g(x_NCHW)))

    # The weights (N, L, S) of all pairs, by the names and arguments of mmcv: a subclass that has
    # its own is asked for them.

    @extension_point
    def gaussian(self, theta_x: Tensor, phi_x: Tensor) -> Tensor:
        """Return the weights (N, L, S) of queries (N, L, D) and keys (N, D, S)."""
        return (theta_x @ phi_x).softmax(dim=2)

    @extension_point
    def embedded_gaussian(self, theta_x: Tensor, phi_x: Tensor) -> Tensor:
        """Return the weights (N, L, S) of queries (N, L, D) and keys (N, D, S)."""
        return (theta_x @ phi_x * self.scale).softmax(dim=2)

    @extension_point
    def dot_product(self, theta_x: Tensor, phi_x: Tensor) -> Tensor:
        """Return the weights (N, L, S) of queries (N, L, D) and keys (N, D, S)."""
        return theta_x @ phi_x / phi_x.shape[2]

    @extension_point
    def concatenation(self, theta_x: Tensor, phi_x: Tensor) -> Tensor:
        """Return the weights (N, L, S) of queries (N, D, L, 1) and keys (N, D, 1, S)."""
        query_NL1, key_NS1 = self.project(theta_x[..., 0].mT, phi_x[:, :, 0].mT)
        return torch.relu(query_NL1 + key_NS1.mT) / key_NS1.shape[1]


def associate(key_NSD: Tensor, value_NSE: Tensor) -> Tensor:
    """Return value^T @ key / S, shape (N, E, D): ``dot_product`` weights need nothing else."""
    zero, share = key_NSD.new_zeros(1, 1, 1), 1 / key_NSD.shape[1]
    if key_NSD.dtype == torch.float16:  # so that no partial sum, kept in float16, overflows
        key_NSD, value_NSE = key_NSD * share**0.5, value_NSE * share**0.5
        share = 1.0
    return torch.baddbmm(zero, value_NSE.mT, key_NSD, beta=0, alpha=share)


def to_rows(map_NDHW: Tensor) -> Tensor:
    """View a map as one row per position, shape (N, L, D)."""
    return map_NDHW.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(rows_NLD: Tensor, size_HW: torch.Size) -> Tensor:
    """Make a map (N, D, H, W) of one row per position, channels last in memory."""
    map_NDHW = rows_NLD.reshape(rows_NLD.shape[0], *size_HW, -1).permute(0, 3, 1, 2)
    return map_NDHW.contiguous(memory_format=torch.channels_last)
