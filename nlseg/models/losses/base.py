"""What losses share: how heads call them, reductions, accuracy."""

from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from nlseg.extension import stands_for
from nlseg.ops.resize import Size, resize

Reduction = Literal["none", "mean", "sum"]
PLAIN_FORM = ("__call__", "forward", "_softmax", "_plain_sums")
"""Methods by which losses compute the upsampled form; ``upsampled`` does without them."""
EPS = float(torch.finfo(torch.float32).eps)


@runtime_checkable
class SmallLogitsLoss(Protocol):
    """A loss that can work on logits (N, K, h, w) smaller than the labels (N, H, W).

    A head gives such a loss the small logits, and no upsampled map is ever held; any other loss is
    called with the upsampled logits.
    """

    loss_name: str
    """Key of the result in the log."""

    @property
    def streams(self) -> bool:
        """Whether ``upsampled`` can compute this form of the loss."""

    def upsampled(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        *,
        ignore_index: int,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss of the upsampled logits, and how many pixels have the right class.

        The number is None where it takes a threshold to tell, or where the loss ignores more.

        Args:
            logits: Logits (N, K, h, w).
            label: Labels (N, H, W).
            weight: Factor of each pixel (N, H, W).
            ignore_index: Label that does not count.
            align_corners: How logits are resized, see ``nlseg.ops.resize``.
        """


def works_on_small_logits(loss: Any) -> TypeGuard[SmallLogitsLoss]:
    """Return whether a loss, in the form that it has, can work on small logits.

    It cannot where a subclass computes the loss in a way of its own.
    """
    return (
        isinstance(loss, SmallLogitsLoss)
        and stands_for(loss, "upsampled", *PLAIN_FORM)
        and loss.streams
    )


class LogitsForLoss:
    """A head's logits, upsampled to the labels' size once, where a loss needs that.

    Args:
        small: Logits (N, K, h, w).
        size: Height H and width W of the labels.
        align_corners: See ``nlseg.ops.resize.resize``.
    """

    def __init__(self, small: Tensor, size: Size, align_corners: bool) -> None:
        self.small = small
        self.size = size
        self.align_corners = align_corners
        self._large: Tensor | None = None

    @property
    def large(self) -> Tensor:
        """The upsampled logits (N, K, H, W)."""
        if self._large is None:
            self._large = resize(self.small, self.size, align_corners=self.align_corners)
        return self._large


def reduced(loss: Tensor, reduction: Reduction, avg_factor: float | Tensor | None) -> Tensor:
    """Return a loss as it is, its sum, or its mean.

    Args:
        loss: Any number of losses.
        reduction: 'none', 'sum' or 'mean'.
        avg_factor: What 'mean' divides by, instead of the number of losses.

    Raises:
        ValueError: For an ``avg_factor`` together with 'sum'.
    """
    if avg_factor is not None and reduction == "sum":
        raise ValueError("loss: avg_factor goes with 'mean', not with 'sum'")
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if avg_factor is None else loss.sum() / (avg_factor + EPS)


def accuracy(
    logits: Tensor, label: Tensor, ignore_index: int | None = None, threshold: float | None = None
) -> Tensor:
    """Return the percentage of pixels whose class is right, shape (1,).

    Args:
        logits: Logits (N, K, H, W).
        label: Labels (N, H, W).
        ignore_index: Label that does not count.
        threshold: Probability from which a single logit (K = 1) means class 1.
    """
    if threshold is not None and logits.shape[1] == 1:
        predicted = (logits[:, 0].sigmoid() > threshold).long()
    else:
        predicted = logits.argmax(dim=1)
    right = predicted == label
    valid = torch.ones_like(right) if ignore_index is None else label != ignore_index
    return percentage((right & valid).sum(), valid.sum())


def percentage(correct: Tensor, total: Tensor) -> Tensor:
    """Return ``100 * correct / total``, 100 where both are 0, shape (1,)."""
    return ((correct + EPS) * (100.0 / (total + EPS))).reshape(1)
