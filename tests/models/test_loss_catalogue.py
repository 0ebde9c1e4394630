"""Every loss against mmsegmentation 1.2.2's numbers, its paper's formula, and on small logits.

``tests/golden/losses.pt``: inputs, values and gradients of mmsegmentation 1.2.2 with torch 2.13.0.
"""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from nlseg.errors import ConfigError
from nlseg.models import FCNHead
from nlseg.models.losses import works_on_small_logits
from nlseg.ops import focal_loss, region_loss, upsampled
from nlseg.registry import MODELS
from tests.cases import each_case
from tests.models import recorded as rec

torch.set_num_threads(1)


@cache
def golden():
    return torch.load(rec.GOLDEN / "losses.pt")


PEER_RULES = {  # where our own rule is another one on purpose
    "HuasdorffDisstanceLoss": {"one_vs_rest": False},
    "KLDivLoss": {"log_input": False},
}


@each_case("name", sorted(golden()["results"]))
def test_value_and_gradient_are_the_recorded_ones(name):
    recorded = golden()["results"][name]
    logits, label = golden()["logits"].clone(), golden()["label"].clone()
    binary = golden()["edges"].clone()
    binary[0, 0] = 255
    if name.startswith("kld"):
        label = golden()["other"]
    elif name == "boundary|default":
        logits, label = logits[:, :1], binary
    elif name.startswith("lovasz|binary"):
        logits, label = logits[:, 0], binary
    elif name == "huasdorff|two":
        logits, label = logits[:, :2], binary
    elif name.startswith("focal") or name == "tversky|class_left_out":
        label[label == 255] = 1
    logits.requires_grad_()
    settings = {**recorded["kwargs"], **PEER_RULES.get(recorded["cls"], {})}
    loss = MODELS.build({"type": recorded["cls"], **settings})
    value = loss(logits, label)
    value.sum().backward()
    rec.assert_close(value.detach(), recorded["value"])
    rec.assert_close(logits.grad, recorded["grad"], 1e-5)


# The formulas of the papers, pixel by pixel. Each takes logits (N, K, H, W) and labels (N, H, W).


def pixels(logits, label, ignore_index=255):
    for n in range(len(logits)):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                if label[n, y, x] != ignore_index:
                    yield n, y, x, int(label[n, y, x])


def slow_dice(logits, label):
    total = 0
    for n in range(len(logits)):
        hit, mass = 0, 0
        for m, y, x, k in pixels(logits, label):
            if m == n:
                p = logits[n, :, y, x].exp() / logits[n, :, y, x].exp().sum()
                hit, mass = hit + p[k], mass + p.square().sum() + 1
        total = total + 1 - 2 * hit / (mass + 2e-3)
    return total / len(logits)


def slow_tversky(logits, label, alpha=0.2, beta=0.9, smooth=0.5):
    n_classes, total = logits.shape[1], 0
    for n in range(len(logits)):
        for c in range(n_classes):
            tp, fp, fn = 0, 0, 0
            for m, y, x, k in pixels(logits, label):
                if m == n:
                    p = logits[n, :, y, x].softmax(0)[c]
                    tp, fp, fn = tp + p * (k == c), fp + p * (k != c), fn + (1 - p) * (k == c)
            total = total + 1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)
    return total / len(logits) / n_classes


def slow_focal(logits, label, gamma=1.5, alpha=0.3):
    total = 0
    for n, y, x, k in pixels(logits, label):
        for c in range(logits.shape[1]):
            p = 1 / (1 + (-logits[n, c, y, x]).exp())
            right, share = (p, alpha) if c == k else (1 - p, 1 - alpha)
            total = total - share * (1 - right) ** gamma * right.log()
    return total / logits.numel()


def slow_lovasz(logits, label):
    """Build the Lovász extension from its definition: errors in falling order times set gains."""
    known = list(pixels(logits, label))
    losses = []
    for c in sorted({k for *_, k in known}):
        probability = torch.stack([logits[n, :, y, x].softmax(0)[c] for n, y, x, _ in known])
        truth = torch.tensor([float(k == c) for *_, k in known])
        errors = (truth - probability).abs()
        order = errors.argsort(descending=True).tolist()
        wrong, before, loss = set(), 0.0, 0
        for i in order:
            wrong.add(i)
            positives = {j for j, t in enumerate(truth) if t}
            now = 1 - len(positives - wrong) / len(positives | wrong)
            loss = loss + errors[i] * (now - before)
            before = now
        losses.append(loss)
    return torch.stack(losses).mean()


def slow_ohem(logits, label, thres=0.3, min_kept=20):
    known = list(pixels(logits, label))
    probability = [logits[n, :, y, x].softmax(0)[k] for n, y, x, k in known]
    threshold = max(sorted(p.item() for p in probability)[min(min_kept, len(known) - 1)], thres)
    hard = [-p.log() for p in probability if p.item() < threshold]
    return torch.stack(hard).mean()


def slow_distance(logits, label):
    total = 0
    for n in range(len(logits)):
        p = logits[n].softmax(0)
        truth = torch.where(label[n] == 255, 0, label[n])
        for c in range(1, logits.shape[1]):
            for y in range(p.shape[1]):
                for x in range(p.shape[2]):
                    weight = 0
                    for region in (truth == c, p.argmax(0) == c):
                        outside = (~region).nonzero().tolist()
                        if region[y, x] and outside:
                            weight += min((y - v) ** 2 + (x - u) ** 2 for v, u in outside)
                    total = total + (p[c, y, x] - float(truth[y, x] == c)) ** 2 * weight
    return total / (logits.numel() / logits.shape[1]) / logits.shape[1]


FORMULAS = {
    "DiceLoss": (slow_dice, {"use_sigmoid": False, "mask_ignored": True}),
    "TverskyLoss": (slow_tversky, {"alpha": 0.2, "beta": 0.9, "smooth": 0.5}),
    "FocalLoss": (slow_focal, {"gamma": 1.5, "alpha": 0.3}),
    "LovaszLoss": (slow_lovasz, {}),
    "OhemCrossEntropy": (slow_ohem, {"thres": 0.3, "min_kept": 20}),
    "HuasdorffDisstanceLoss": (slow_distance, {}),
}


@each_case("name", FORMULAS)
def test_value_and_gradient_are_those_of_the_formula(name):
    formula, settings = FORMULAS[name]
    logits = golden()["logits"].clone().requires_grad_()
    label = golden()["label"]
    loss = MODELS.build({"type": name, "loss_weight": 2.0, "loss_name": "loss_x", **settings})
    assert loss.loss_name == "loss_x"
    value, want = loss(logits, label, ignore_index=255), 2 * formula(logits, label)
    assert value.item() == pytest.approx(want.item(), rel=1e-5)
    (grad,) = torch.autograd.grad(value, logits)
    (want_grad,) = torch.autograd.grad(want, logits)
    rec.assert_close(grad, want_grad, 2e-5)


def test_the_divergence_is_zero_for_equal_maps_and_by_hand():
    loss = MODELS.build({"type": "KLDivLoss", "temperature": 2.0, "reduction": "sum"})
    logits = golden()["logits"]
    assert loss(logits, logits).abs().max() < 1e-5
    halves, quarters = torch.zeros(1, 2), torch.tensor([[0.0, 2 * math.log(3)]])  # 1/4 and 3/4
    want = 4 * (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5))
    assert loss(halves, quarters).item() == pytest.approx(want, rel=1e-5)


def test_edges_are_balanced_by_hand():
    # one edge pixel and three others, all with logit 0: log 2 each; weights 3/4 and 1/4 each
    loss = MODELS.build({"type": "BoundaryLoss"})
    edges = torch.tensor([[[1, 0, 0, 0, 255]]])
    value = loss(torch.zeros(1, 1, 1, 5), edges)
    assert value.item() == pytest.approx((3 / 4 + 3 * 1 / 4) * math.log(2) / 5)


def test_a_single_logit_is_that_of_class_1():
    logits = torch.tensor([[[[-20.0, 20.0, 20.0]]]])
    label = torch.tensor([[[0, 1, 1]]])
    for name, settings in [("DiceLoss", {"eps": 0.0}), ("FocalLoss", {})]:
        loss = MODELS.build({"type": name, **settings})
        assert loss(logits, label).item() == pytest.approx(0, abs=1e-6)
        value, correct = loss.upsampled(logits, label, ignore_index=255, align_corners=False)
        assert value.item() == pytest.approx(0, abs=1e-6)
        assert correct is None
        assert loss(-logits, label).item() > 0.3


SMALL = {
    "dice": {"type": "DiceLoss"},
    "dice softmax naive": {"type": "DiceLoss", "use_sigmoid": False, "naive_dice": True},
    "dice without a class": {"type": "DiceLoss", "use_sigmoid": False, "ignore_index": 2},
    "dice of probabilities": {"type": "DiceLoss", "activate": False, "reduction": "sum"},
    "dice masked": {"type": "DiceLoss", "mask_ignored": True, "loss_weight": 0.5},
    "tversky": {"type": "TverskyLoss"},
    "tversky weighted": {"type": "TverskyLoss", "class_weight": [0.5, 1, 2, 0], "alpha": 0.9},
    "focal": {"type": "FocalLoss"},
    "focal weighted": {"type": "FocalLoss", "alpha": [0.1, 0.5, 0.9, 0.3], "gamma": 0.5},
    "focal sum": {"type": "FocalLoss", "class_weight": [1, 2, 3, 4], "reduction": "sum"},
    "ohem": {"type": "OhemCrossEntropy", "min_kept": 50, "thres": 0.2},
    "ohem weighted": {"type": "OhemCrossEntropy", "min_kept": 5, "class_weight": [1, 2, 3, 4]},
}


@each_case("weighted", [False, True])
@each_case("align_corners", [False, True])
@each_case("name", SMALL)
def test_small_logits_give_what_the_upsampled_ones_give(name, align_corners, weighted, monkeypatch):
    monkeypatch.setitem(upsampled.BLOCK_BYTES, "cpu", 1000)  # blocks of a few rows
    generator = torch.Generator().manual_seed(1)
    logits = golden()["logits"].clone().requires_grad_()
    label = torch.randint(0, 4, (2, 15, 20), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    weight = torch.rand(label.shape, generator=generator) if weighted else None
    loss = MODELS.build(SMALL[name])
    assert works_on_small_logits(loss)
    value, correct = loss.upsampled(
        logits, label, weight, ignore_index=255, align_corners=align_corners
    )
    large = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=align_corners)
    want = loss(large, label, weight, ignore_index=255)
    assert value.item() == pytest.approx(want.item(), rel=1e-5)
    right = (large.argmax(1) == label).sum()
    assert correct == (None if name == "dice without a class" else right)
    (grad,) = torch.autograd.grad(3 * value, logits)
    (want_grad,) = torch.autograd.grad(3 * want, logits)
    rec.assert_close(grad, want_grad, 1e-5)


@each_case("name", ["dice", "tversky", "focal"])
def test_ignored_pixels_alone_and_huge_logits_stay_finite(name):
    loss = MODELS.build(SMALL[name])
    for logits, label in [
        (torch.randn(1, 4, 2, 2), torch.full((1, 4, 4), 255)),
        (1e4 * torch.randn(1, 4, 2, 2), torch.zeros(1, 4, 4, dtype=torch.long)),
    ]:
        logits.requires_grad_()
        value, _ = loss.upsampled(logits, label, ignore_index=255, align_corners=False)
        (grad,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_lovasz_of_ignored_pixels_alone_is_zero_and_of_absent_classes_counts_with_all():
    logits = golden()["logits"].clone().requires_grad_()
    for settings in ({}, {"loss_type": "binary"}):
        loss = MODELS.build({"type": "LovaszLoss", **settings})
        x = logits if not settings else logits[:, :1]
        value = loss(x, torch.full((2, 6, 7), 255))
        (grad,) = torch.autograd.grad(value, logits)
        assert value.item() == 0
        assert not grad.any()
    label = torch.zeros(2, 6, 7, dtype=torch.long)
    present, every = (
        MODELS.build({"type": "LovaszLoss", "classes": classes})(logits, label)
        for classes in ("present", "all")
    )
    absent = logits.softmax(1)[:, 1:].flatten(2).transpose(0, 1).flatten(1).amax(1).sum()
    assert every.item() == pytest.approx((present.item() + absent.item()) / 4, rel=1e-5)


COMBINED = [
    {"type": "CrossEntropyLoss", "loss_weight": 0.5},
    {"type": "DiceLoss", "loss_weight": 3.0},
    {"type": "FocalLoss", "loss_weight": 2.0},
    {"type": "TverskyLoss", "loss_name": "loss_dice"},
    {"type": "LovaszLoss", "loss_weight": 0.25},
]


OHEM = {"type": "OHEMPixelSampler", "thresh": 0.7}


@each_case("count, sampler", [(4, None), (5, None), (4, OHEM)])
def test_losses_of_a_list_are_added_by_name_small_or_large(count, sampler):
    results = []
    label = golden()["label"].repeat_interleave(2, 1).repeat_interleave(2, 2).unsqueeze(1)
    for stream in (True, False):
        head = FCNHead(
            in_channels=4, channels=4, num_classes=4, loss_decode=COMBINED[:count],
            sampler=sampler, stream_loss=stream,
        )  # fmt: skip
        x = golden()["logits"].clone().requires_grad_()
        losses = head.loss_by_feat(x, rec.label_samples(label))
        sum(v for k, v in losses.items() if k != "acc_seg").backward()
        results.append((losses, x.grad))
    names = ["loss_ce", "loss_dice", "loss_focal", "loss_lovasz"][: count - 1]
    assert list(results[0][0]) == [*names, "acc_seg"]
    for key, value in results[1][0].items():
        rec.assert_close(results[0][0][key], value, 1e-5)
    rec.assert_close(results[0][1], results[1][1], 1e-5)


def test_a_list_that_needs_no_upsampled_logits_makes_none(monkeypatch):
    from nlseg.models.losses import base

    def never(*_, **__):
        raise AssertionError("upsampled")

    monkeypatch.setattr(base, "resize", never)
    head = FCNHead(in_channels=4, channels=4, num_classes=4, loss_decode=COMBINED[:4])
    label = golden()["label"].repeat_interleave(2, 1).unsqueeze(1)
    assert head.loss_by_feat(golden()["logits"], rec.label_samples(label))["loss_dice"] > 0
    head = FCNHead(in_channels=4, channels=4, num_classes=4, loss_decode=COMBINED)
    with pytest.raises(AssertionError, match="upsampled"):
        head.loss_by_feat(golden()["logits"], rec.label_samples(label))


@each_case(
    "cfg, message",
    [
        ({"type": "FocalLoss", "use_sigmoid": False}, "FocalLoss.use_sigmoid: only True"),
        ({"type": "FocalLoss", "gamma": -1.0}, "FocalLoss.gamma"),
        ({"type": "FocalLoss", "alpha": 1.5}, "FocalLoss.alpha"),
        ({"type": "DiceLoss", "reduction": "max"}, "DiceLoss.reduction"),
        ({"type": "LovaszLoss", "loss_type": "Binary"}, "LovaszLoss.loss_type"),
        ({"type": "LovaszLoss", "classes": "some"}, "LovaszLoss.classes"),
        ({"type": "KLDivLoss", "temperature": 0.0}, "KLDivLoss.temperature"),
        ({"type": "TverskyLoss", "class_weight": "absent.npy"}, "absent.npy is not a file"),
    ],
)
def test_mistakes_are_named(cfg, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(cfg)


def test_losses_say_what_they_cannot_compare():
    logits, label = golden()["logits"], golden()["label"]
    with pytest.raises(ValueError, match="two maps of logits"):
        MODELS.build({"type": "KLDivLoss"})(logits, label)
    with pytest.raises(ValueError, match="one logit a pixel"):
        MODELS.build({"type": "BoundaryLoss"})(logits, label)
    with pytest.raises(ValueError, match="take no weights"):
        MODELS.build({"type": "LovaszLoss"})(logits, label, weight=torch.ones(2, 6, 7))
    label = torch.full_like(label, 77)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        MODELS.build(SMALL["dice"]).upsampled(logits, label, ignore_index=255, align_corners=False)


def test_operators_are_well_formed_for_compilers():
    logits, label = torch.randn(2, 3, 2, 3), torch.randint(0, 3, (2, 4, 5))
    weight, factor = torch.rand(2, 4, 5), torch.rand(3)
    for needs_grad in (False, True):
        x = logits.clone().requires_grad_(needs_grad)
        regions = x, label, weight, "softmax", 2.0, False, 255, False
        torch.library.opcheck(region_loss._region_sums, regions)
        focal = x, label, None, factor, factor, 2.0, 255, False, needs_grad
        torch.library.opcheck(focal_loss._focal_loss, focal)


def test_hard_pixels_leave_out_both_labels_that_do_not_count():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 5, generator=generator)
    label = torch.randint(0, 3, (1, 4, 5), generator=generator)
    label[:, 0] = 255
    loss = MODELS.build({"type": "OhemCrossEntropy", "ignore_label": 2, "thres": 1.0})
    counted = (label != 2) & (label != 255)
    each = torch.nn.functional.cross_entropy(logits, label * counted, reduction="none")
    want = pytest.approx(each[counted].mean().item(), rel=1e-5)
    assert loss(logits, label, ignore_index=255).item() == want
    small, correct = loss.upsampled(logits, label, ignore_index=255, align_corners=False)
    assert small.item() == want
    assert correct is None  # it would count pixels of label 2
