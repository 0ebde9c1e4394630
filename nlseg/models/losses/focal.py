"""Focal loss: pixels that are right already count little."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlseg.bounds import NotNegative, Probability
from nlseg.errors import ConfigError
from nlseg.models.losses.base import Reduction, reduced
from nlseg.models.losses.class_weight import class_weights
from nlseg.ops.focal_loss import upsampled_focal_loss
from nlseg.registry import MODELS


@MODELS.register_module()
class FocalLoss(nn.Module):
    """Sigmoid cross-entropy of each class, times the probability of the wrong answer to a power.

    With p the probability of a class at a pixel: alpha (1 - p)^gamma (-log p) where the class is
    true, (1 - alpha) p^gamma (-log(1 - p)) where it is not. 'mean' divides by the number of classes
    and pixels, ignored ones included. A single logit is that of class 1.

    Source: Lin et al., Focal Loss for Dense Object Detection (1708.02002), eq. 5.

    Args:
        use_sigmoid: Only True; a key of published configs.
        gamma: How much less a pixel counts that is right already.
        alpha: Weight of the pixels where a class is true, a share, or one for each class; the
            others have 1 - alpha.
        reduction: 'mean', 'sum' or 'none'.
        class_weight: K factors, or a file that holds them; see ``CrossEntropyLoss``.
        loss_weight: Factor of the result.
        loss_name: Key of the result in the log; losses with the same key are added.

    Raises:
        ConfigError: For ``use_sigmoid=False``.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: NotNegative = 2.0,
        alpha: Probability | Sequence[Probability] = 0.5,
        reduction: Reduction = "mean",
        class_weight: Sequence[NotNegative] | str | None = None,
        loss_weight: NotNegative = 1.0,
        loss_name: str = "loss_focal",
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ConfigError("FocalLoss.use_sigmoid: only True; there is no softmax form")
        self.gamma = gamma
        self.reduction: Reduction = reduction
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.alpha: Tensor
        self.class_weight: Tensor | None
        self.register_buffer("alpha", torch.as_tensor(alpha).float(), persistent=False)
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
        """Return the loss, a scalar or (N, K, H, W) without reduction.

        Args:
            pred: Logits (N, K, H, W).
            target: Labels (N, H, W), integer, or how much each class is true (N, K, H, W).
            weight: Factor of each pixel (N, H, W).
            avg_factor: What 'mean' divides by, instead of the number of classes and pixels.
            reduction_override: Reduction of this call.
            ignore_index: Label that does not count.
        """
        classes = pred.shape[1]
        shape = (-1, *[1] * (pred.dim() - 2))
        positive, negative = (x.to(pred.dtype).view(shape) for x in self._factors(classes))
        if target.shape == pred.shape:
            true = target.to(pred.dtype)
            factor = torch.ones_like(pred[:, :1])
        else:
            numbers = torch.arange(classes, device=pred.device).view(shape)
            true = (target.unsqueeze(1) == (numbers if classes > 1 else 1)).to(pred.dtype)
            factor = (target != ignore_index).unsqueeze(1).to(pred.dtype)
        if weight is not None:
            factor = factor * weight.unsqueeze(1)
        p = pred.sigmoid()
        wrong = (1 - p) * true + p * (1 - true)
        loss = F.binary_cross_entropy_with_logits(pred, true, reduction="none")
        loss = loss * wrong.pow(self.gamma) * (positive * true + negative * (1 - true)) * factor
        return self.loss_weight * reduced(loss, reduction_override or self.reduction, avg_factor)

    def _factors(self, classes: int) -> tuple[Tensor, Tensor]:
        """Return the factor of each class where it is true and where it is not, (K,) each."""
        scale = self.alpha.new_ones(classes)
        if self.class_weight is not None:
            scale = scale * self.class_weight
        return self.alpha * scale, (1 - self.alpha) * scale

    @property
    def streams(self) -> bool:
        """Whether ``upsampled`` has this form of the loss."""
        return self.reduction != "none"

    def upsampled(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        *,
        ignore_index: int,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return loss and number of right pixels of small logits, never upsampled as a whole.

        Same values as ``forward`` on upsampled logits, to float32 rounding.

        Args:
            logits: Logits (N, K, h, w).
            label: Labels (N, H, W).
            weight: Factor of each pixel (N, H, W).
            ignore_index: Label that does not count.
            align_corners: How logits are resized, see ``nlseg.ops.resize``.
        """
        classes = logits.shape[1]
        positive, negative = self._factors(classes)
        total, correct = upsampled_focal_loss(
            logits,
            label,
            gamma=self.gamma,
            positive=positive,
            negative=negative,
            weight=weight,
            ignore_index=ignore_index,
            align_corners=align_corners,
        )
        if self.reduction == "mean":
            total = total / (label.numel() * classes)
        return self.loss_weight * total, correct if classes > 1 else None
