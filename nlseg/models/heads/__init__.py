"""Heads: from backbone features to class logits and losses."""

from nlseg.models.heads.decode_head import BaseDecodeHead
from nlseg.models.heads.fcn import FCNHead
from nlseg.models.heads.global_context import GCHead
from nlseg.models.heads.non_local import NLHead

__all__ = ["BaseDecodeHead", "FCNHead", "GCHead", "NLHead"]
