"""Cross-entropy of the hardest pixels alone."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlseg.bounds import Natural, NotNegative, Probability
from nlseg.models.losses.class_weight import class_weights
from nlseg.ops.pixel_loss import upsampled_cross_entropy
from nlseg.registry import MODELS


@MODELS.register_module()
class OhemCrossEntropy(nn.Module):
    """The mean softmax cross-entropy of the pixels whose true class has a low probability.

    A pixel counts when that probability is below a threshold, which rises so that about
    ``min_kept`` pixels of the batch count. (``OHEMPixelSampler`` chooses alike for every image, and
    divides by all pixels.)

    Source: Xu et al., PIDNet (2206.02066); Shrivastava et al., Online Hard Example Mining
    (1604.03540).

    Args:
        ignore_label: Label that does not count.
        thres: Probability below which a pixel is hard.
        min_kept: Pixels of a batch that count at least.
        loss_weight: Factor of the result.
        class_weight: K factors, or a file that holds them; see ``CrossEntropyLoss``.
        loss_name: Key of the result in the log; losses with the same key are added.
    """

    def __init__(
        self,
        ignore_label: int = 255,
        thres: Probability = 0.7,
        min_kept: Natural = 100000,
        loss_weight: NotNegative = 1.0,
        class_weight: Sequence[NotNegative] | str | None = None,
        loss_name: str = "loss_ohem",
    ) -> None:
        super().__init__()
        self.ignore_label = ignore_label
        self.thresh = thres
        self.min_kept = max(1, min_kept)
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weights(class_weight), persistent=False)

    def forward(
        self,
        score: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            score: Logits (N, K, H, W).
            target: Labels (N, H, W), integer.
            weight: Factor of each pixel (N, H, W).
            ignore_index: Label that does not count.
        """
        label = self._label(target.long(), ignore_index)
        each = F.cross_entropy(score, label, ignore_index=ignore_index, reduction="none")
        share = self._share(each.detach(), label, weight, ignore_index)
        return self.loss_weight * (each * share).sum()

    @property
    def streams(self) -> bool:
        """Whether ``upsampled`` has this form of the loss: it has every form."""
        return True

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

        The upsampled logits are gone through twice: for the ranks, and for loss and gradient.

        Args:
            logits: Logits (N, K, h, w).
            label: Labels (N, H, W).
            weight: Factor of each pixel (N, H, W).
            ignore_index: Label that does not count.
            align_corners: How logits are resized, see ``nlseg.ops.resize``.
        """
        label = self._label(label, ignore_index)
        compare = partial(
            upsampled_cross_entropy, ignore_index=ignore_index, align_corners=align_corners
        )
        with torch.no_grad():
            _, each, _ = compare(logits, label)
            share = self._share(each, label, weight, ignore_index)
        total, _, correct = compare(logits, label, weight=share)
        return self.loss_weight * total, correct if self.ignore_label == ignore_index else None

    def _label(self, label: Tensor, ignore_index: int) -> Tensor:
        """Return the labels with one label that does not count, where there are two."""
        if self.ignore_label == ignore_index:
            return label
        return torch.where(label == self.ignore_label, ignore_index, label)

    def _share(
        self, each: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int
    ) -> Tensor:
        """Return what each pixel's cross-entropy (N, H, W) is multiplied with."""
        valid = label != ignore_index
        probability = each.neg().exp().masked_fill(~valid, 2.0)
        ranked = probability.flatten().sort().values
        rank = (valid.sum() - 1).clamp(min=0, max=self.min_kept)
        threshold = ranked.gather(0, rank.view(1)).clamp(min=self.thresh)
        hard = (probability < threshold) & valid
        share = hard / hard.sum().clamp(min=1)
        if self.class_weight is not None:
            share = share * self.class_weight[label * valid]
        return share if weight is None else share * weight
