"""Losses between two maps of logits."""

import torch.nn.functional as F
from torch import Tensor, nn

from nlseg.bounds import Positive
from nlseg.models.losses.base import Reduction
from nlseg.registry import MODELS


@MODELS.register_module()
class KLDivLoss(nn.Module):
    """The Kullback-Leibler divergence of one map of logits from another, for distillation.

    Both are divided by a temperature and turned into probabilities q (of the input) and p (of the
    target); every p (log p - log q) is multiplied by the temperature squared.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network (1503.02531), section 2.

    Args:
        temperature: What logits are divided by; it is above 0.
        reduction: 'mean' or 'sum' over each image, or 'none'.
        loss_name: Key of the result in the log; losses with the same key are added.
        log_input: Whether log q is taken. False takes q in its place, which is no divergence, but
            what mmsegmentation 1.2.2 computes.
    """

    def __init__(
        self,
        temperature: Positive = 1.0,
        reduction: Reduction = "mean",
        loss_name: str = "loss_kld",
        log_input: bool = True,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction: Reduction = reduction
        self.loss_name = loss_name
        self.log_input = log_input

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Return the loss of each image (N,), or of each number.

        Args:
            input: Logits (N, K, ...).
            target: Logits of the same shape.
            weight: Factor of each pixel (N, ...).
            ignore_index: Has no effect: no labels are compared.

        Raises:
            ValueError: For labels in the place of logits.
        """
        if input.shape != target.shape:
            raise ValueError(
                f"KLDivLoss: compares two maps of logits, not {tuple(input.shape)} with "
                f"{tuple(target.shape)}; it is for a head that calls it with both, not for "
                "loss_decode of labels"
            )
        kind = F.log_softmax if self.log_input else F.softmax
        q = kind(input / self.temperature, dim=1)
        p = F.softmax(target / self.temperature, dim=1)
        loss = F.kl_div(q, p, reduction="none") * self.temperature**2
        if weight is not None:
            loss = loss * weight.unsqueeze(1)
        if self.reduction == "none":
            return loss
        loss = loss.flatten(1)
        return loss.sum(dim=1) if self.reduction == "sum" else loss.mean(dim=1)
