"""Losses, one file a family."""

from nlseg.models.losses.base import (
    LogitsForLoss,
    SmallLogitsLoss,
    accuracy,
    percentage,
    works_on_small_logits,
)
from nlseg.models.losses.class_weight import read_class_weight
from nlseg.models.losses.cross_entropy import CrossEntropyLoss

__all__ = [
    "CrossEntropyLoss",
    "LogitsForLoss",
    "SmallLogitsLoss",
    "accuracy",
    "percentage",
    "read_class_weight",
    "works_on_small_logits",
]
