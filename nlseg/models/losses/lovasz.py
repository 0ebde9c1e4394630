"""Lovász loss: the extension of the Jaccard index to probabilities."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nlseg.bounds import Natural, NotNegative
from nlseg.models.losses.base import Reduction, reduced
from nlseg.models.losses.class_weight import class_weights
from nlseg.registry import MODELS

ValueAndSlope = tuple[Tensor, Tensor]


@MODELS.register_module()
class LovaszLoss(nn.Module):
    """The Jaccard index of each class, extended to errors between 0 and 1; mean over the classes.

    'multi_class' takes the errors of softmax probabilities, 'binary' the hinge errors of a single
    logit. Cost: the errors of all P pixels are sorted once for each class, K P log P steps, and
    because every pixel's rank counts this loss needs the upsampled logits: beside them it holds
    their probabilities, and a gradient of that size until the backward pass.

    Source: Berman et al., The Lovász-Softmax loss (1705.08790), eq. 9 and 11, algorithm 1.

    Args:
        loss_type: 'multi_class' or 'binary'.
        classes: 'present' takes the classes that the labels have, 'all' every class, a list those.
        per_image: Take each image alone.
        reduction: What is done with the losses of images that are taken alone. (mmsegmentation
            wants 'none' without ``per_image``, where there is one loss.)
        class_weight: K factors, or a file that holds them; see ``CrossEntropyLoss``.
        loss_weight: Factor of the result.
        loss_name: Key of the result in the log; losses with the same key are added.
    """

    def __init__(
        self,
        loss_type: Literal["multi_class", "binary"] = "multi_class",
        classes: Literal["present", "all"] | Sequence[Natural] = "present",
        per_image: bool = False,
        reduction: Reduction = "mean",
        class_weight: Sequence[NotNegative] | str | None = None,
        loss_weight: NotNegative = 1.0,
        loss_name: str = "loss_lovasz",
    ) -> None:
        super().__init__()
        self.loss_type = loss_type
        self.classes = classes
        self.per_image = per_image
        self.reduction: Reduction = reduction
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weights(class_weight), persistent=False)

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: Reduction | None = None,
        ignore_index: int | None = 255,
    ) -> Tensor:
        """Return the loss, a scalar or (N,) for images that are taken alone.

        Args:
            cls_score: Logits (N, K, H, W); for 'binary' (N, 1, H, W) or (N, H, W).
            label: Labels (N, H, W), integer.
            weight: Only None: pixels are ranked, not weighed.
            avg_factor: What 'mean' divides by, instead of the number of images.
            reduction_override: Reduction of this call.
            ignore_index: Label that does not count.

        Raises:
            ValueError: For weights of pixels.
        """
        if weight is not None:
            raise ValueError(
                "LovaszLoss: pixels are ranked and take no weights; leave out the sampler"
            )
        is_binary = self.loss_type == "binary"
        scores = cls_score.view_as(label) if is_binary else cls_score.softmax(dim=1)
        if not self.per_image:
            return self.loss_weight * self._loss(scores, label, ignore_index)
        images = zip(torch.split(scores, 1), torch.split(label, 1), strict=True)
        losses = torch.stack([self._loss(*image, ignore_index) for image in images])
        return self.loss_weight * reduced(losses, reduction_override or self.reduction, avg_factor)

    def _loss(self, scores: Tensor, label: Tensor, ignore_index: int | None) -> Tensor:
        """Return the loss of scores and labels that are taken together.

        Ignored pixels get the error 0 rather than being taken out, for which the host would wait:
        such a pixel comes behind all that count, adds nothing, and its slope is 0.
        """
        valid = torch.ones_like(label, dtype=torch.bool)
        if ignore_index is not None:
            valid = label != ignore_index
        with torch.no_grad():
            if self.loss_type == "binary":
                value, slope = self._hinge(scores, label, valid)
            else:
                value, slope = self._softmax(scores, label, valid)
        loss: Tensor = _KnownSlope.apply(scores, value, slope)  # type: ignore[no-untyped-call]
        return loss

    def _softmax(self, p: Tensor, label: Tensor, valid: Tensor) -> ValueAndSlope:
        """Return the loss of probabilities (N, K, H, W) and its slope."""
        num_classes = p.shape[1]
        classes: Sequence[int]
        if self.classes == "present":
            classes = _present(label, valid, num_classes)
        else:
            classes = range(num_classes) if self.classes == "all" else self.classes
        value, slope = p.new_zeros(()), torch.zeros_like(p)
        for c in classes:
            true = ((label == c) & valid).to(p.dtype)
            difference = (true - p[:, c]).masked_fill(~valid, 0).flatten()
            errors, order = difference.abs().sort(descending=True)
            rise = _jaccard_rise(true.flatten()[order])
            share = 1.0 / len(classes) if self.class_weight is None else self.class_weight[c]
            share = share if self.class_weight is None else share / len(classes)
            value += share * (errors @ rise)
            of_pixels = torch.empty_like(rise).scatter_(0, order, rise)
            slope[:, c] = (-share * of_pixels * difference.sign()).view_as(label)
        return value, slope

    @staticmethod
    def _hinge(logits: Tensor, label: Tensor, valid: Tensor) -> ValueAndSlope:
        """Return the loss of logits (N, H, W) and its slope."""
        true = label.masked_fill(~valid, 0).to(logits.dtype)
        sign = 2 * true - 1
        hinge = (1 - logits * sign).masked_fill(~valid, 0)
        errors, order = hinge.flatten().sort(descending=True)
        rise = _jaccard_rise(true.flatten()[order])
        value = errors.relu() @ rise
        of_pixels = torch.empty_like(rise).scatter_(0, order, rise * (errors > 0))
        return value, -sign * of_pixels.view_as(label)


def _present(label: Tensor, valid: Tensor, num_classes: int) -> list[int]:
    """Return the classes that the valid labels have: the host waits once for a GPU to say them."""
    inside = valid & (label >= 0) & (label < num_classes)
    index = torch.where(inside, label.long(), num_classes).flatten()
    seen = torch.zeros(num_classes + 1, dtype=torch.bool, device=label.device)
    return [c for c, there in enumerate(seen.index_fill_(0, index, True)[:-1].tolist()) if there]


def _jaccard_rise(true: Tensor) -> Tensor:
    """Return how much the Jaccard loss rises with each further error, from the largest on.

    Args:
        true: Whether the class is true (P,), in the order of falling errors.
    """
    intersection = true.sum() - true.cumsum(0)
    union = true.sum() + (1 - true).cumsum(0)
    jaccard = 1 - intersection / union
    jaccard[1:] -= jaccard[:-1].clone()
    return jaccard


class _KnownSlope(torch.autograd.Function):
    """A value whose gradient is known; no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None
