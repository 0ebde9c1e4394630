import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from nlseg.errors import ConfigError
from nlseg.models import CrossEntropyLoss, accuracy
from nlseg.registry import MODELS, TASK_UTILS
from tests.cases import each_case
from tests.models import recorded as rec

VARIANTS = {
    "default": {},
    "avg_non_ignore": {"avg_non_ignore": True},
    "loss_weight0.4": {"loss_weight": 0.4},
    "all_ignored": {},
    "all_ignored_avg_non_ignore": {"avg_non_ignore": True},
    "class_weight_no_ignored": {"class_weight": [0.5, 1.0, 2.0, 1.0, 0.3, 1.5, 1.0]},
}


@each_case("name", VARIANTS)
def test_value_and_gradient_are_the_recorded_ones(name):
    recorded = rec.golden()["loss_variants"]
    label = recorded["label"].long()
    if name.startswith("all_ignored"):
        label = torch.full_like(label, 255)
    if name.endswith("no_ignored"):
        label[label == 255] = 6
    logits = recorded["logits"].clone().requires_grad_()
    loss = MODELS.build({"type": "CrossEntropyLoss", **VARIANTS[name]})
    value = loss(logits, label, ignore_index=255)
    value.backward()
    rec.assert_close(value, recorded["results"][name]["value"])
    rec.assert_close(logits.grad[:, :, ::4, ::4], recorded["results"][name]["grad"])


# Two pixels of two classes with logits 0 and log 3, so probabilities 1/4 and 3/4, and one ignored:
# cross-entropies log 4 (label 0) and log(4/3) (label 1).
LOGITS = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
LABEL = torch.tensor([[[0, 1, 255]]])
CE_0, CE_1 = math.log(4), math.log(4 / 3)


@each_case(
    "arguments, value",
    [
        ({}, (CE_0 + CE_1) / 3),
        ({"avg_non_ignore": True}, (CE_0 + CE_1) / 2),
        ({"reduction": "sum"}, CE_0 + CE_1),
        ({"class_weight": [1.0, 1.0]}, (CE_0 + CE_1) / 2),
        ({"class_weight": [2.0, 5.0]}, (2 * CE_0 + 5 * CE_1) / (2 + 5)),
        ({"class_weight": [2.0, 5.0], "avg_non_ignore": True}, (2 * CE_0 + 5 * CE_1) / 7),
        ({"use_sigmoid": True}, (2 * math.log(2) + CE_0 + CE_1) / 6),
    ],
)
def test_averages_by_hand(arguments, value):
    # sigmoid: class 0 has logit 0, so log 2 at both pixels; class 1 has probability 3/4,
    # so log 4 where it is wrong and log 4/3 where it is right: (2 log 2 + log 4 + log 4/3) / 6
    assert CrossEntropyLoss(**arguments)(LOGITS, LABEL, ignore_index=255) == pytest.approx(
        value, rel=1e-6
    )


@each_case("avg_non_ignore", [False, True])
@each_case("ignore_index", [255, 0, 3])
def test_class_weights_are_averaged_over_the_pixels_that_are_not_ignored(
    ignore_index, avg_non_ignore
):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 4, 5, generator=generator)
    label = torch.randint(0, 4, (1, 4, 5), generator=generator)
    label[:, 0] = ignore_index
    class_weight = [0.5, 2.0, 1.0, 3.0]
    total = divisor = 0.0
    for y in range(4):
        for x in range(5):
            if (k := label[0, y, x].item()) != ignore_index:
                each = math.log(sum(math.exp(v) for v in logits[0, :, y, x].tolist()))
                total += class_weight[k] * (each - logits[0, k, y, x].item())
                divisor += class_weight[k]
    loss = CrossEntropyLoss(class_weight=class_weight, avg_non_ignore=avg_non_ignore)
    want = pytest.approx(total / divisor, rel=1e-5)
    assert loss(logits, label, ignore_index=ignore_index).item() == want
    small, _ = loss.upsampled(logits, label, ignore_index=ignore_index, align_corners=False)
    assert small.item() == want


def test_class_weights_beside_ignored_pixels_follow_torch_when_averaging_over_valid_ones():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator)
    label = torch.randint(0, 5, (2, 6, 7), generator=generator)
    label[:, :2] = 255
    weight = torch.rand(5, generator=generator) + 0.1
    ours = CrossEntropyLoss(class_weight=weight.tolist(), avg_non_ignore=True)
    want = F.cross_entropy(logits, label, weight=weight, ignore_index=255)
    assert ours(logits, label, ignore_index=255) == pytest.approx(want.item(), rel=1e-6)


def test_sigmoid_class_weight_multiplies_the_positive_term_of_its_class():
    loss = CrossEntropyLoss(use_sigmoid=True, class_weight=[7.0, 5.0], reduction="none")
    value = loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
    assert value.flatten().tolist() == pytest.approx([math.log(2) * k for k in (7, 1, 1, 5)])


def test_sigmoid_over_valid_pixels_divides_by_them_times_the_classes():
    loss = CrossEntropyLoss(use_sigmoid=True, avg_non_ignore=True)
    value = loss(torch.zeros(1, 3, 1, 3), LABEL, ignore_index=255)  # log 2 at each logit
    assert value.item() == pytest.approx(math.log(2), rel=1e-6)


def test_reduction_none_and_pixel_weights():
    weight = torch.tensor([[[2.0, 0.0, 1.0]]])
    value = CrossEntropyLoss(reduction="none")(LOGITS, LABEL, weight=weight, ignore_index=255)
    assert value.flatten().tolist() == pytest.approx([2 * CE_0, 0.0, 0.0])


def test_avg_factor_divides_and_is_refused_with_sum():
    loss = CrossEntropyLoss()
    value = loss(LOGITS, LABEL, avg_factor=10, ignore_index=255)
    assert value == pytest.approx((CE_0 + CE_1) / 10)
    with pytest.raises(ValueError, match="avg_factor"):
        loss(LOGITS, LABEL, avg_factor=10, reduction_override="sum", ignore_index=255)


def test_class_weights_are_read_from_files(tmp_path):
    values = [0.5, 2.0]
    np.save(tmp_path / "w.npy", np.array(values))
    (tmp_path / "w.json").write_text(json.dumps(values))
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(values))
    for name in ("w.npy", "w.json", "w.yaml"):
        loss = CrossEntropyLoss(class_weight=str(tmp_path / name))
        assert loss.class_weight.tolist() == values
        assert not loss.state_dict()


@each_case("name, content", [("w.pkl", b""), ("w.json", b'{"a": 1}'), ("absent.npy", None)])
def test_unusable_weight_files_are_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        CrossEntropyLoss(class_weight=str(tmp_path / name))


@each_case("thresh, min_kept", [(0.7, 50), (0.3, 100), (None, 60)])
def test_ohem_keeps_the_recorded_pixels(thresh, min_kept):
    recorded = rec.golden()["loss_variants"]
    want = recorded["results"][f"ohem|thresh={thresh}|min_kept={min_kept}"]
    sampler = {"type": "OHEMPixelSampler", "thresh": thresh, "min_kept": min_kept}
    head = MODELS.build({"type": "FCNHead", "in_channels": 1, "channels": 1, "num_classes": 7})
    sampler = TASK_UTILS.build(sampler, default_args={"context": head})
    label = recorded["label"].long()
    weight = sampler.sample(recorded["logits"], label.unsqueeze(1))
    assert torch.equal(weight, want["weight"])
    loss = head.loss_decode(recorded["logits"], label, weight=weight, ignore_index=255)
    rec.assert_close(loss, want["loss"])


def test_ohem_by_hand_counts_min_kept_for_every_image_of_the_batch():
    # true-class probabilities .1 .2 .6 and .3 .7 .8: with 1 pixel kept in each of 2 images, the
    # threshold rises from .15 to the third smallest, .3, and what is below it counts
    probability = torch.tensor([[[0.1, 0.2, 0.6]], [[0.3, 0.7, 0.8]]])
    logits = torch.stack([probability, 1 - probability], dim=1).log()
    head = MODELS.build({"type": "FCNHead", "in_channels": 1, "channels": 1, "num_classes": 3})
    sampler = {"type": "OHEMPixelSampler", "thresh": 0.15, "min_kept": 1}
    sampler = TASK_UTILS.build(sampler, default_args={"context": head})
    label = torch.zeros(2, 1, 3, dtype=torch.long)
    want = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert sampler.sample(logits, label.unsqueeze(1)).flatten().tolist() == want
    assert sampler.sample_upsampled(logits, label, False).flatten().tolist() == want


def test_accuracy_is_the_recorded_one_and_by_hand():
    recorded = rec.golden()["loss_variants"]
    label = recorded["label"].long()
    want = recorded["results"]["accuracy"]
    assert torch.equal(accuracy(recorded["logits"], label, 255), want["ignore=255"])
    label[label == 255] = 6
    assert torch.equal(accuracy(recorded["logits"], label), want["ignore=None"])
    assert accuracy(LOGITS, LABEL, 255).tolist() == pytest.approx([50.0])
    single = torch.tensor([[[[-2.0, 2.0, 2.0]]]])
    assert accuracy(single, torch.tensor([[[0, 1, 0]]]), 255, threshold=0.5) == pytest.approx(
        200 / 3
    )
