"""Tiny networks whose outputs were recorded with mmsegmentation 1.2.2, and how tests build them.

``tests/golden/tiny_models.pt``: weights (shared by both kinds, and of each), images, labels,
losses, gradients, statistics, logits (every third row and column) and predictions of an
EncoderDecoder(ResNetV1c-18, 16 base channels) with an NLHead ('NL') or a GCHead ('GC').
"""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.structures import PixelData

import nlseg.models  # noqa: F401
from nlseg.registry import MODELS
from nlseg.structures import SegDataSample

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = ("NL", "GC")
CASES = [(kind, align_corners) for kind in KINDS for align_corners in (False, True)]

# Differences of float32 sums taken in another order: 2e-7 of the largest value was seen, and up to
# 3e-5 of a parameter's gradient norm where the order reaches through the whole network.
ROUNDING = 2e-6
GRADIENT_ROUNDING = 2e-4

recorded_draws = pytest.mark.skipif(
    torch.__version__ < "2.13", reason="dropout was recorded with torch 2.13's random stream"
)


@cache
def golden():
    return torch.load(GOLDEN / "tiny_models.pt")


def record(kind, align_corners=False):
    return golden()[f"{kind}|align_corners={align_corners}"]


def weights(kind):
    return {**golden()["weights"]["shared"], **golden()["weights"][kind]}


def model_cfg(kind, align_corners=False, **head):
    """Return the recorded config; further keys go to both heads."""
    cfg = copy.deepcopy(record(kind)["cfg"])
    for name in ("decode_head", "auxiliary_head"):
        cfg[name].update(align_corners=align_corners, **head)
    return cfg


def build(kind, align_corners=False, **head):
    model = MODELS.build(model_cfg(kind, align_corners, **head))
    model.load_state_dict(weights(kind), strict=True)
    return model


def label_samples(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=label.long())) for label in labels]


def training_batch(model):
    batch = {"inputs": list(golden()["image"]), "data_samples": label_samples(golden()["label"])}
    return model.data_preprocessor(batch, True)


def eval_input(model):
    return model.data_preprocessor({"inputs": list(golden()["eval_image"])}, False)["inputs"]


def assert_close(ours, recorded, tolerance=ROUNDING):
    """Compare with the largest recorded value as the scale."""
    difference = (ours - recorded).abs().max().item()
    assert difference <= tolerance * max(recorded.abs().max().item(), 1e-6), difference
