"""Heads: from backbone features to class logits and losses."""

from nlseg.models.heads.cascade import BaseCascadeDecodeHead
from nlseg.models.heads.decode_head import BaseDecodeHead
from nlseg.models.heads.disentangled import DNLHead
from nlseg.models.heads.fcn import FCNHead
from nlseg.models.heads.global_context import GCHead
from nlseg.models.heads.non_local import NLHead
from nlseg.models.heads.separable import DepthwiseSeparableFCNHead

__all__ = [
    "BaseCascadeDecodeHead",
    "BaseDecodeHead",
    "DNLHead",
    "DepthwiseSeparableFCNHead",
    "FCNHead",
    "GCHead",
    "NLHead",
]
