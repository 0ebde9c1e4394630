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
from nlseg.models.losses.distance import BoundaryLoss, HuasdorffDisstanceLoss
from nlseg.models.losses.distillation import KLDivLoss
from nlseg.models.losses.focal import FocalLoss
from nlseg.models.losses.hard_pixels import OhemCrossEntropy
from nlseg.models.losses.lovasz import LovaszLoss
from nlseg.models.losses.region import DiceLoss, TverskyLoss

__all__ = [
    "BoundaryLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "HuasdorffDisstanceLoss",
    "KLDivLoss",
    "LogitsForLoss",
    "LovaszLoss",
    "OhemCrossEntropy",
    "SmallLogitsLoss",
    "TverskyLoss",
    "accuracy",
    "percentage",
    "read_class_weight",
    "works_on_small_logits",
]
