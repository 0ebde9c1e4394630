"""Losses of edges and of distances to them."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlseg.bounds import NotNegative
from nlseg.models.losses.base import Reduction, reduced
from nlseg.models.losses.class_weight import class_weights
from nlseg.registry import MODELS


@MODELS.register_module()
class BoundaryLoss(nn.Module):
    """Sigmoid cross-entropy of one logit a pixel against a map of edges, both sides balanced.

    Edge pixels weigh the share of the others, the others the share of the edges; the mean is over
    all pixels.

    Source: Xu et al., PIDNet (2206.02066), the loss of the boundary head.

    Args:
        loss_weight: Factor of the result.
        loss_name: Key of the result in the log; losses with the same key are added.
    """

    def __init__(self, loss_weight: NotNegative = 1.0, loss_name: str = "loss_boundary") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self,
        bd_pre: Tensor,
        bd_gt: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            bd_pre: Logits (N, 1, H, W).
            bd_gt: 1 on edges, 0 elsewhere (N, H, W); any other value does not count.
            weight: Factor of each pixel (N, H, W).
            ignore_index: A value that does not count, were it 0 or 1.

        Raises:
            ValueError: For more than one logit a pixel.
        """
        if bd_pre.shape[1] != 1:
            raise ValueError(
                f"BoundaryLoss: compares one logit a pixel with a map of edges, not "
                f"{bd_pre.shape[1]} logits; it is for a head with out_channels=1 whose labels are "
                "edges"
            )
        logits, target = bd_pre.reshape(-1), bd_gt.reshape(-1)
        counts = target != ignore_index
        edge, other = (target == 1) & counts, (target == 0) & counts
        number = edge.sum() + other.sum()
        balance = (edge * other.sum() + other * edge.sum()) / number.clamp(min=1)
        if weight is not None:
            balance = balance * weight.reshape(-1)
        each = F.binary_cross_entropy_with_logits(logits, edge.to(logits.dtype), reduction="none")
        return self.loss_weight * (each * balance).mean()


@MODELS.register_module()
class HuasdorffDisstanceLoss(nn.Module):
    """Squared errors of softmax probabilities, weighed by squared distances to both boundaries.

    For every class but 0, with the distance of each pixel inside the predicted (most probable) and
    the true region to that region's boundary: the mean over pixels of
    (p - t)^2 (distance_predicted^2 + distance_true^2); their sum over the classes, divided by K.
    Ignored pixels are background. Distances are exact and made on the CPU.

    Source: Karimi and Salcudean, Reducing the Hausdorff Distance (1904.10030), the loss by distance
    transforms, with distances inside of regions alone, as in mmsegmentation, whose spelling of the
    name this is.

    Args:
        reduction: 'mean', 'sum' or 'none'; there is one loss.
        class_weight: K factors, or a file that holds them; see ``CrossEntropyLoss``.
        loss_weight: Factor of the result.
        ignore_index: Label that does not count; a class of this number is left out.
        loss_name: Key of the result in the log; losses with the same key are added.
        one_vs_rest: Take each class by its own region and truth 0 or 1. False is the rule of
            mmsegmentation 1.2.2: every class has the region of all labels but 0, and its
            probability is compared with the label's number. For two classes both are the same.
    """

    def __init__(
        self,
        reduction: Reduction = "mean",
        class_weight: Sequence[NotNegative] | str | None = None,
        loss_weight: NotNegative = 1.0,
        ignore_index: int | None = 255,
        loss_name: str = "loss_huasdorff_disstance",
        one_vs_rest: bool = True,
    ) -> None:
        super().__init__()
        self.reduction: Reduction = reduction
        self.loss_weight = loss_weight
        self.ignore_index = ignore_index
        self.loss_name = loss_name
        self.one_vs_rest = one_vs_rest
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weights(class_weight), persistent=False)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: Reduction | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            pred: Logits (N, K, H, W).
            target: Labels (N, H, W).
            weight: Factor of each pixel (N, H, W).
            avg_factor: What 'mean' divides by, instead of 1.
            reduction_override: Reduction of this call.
            ignore_index: Label that does not count.
        """
        probability = pred.softmax(dim=1)
        label = target * ((target != ignore_index) & (target != self.ignore_index))
        predicted = probability.argmax(dim=1)
        total = pred.new_zeros(())
        for k in range(1, pred.shape[1]):
            if k == self.ignore_index:
                continue
            if self.one_vs_rest:
                true, here, there = (label == k).to(pred.dtype), label == k, predicted == k
            else:
                true, here, there = label.to(pred.dtype), label.byte() != 0, predicted != 0
            distance = _inner_distance(here).square() + _inner_distance(there).square()
            errors = (probability[:, k] - true).square() * distance.to(pred)
            loss = (errors if weight is None else errors * weight).mean()
            total = total + (loss if self.class_weight is None else loss * self.class_weight[k])
        total = total / pred.shape[1]
        return self.loss_weight * reduced(total, reduction_override or self.reduction, avg_factor)


def _inner_distance(region: Tensor) -> Tensor:
    """Return each pixel's distance in px to the nearest one outside of its region, 0 outside.

    A region that fills the image has no boundary, so that all distances are 0.

    Args:
        region: Whether a pixel is inside (N, H, W).
    """
    maps = []
    for inside in region.cpu().numpy().astype(np.uint8):
        if inside.all():
            maps.append(np.zeros(inside.shape, dtype=np.float32))
        else:
            maps.append(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    return torch.from_numpy(np.stack(maps))
