"""Code written for OpenMMLab's toolkits runs: it trains, is evaluated, and gives what it says."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper

from nlseg.registry import MODELS
from nlseg.structures import SegDataSample
from tests.cases import each_case
from tests.models import openmmlab_style as style
from tests.models import recorded as rec

torch.set_num_threads(1)
NORM = {"type": "BN", "requires_grad": True}
LOSSES = [
    {"type": "OverlapLoss", "alpha": 2.0, "loss_weight": 0.5},
    {"type": "HardPixelLoss", "gamma": 1},
]
HEAD = {"channels": 8, "num_classes": 7, "dropout_ratio": 0.0, "norm_cfg": NORM}
LAST = {**HEAD, "in_channels": 128, "in_index": 3}
KINDS = {
    "pyramid": ({"type": "PyramidHead", "pool_scales": (1, 2, 3), **LAST}, style.slow_pyramid),
    "unified": (
        {"type": "UnifiedHead", "in_channels": [16, 64, 128], "in_index": [0, 2, 3], **HEAD},
        style.slow_unified,
    ),
    "whitened": ({"type": "WhitenedHead", "temperature": 0.5, **LAST}, style.slow_whitened),
    "cascade": (
        [{"type": "PyramidHead", **LAST}, {"type": "RefiningHead", **LAST}],
        style.slow_two_stages,
    ),
}


def build(kind, **changes):
    cfg = rec.model_cfg("NL")
    head = KINDS[kind][0]
    if isinstance(head, list):
        cfg.update(type="TwoStageSegmentor", num_stages=2, train_cfg={"factor": 2.0})
        cfg["decode_head"] = [{**one, "loss_decode": LOSSES} for one in head]
    else:
        cfg["decode_head"] = {**head, "loss_decode": LOSSES}
    torch.manual_seed(0)
    model = MODELS.build({**cfg, **changes})
    model.init_weights()
    for name, value in model.named_buffers():  # statistics that matter
        if "running" in name:
            value.uniform_(0.1, 1.0)
    for head in model.modules():
        if hasattr(head, "conv_seg"):
            torch.nn.init.normal_(head.conv_seg.weight, std=1.0)
        if hasattr(head, "conv_out"):
            torch.nn.init.normal_(head.conv_out.bn.weight)
    return model


def slow_logits(model, kind, image):
    owner = model if kind == "cascade" else model.decode_head
    return KINDS[kind][1](owner, model.extract_feat(image))


@each_case("kind", KINDS)
def test_a_head_is_evaluated_as_its_formula_says(kind):
    model = build(kind).eval()
    image = rec.eval_input(model)
    with torch.no_grad():
        small = slow_logits(model, kind, image)
        rec.assert_close(model(image), small, 2e-5)
        want = style.resize(style.resize(small, (80, 112)), (60, 90))
        (sample,) = model.predict(image, [SegDataSample(metainfo={"ori_shape": (60, 90)})])
    rec.assert_close(sample.seg_logits.data, want[0], 2e-5)
    assert (sample.pred_sem_seg.data != want.argmax(1)).float().mean() < 1e-3
    assert len(want.argmax(1).unique()) > 1


@each_case("kind", KINDS)
def test_windows_and_views_give_what_the_formula_gives(kind):
    model = build(
        kind, test_cfg={"mode": "slide", "crop_size": (64, 64), "stride": (32, 48)}
    ).eval()
    image = rec.eval_input(model)
    total = count = 0
    with torch.no_grad():
        for top in (0, 16):
            for left in (0, 48):
                crop = image[..., top : top + 64, left : left + 64]
                logits = style.resize(slow_logits(model, kind, crop), (64, 64))
                place = (left, 48 - left, top, 16 - top)
                total = total + F.pad(logits, place)
                count = count + F.pad(torch.ones(64, 64), place)
        want = total / count
        rec.assert_close(model.inference(image), want, 2e-5)
        model.test_cfg.mode = "whole"
        views = {"inputs": [[rec.golden()["eval_image"][0]]] * 2, "data_samples": []}
        for flip in (False, True):
            info = {"ori_shape": (80, 112), "flip": flip, "flip_direction": "horizontal"}
            views["data_samples"].append([SegDataSample(metainfo=info)])
        tta = MODELS.build({"type": "SegTTAModel", "module": model})
        (sample,) = tta.test_step(views)
        plain = style.resize(slow_logits(model, kind, image), (80, 112)).softmax(1)
        want = (plain + plain.flip(3)).argmax(1)
    assert (sample.pred_sem_seg.data != want).float().mean() < 1e-3


@each_case("kind", KINDS)
def test_a_training_step_has_the_losses_of_the_formula_and_moves_the_head(kind):
    model = build(kind).eval()  # norms by their statistics, as the formula has them
    logits = {}
    last = model.last_head
    last.conv_seg.register_forward_hook(lambda module, _, out: logits.update(last=out))
    data = {
        "inputs": list(rec.golden()["image"][..., :32, :40]),
        "data_samples": rec.label_samples(rec.golden()["label"][..., :32, :40]),
    }
    batch = model.data_preprocessor(data, True)
    losses = model(**batch, mode="loss")
    prefix, factor = ("decode_1", 2.0) if kind == "cascade" else ("decode", 1.0)
    label = torch.cat([s.gt_sem_seg.data for s in batch["data_samples"]])
    with torch.no_grad():
        large = style.resize(logits["last"], label.shape[1:])
        overlap, hard = style.slow_losses(large, label, last.loss_decode)
    assert losses[f"{prefix}.loss_overlap"].item() == pytest.approx(
        factor * overlap.item(), rel=1e-4
    )
    assert losses[f"{prefix}.loss_hard"].item() == pytest.approx(factor * hard.item(), rel=1e-4)
    valid = label != 255
    acc = 100 * (large.argmax(1) == label)[valid].float().mean()
    assert losses[f"{prefix}.acc_seg"].item() == pytest.approx(factor * acc.item(), rel=1e-3)

    before = last.conv_seg.weight.detach().clone()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    model.train().train_step(data, wrapper)
    assert not torch.equal(last.conv_seg.weight, before)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
