"""Cross-entropy over pixels, with the averaging rules that published configs rely on."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlseg.bounds import NotNegative
from nlseg.errors import ConfigError
from nlseg.models.losses.base import EPS, Reduction
from nlseg.models.losses.class_weight import class_weights
from nlseg.ops.pixel_loss import upsampled_cross_entropy
from nlseg.registry import MODELS


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Softmax or sigmoid cross-entropy of logits (N, K, H, W) against labels (N, H, W).

    What 'mean' divides the sum over pixels by:

    - no class weights: all pixels, ignored ones included; only those not ignored with
      ``avg_non_ignore``;
    - class weights: the sum of ``class_weight[label]`` over the pixels that are not ignored, with
      or without ``avg_non_ignore``, which is the rule of ``torch.nn.functional.cross_entropy``.
      (mmsegmentation 1.2.2 adds ``class_weight[ignore_index]`` for each ignored pixel where that is
      a class, and stops with an IndexError where it is none, unless ``avg_non_ignore``.)

    The sigmoid form compares each of the K logits with a one-hot label, or a single logit with
    labels 0 and 1. Its mean divides by K times the pixels, ignored ones included unless
    ``avg_non_ignore``; class weights multiply the positive term.

    Args:
        use_sigmoid: Take the sigmoid form.
        use_mask: Only False; a key of published configs.
        reduction: 'mean', 'sum' or 'none'.
        class_weight: K factors, or a file (.npy, .json, .yaml) that holds them. In the config of a
            run ``'auto'`` stands for the median frequency weights of its training data.
        loss_weight: Factor of the result.
        loss_name: Key of the result in the log; losses with the same key are added.
        avg_non_ignore: Average over the pixels that are not ignored.

    Raises:
        ConfigError: For a weight file that cannot be read, or ``use_mask``.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: Reduction = "mean",
        class_weight: Sequence[NotNegative] | str | None = None,
        loss_weight: NotNegative = 1.0,
        loss_name: str = "loss_ce",
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__()
        if use_mask:
            raise ConfigError("CrossEntropyLoss.use_mask: only False; True is for instance masks")
        self.use_sigmoid = use_sigmoid
        self.reduction: Reduction = reduction
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.avg_non_ignore = avg_non_ignore
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weights(class_weight), persistent=False)

    def _refuse_criterion(self, value: object) -> None:
        raise ConfigError(
            f"{type(self).__name__}.cls_criterion: is never called; write forward(self, cls_score, "
            "label, weight=None, avg_factor=None, reduction_override=None, ignore_index=-100)"
        )

    cls_criterion = property(fset=_refuse_criterion)
    """In mmsegmentation the function that ``forward`` calls; a subclass of this one sets none."""

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: Reduction | None = None,
        ignore_index: int = -100,
    ) -> Tensor:
        """Return the loss, a scalar or (N, H, W) without reduction.

        Args:
            cls_score: Logits (N, K, H, W).
            label: Labels (N, H, W), integer.
            weight: Factor of each pixel (N, H, W).
            avg_factor: What 'mean' divides by, instead of the rules of the class.
            reduction_override: Reduction of this call.
            ignore_index: Label that does not count.

        Raises:
            ValueError: For an ``avg_factor`` together with 'sum'.
        """
        reduction = reduction_override or self.reduction
        if avg_factor is not None and reduction == "sum":
            raise ValueError("CrossEntropyLoss: avg_factor goes with 'mean', not with 'sum'")
        form = self._sigmoid if self.use_sigmoid else self._softmax
        loss, default_factor = form(cls_score, label.long(), weight, ignore_index)
        if reduction == "mean":
            factor = default_factor if avg_factor is None else avg_factor
            loss = loss.sum() / (factor + EPS)
        elif reduction == "sum":
            loss = loss.sum()
        return self.loss_weight * loss

    @property
    def streams(self) -> bool:
        """Whether ``upsampled`` has this form of the loss."""
        return not self.use_sigmoid and self.reduction != "none"

    def upsampled(
        self,
        logits: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        *,
        ignore_index: int,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return loss and number of right pixels of small logits, never upsampled as a whole.

        Same values as ``forward`` on upsampled logits, to float32 rounding.

        Args:
            logits: Logits (N, K, h, w).
            label: Labels (N, H, W).
            weight: Factor of each pixel (N, H, W).
            ignore_index: Label that does not count.
            align_corners: How logits are resized, see ``nlseg.ops.resize``.
        """
        factor = self.pixel_weight(label, ignore_index)
        if weight is not None:
            factor = weight if factor is None else factor * weight
        total, _, correct = upsampled_cross_entropy(
            logits, label, weight=factor, ignore_index=ignore_index, align_corners=align_corners
        )
        if self.reduction == "mean":
            total = total / (self.average_factor(label, ignore_index) + EPS)
        return self.loss_weight * total, correct

    def pixel_weight(self, label: Tensor, ignore_index: int) -> Tensor | None:
        """Return the class weight of each pixel (N, H, W), 0 where ignored, or None."""
        if self.class_weight is None:
            return None
        valid = label != ignore_index
        return self.class_weight[label * valid] * valid

    def average_factor(self, label: Tensor, ignore_index: int) -> Tensor | float:
        """Return what the softmax form's 'mean' divides by, a count or a sum of class weights."""
        valid = label != ignore_index
        weight = self.pixel_weight(label, ignore_index)
        if weight is not None:
            return weight.sum()
        return valid.sum() if self.avg_non_ignore else float(label.numel())

    def _softmax(
        self, cls_score: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int
    ) -> tuple[Tensor, Tensor | float]:
        class_weight = None if self.class_weight is None else self.class_weight.to(cls_score.dtype)
        loss = F.cross_entropy(
            cls_score, label, weight=class_weight, ignore_index=ignore_index, reduction="none"
        )
        if weight is not None:
            loss = loss * weight
        return loss, self.average_factor(label, ignore_index)

    def _sigmoid(
        self, cls_score: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int
    ) -> tuple[Tensor, Tensor | float]:
        valid = ((label >= 0) & (label != ignore_index)).unsqueeze(1)
        inside = label.unsqueeze(1) * valid
        if cls_score.shape[1] == 1:
            target = inside
        else:
            target = torch.zeros_like(cls_score).scatter_(1, inside, 1.0)
        pos_weight = None if self.class_weight is None else self.class_weight.view(-1, 1, 1)
        loss = F.binary_cross_entropy_with_logits(
            cls_score, target.to(cls_score.dtype), pos_weight=pos_weight, reduction="none"
        )
        loss = loss * valid
        if weight is not None:
            loss = loss * weight.unsqueeze(1)
        if self.avg_non_ignore:
            return loss, valid.sum() * cls_score.shape[1]
        return loss, float(loss.numel())
