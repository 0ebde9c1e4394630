"""Evaluation: counts -> scores."""

from nlseg.evaluation.cityscapes import CityscapesMetric
from nlseg.evaluation.iou import IoUMetric
from nlseg.evaluation.scores import class_scores, score, summarize

__all__ = ["CityscapesMetric", "IoUMetric", "class_scores", "score", "summarize"]
