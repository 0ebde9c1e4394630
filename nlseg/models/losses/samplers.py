"""Samplers that choose which pixels a head learns from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from nlseg.bounds import Natural, Probability
from nlseg.extension import stands_for
from nlseg.models.losses import CrossEntropyLoss
from nlseg.models.losses.base import PLAIN_FORM
from nlseg.ops.pixel_loss import upsampled_cross_entropy
from nlseg.registry import TASK_UTILS


class SamplerContext(Protocol):
    """What a sampler reads from the head that owns it."""

    ignore_index: int

    def loss_modules(self) -> Sequence[Any]:
        """Return the head's losses."""


@runtime_checkable
class SamplesSmallLogits(Protocol):
    """A sampler that can do without upsampled logits."""

    @property
    def streams(self) -> bool:
        """Whether it can, in the form that it has."""

    def sample_upsampled(self, logits: Tensor, label: Tensor, align_corners: bool) -> Tensor:
        """Return what ``sample`` returns for the upsampled logits, (N, H, W).

        Args:
            logits: Logits (N, K, h, w).
            label: Labels (N, H, W).
            align_corners: How logits are resized, see ``nlseg.ops.resize``.
        """


def works_without_upsampling(sampler: Any) -> TypeGuard[SamplesSmallLogits]:
    """Return whether a sampler, in the form that it has, can do without upsampled logits.

    It cannot where a subclass overrides ``sample`` alone.
    """
    return (
        isinstance(sampler, SamplesSmallLogits)
        and stands_for(sampler, "sample_upsampled", "sample")
        and sampler.streams
    )


class BasePixelSampler(ABC):
    """Chooses the pixels that a head learns from; a subclass writes ``sample``.

    Built with ``context``, the head that owns it.
    """

    @abstractmethod
    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        """Return the weight of each pixel, (N, H, W).

        Args:
            seg_logit: Logits (N, K, H, W).
            seg_label: Labels (N, 1, H, W).
        """


def build_pixel_sampler(cfg: dict[str, Any], **default_args: Any) -> Any:
    """Build a sampler from its config.

    Args:
        cfg: The config.
        **default_args: Arguments that the config does not give, such as ``context``.
    """
    return TASK_UTILS.build(cfg, default_args=default_args)


@TASK_UTILS.register_module()
class OHEMPixelSampler(BasePixelSampler):
    """Keep the hardest pixels (online hard example mining).

    With a threshold, a pixel counts when the softmax probability of its true class is below it; the
    threshold rises so that about ``min_kept`` pixels per image count. Without one, the pixels with
    the largest losses count.

    Source: Shrivastava et al., Training Region-based Object Detectors with Online Hard Example
    Mining (1604.03540).

    Args:
        context: The head that owns the sampler.
        thresh: Probability below which a pixel is hard.
        min_kept: Pixels per image that count at least.
    """

    def __init__(
        self, context: SamplerContext, thresh: Probability | None = None, min_kept: Natural = 100000
    ) -> None:
        self.context = context
        self.thresh = thresh
        self.min_kept = min_kept

    @torch.no_grad()
    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        """Return the weight 0 or 1 of each pixel, (N, H, W).

        Args:
            seg_logit: Logits (N, K, H, W).
            seg_label: Labels (N, 1, H, W).
        """
        label = seg_label.squeeze(1).long()
        if self.thresh is not None:
            inside = torch.where(label == self.context.ignore_index, 0, label)
            probability = seg_logit.softmax(dim=1).gather(1, inside.unsqueeze(1)).squeeze(1)
            return self._keep_improbable(probability, label)
        total = torch.zeros_like(seg_logit[:, 0])
        for loss in self.context.loss_modules():
            value = loss(
                seg_logit, label, ignore_index=self.context.ignore_index, reduction_override="none"
            )
            total = total + (value.sum(dim=1) if value.dim() > label.dim() else value)
        return self._keep_largest(total, label)

    @property
    def streams(self) -> bool:
        """Whether ``sample_upsampled`` can do it: softmax probabilities or cross-entropies rank."""
        losses = self.context.loss_modules()
        return self.thresh is not None or all(_is_softmax_cross_entropy(loss) for loss in losses)

    @torch.no_grad()
    def sample_upsampled(self, logits: Tensor, label: Tensor, align_corners: bool) -> Tensor:
        """Return what ``sample`` returns, from logits that are never upsampled as a whole.

        Args:
            logits: Logits (N, K, h, w).
            label: Labels (N, H, W).
            align_corners: How logits are resized, see ``nlseg.ops.resize``.
        """
        ignore_index = self.context.ignore_index
        _, cross_entropy, _ = upsampled_cross_entropy(
            logits, label, ignore_index=ignore_index, align_corners=align_corners
        )
        if self.thresh is not None:
            return self._keep_improbable(cross_entropy.neg().exp(), label)
        total = torch.zeros_like(cross_entropy)
        for loss in self.context.loss_modules():
            weight = loss.pixel_weight(label, ignore_index)
            value = cross_entropy if weight is None else cross_entropy * weight
            total = total + loss.loss_weight * value
        return self._keep_largest(total, label)

    def _keep_improbable(self, probability: Tensor, label: Tensor) -> Tensor:
        """Return the weights (N, H, W) from the true class's probability (N, H, W)."""
        valid = label != self.context.ignore_index
        ranked = probability.masked_fill(~valid, 2.0).flatten().sort().values
        rank = (valid.sum() - 1).clamp(min=0, max=self.min_kept * label.shape[0])
        least = ranked.gather(0, rank.view(1)).clamp(min=self.thresh)
        return ((probability < least) & valid).to(probability.dtype)

    def _keep_largest(self, loss: Tensor, label: Tensor) -> Tensor:
        """Return the weights (N, H, W) from the loss of each pixel (N, H, W)."""
        valid = label != self.context.ignore_index
        kept = min(self.min_kept * label.shape[0], label.numel())
        ranked = loss.masked_fill(~valid, float("-inf")).flatten()
        weight = torch.zeros_like(ranked)
        weight.index_fill_(0, ranked.topk(kept).indices, 1.0)  # a GPU gets the number in the call
        return weight.view_as(loss) * valid


def _is_softmax_cross_entropy(loss: Any) -> bool:
    plain = isinstance(loss, CrossEntropyLoss) and not loss.use_sigmoid
    return plain and stands_for(loss, "upsampled", *PLAIN_FORM)
