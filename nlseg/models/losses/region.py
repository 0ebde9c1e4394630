"""Losses of the overlap between predicted and true regions: Dice and Tversky."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nlseg.bounds import NotNegative
from nlseg.models.losses.base import Reduction, reduced
from nlseg.models.losses.class_weight import class_weights
from nlseg.ops.region_loss import Activation, region_sums
from nlseg.registry import MODELS


class RegionLoss(nn.Module):
    """A loss that is a function of three sums over each image's pixels; see ``region_sums``.

    A child sets the attributes and writes ``of_sums``.

    Attributes:
        activation: What makes probabilities of logits.
        power: Exponent of the probabilities that are summed.
        mask_predicted: Whether the probabilities of ignored pixels are left out.
        reduction: What is done with the losses of the images.
        loss_weight: Factor of the result.
        loss_name: Key of the result in the log; losses with the same key are added.
        ignore_index: Label, or class, that does not count.
    """

    activation: Activation
    power: float
    mask_predicted: bool
    reduction: Reduction
    loss_weight: float
    loss_name: str
    ignore_index: int | None

    @abstractmethod
    def of_sums(self, both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Return the loss of each image (N,) from the sums, each (N, K)."""

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: Reduction | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Return the loss, a scalar or (N,) without reduction.

        Args:
            pred: Logits (N, K, H, W).
            target: Labels (N, H, W), integer, or how much each class is true (N, K, H, W).
            weight: Factor of each pixel (N, H, W), or of each image (N,).
            avg_factor: What 'mean' divides by, instead of the number of images.
            reduction_override: Reduction of this call.
            ignore_index: Label that does not count.
        """
        per_image = weight if weight is not None and weight.dim() == 1 else None
        per_pixel = weight if per_image is None else None
        loss = self.of_sums(*self._plain_sums(pred, target, per_pixel, ignore_index))
        loss = loss if per_image is None else loss * per_image
        return self.loss_weight * reduced(loss, reduction_override or self.reduction, avg_factor)

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
        both, predicted, true, correct = region_sums(
            logits,
            self._label(label, ignore_index),
            weight=weight,
            activation=self._activation_of(logits),
            power=self.power,
            mask_predicted=self.mask_predicted,
            ignore_index=ignore_index,
            align_corners=align_corners,
        )
        loss = reduced(self.of_sums(both, predicted, true), self.reduction, None)
        told = logits.shape[1] > 1 and self.ignore_index in (None, ignore_index)
        return self.loss_weight * loss, correct if told else None

    def _activation_of(self, logits: Tensor) -> Activation:
        """Return the activation: the probability of a single logit is its sigmoid."""
        single = logits.shape[1] == 1 and self.activation == "softmax"
        return "sigmoid" if single else self.activation

    def _label(self, label: Tensor, ignore_index: int) -> Tensor:
        """Return the labels with one label that does not count, where there are two."""
        if self.ignore_index in (None, ignore_index):
            return label
        return torch.where(label == self.ignore_index, ignore_index, label)

    def _plain_sums(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums (N, K) of whole maps, by the formula as it is written."""
        activation = self._activation_of(pred)
        p = pred.softmax(dim=1) if activation == "softmax" else pred
        p = pred.sigmoid() if activation == "sigmoid" else p
        factor = torch.ones_like(p[:, :1]) if weight is None else weight.unsqueeze(1)
        counts = factor
        if target.shape == pred.shape:
            true = target.to(p.dtype) * factor
        else:
            label = self._label(target.long(), ignore_index).unsqueeze(1)
            valid = label != ignore_index
            classes = torch.arange(p.shape[1], device=p.device).view(1, -1, 1, 1)
            true = (label == (classes if p.shape[1] > 1 else 1)) * valid * factor
            counts = factor * valid if self.mask_predicted else factor
        sums = (p * true, p**self.power * counts, true)
        both, predicted, known = (x.flatten(2).sum(dim=2) for x in sums)
        return both, predicted, known


@MODELS.register_module()
class DiceLoss(RegionLoss):
    """One minus twice the overlap over the sum of both regions' sizes, over all classes together.

    For each image, with sums over pixels and classes of probabilities p and truth t:
    1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + 2 eps); with ``naive_dice``
    1 - (2 sum(p t) + eps) / (sum(p) + sum(t) + eps).

    Source: Milletari et al., V-Net (1606.04797), section 3; the rule of mmsegmentation 1.2.2:
    ignored pixels are of no class, but their probabilities count in sum(p), unless
    ``mask_ignored``. A single logit is that of class 1 (there it is that of class 0).

    Args:
        use_sigmoid: Probabilities by a sigmoid for each class, else by a softmax.
        activate: Whether logits are turned into probabilities; False takes them as they are.
        reduction: 'mean', 'sum' or 'none', over images.
        naive_dice: Plain sums in the denominator.
        loss_weight: Factor of the result.
        ignore_index: Label that does not count; a class of this number is left out.
        eps: What keeps the division finite.
        loss_name: Key of the result in the log; losses with the same key are added.
        mask_ignored: Leave ignored pixels out of all sums.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: Reduction = "mean",
        naive_dice: bool = False,
        loss_weight: NotNegative = 1.0,
        ignore_index: int | None = 255,
        eps: NotNegative = 1e-3,
        loss_name: str = "loss_dice",
        mask_ignored: bool = False,
    ) -> None:
        super().__init__()
        kind: Activation = "sigmoid" if use_sigmoid else "softmax"
        self.activation = kind if activate else "none"
        self.power = 1.0 if naive_dice else 2.0
        self.mask_predicted = mask_ignored
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.ignore_index = ignore_index
        self.naive_dice = naive_dice
        self.eps = eps

    def of_sums(self, both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Return the loss of each image (N,) from the sums, each (N, K)."""
        kept = torch.arange(both.shape[1], device=both.device) != self.ignore_index
        hit, p, t = ((x * kept).sum(dim=1) for x in (both, predicted, true))
        if self.naive_dice:
            return 1 - (2 * hit + self.eps) / (p + t + self.eps)
        return 1 - 2 * hit / (p + t + 2 * self.eps)


@MODELS.register_module()
class TverskyLoss(RegionLoss):
    """Dice with a weight of its own for false positives and for false negatives, class by class.

    For each image and class, with sums over pixels that are not ignored: TP = sum(p t),
    FP = sum(p (1 - t)), FN = sum((1 - p) t) of softmax probabilities,
    1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth); the mean over images and classes.

    Source: Salehi et al., Tversky loss function for image segmentation (1706.05721), eq. 3.

    Args:
        smooth: What keeps the division finite.
        class_weight: K factors, or a file that holds them; see ``CrossEntropyLoss``.
        loss_weight: Factor of the result.
        ignore_index: Label that does not count; a class of this number is left out of the sum, but
            not of the number of classes that it is divided by, as in mmsegmentation.
        alpha: Weight of false positives.
        beta: Weight of false negatives. (mmsegmentation wants alpha + beta = 1.)
        loss_name: Key of the result in the log; losses with the same key are added.
    """

    activation = "softmax"
    power = 1.0
    mask_predicted = True
    reduction = "mean"

    def __init__(
        self,
        smooth: NotNegative = 1,
        class_weight: Sequence[NotNegative] | str | None = None,
        loss_weight: NotNegative = 1.0,
        ignore_index: int | None = 255,
        alpha: NotNegative = 0.3,
        beta: NotNegative = 0.7,
        loss_name: str = "loss_tversky",
    ) -> None:
        super().__init__()
        self.smooth = smooth
        self.alpha = alpha
        self.beta = beta
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.ignore_index = ignore_index
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weights(class_weight), persistent=False)

    def of_sums(self, both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Return the loss of each image (N,) from the sums, each (N, K)."""
        hit = both + self.smooth
        loss = 1 - hit / (hit + self.alpha * (predicted - both) + self.beta * (true - both))
        if self.class_weight is not None:
            loss = loss * self.class_weight
        kept = torch.arange(loss.shape[1], device=loss.device) != self.ignore_index
        return (loss * kept).mean(dim=1)
