"""The Triton kernel of the loss, by Triton's interpreter on the CPU, against the plain formula.

TRITON_INTERPRET=1 python -m pytest tests/ops/test_triton_loss.py, where Triton is installed, as
``tools/run_emulated_gpu_tests.sh`` does it.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from nlseg.models.losses import CrossEntropyLoss
from nlseg.ops.pixel_loss import cross_entropy_by_blocks

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton", minversion="3.2")
from nlseg.ops.triton_loss import (
    COLUMNS,
    fused_cross_entropy,
    make_plan,
    takes,
)

SIZES = [
    ((3, 4), (24, 32)),  # eight rows a run, and two blocks of columns
    ((2, 3), (7, 19)),  # runs of several lengths
    ((3, 5), (3, 5)),
    ((6, 5), (3, 4)),
    ((1, 1), (4, 3)),
]


def draw(small, large, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, *small, generator=generator)
    label = torch.randint(0, classes, (2, *large), generator=generator)
    label[torch.rand(2, *large, generator=generator) < 0.2] = 255
    return logits.requires_grad_(), label, torch.rand(2, *large, generator=generator)


def plain(logits, label, weight, align_corners, ignore_index=255):
    """Return what the kernel should, by float64 on the whole map."""
    size = label.shape[1:]
    wide = logits.double()
    large = F.interpolate(wide, size, mode="bilinear", align_corners=align_corners)
    each = F.cross_entropy(large, label.long(), ignore_index=ignore_index, reduction="none")
    total = (each if weight is None else each * weight).sum()
    (grad,) = torch.autograd.grad(total, logits)
    return total, each, (large.argmax(1) == label).sum(), grad


def compare(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        largest = max(theirs.abs().max().item(), 1.0)
        assert (ours.double() - theirs.double()).abs().max() <= 2e-6 * largest


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_losses_and_gradient_are_those_of_float64(small, large, align_corners, weighted):
    logits, label, weight = draw(small, large)
    weight = weight if weighted else None
    assert takes(logits, large, align_corners)
    found = fused_cross_entropy(logits.detach(), label, weight, 255, align_corners, True)
    compare(found, plain(logits, label, weight, align_corners))


@pytest.mark.parametrize("classes", [1, 2, 16, 19])
def test_any_number_of_classes(classes):
    logits, label, weight = draw((2, 3), (8, 12), classes)
    found = fused_cross_entropy(logits.detach(), label, weight, 255, False, True)
    compare(found, plain(logits, label, weight, False))


def test_ignored_pixels_and_rows_count_nothing():
    logits, label, _ = draw((2, 2), (6, 8))
    label[0] = 255
    label[1, :3] = 255
    found = fused_cross_entropy(logits.detach(), label, None, 255, False, True)
    compare(found, plain(logits, label, None, False))
    assert not found[1][0].any()
    assert not found[3][0].any()
    nothing = fused_cross_entropy(
        logits.detach(), label[:1].expand(2, 6, 8), None, 255, False, True
    )
    assert not any(part.any() for part in nothing)


def test_a_class_may_be_the_ignored_one():
    logits, label, _ = draw((2, 2), (6, 8))
    label[label == 255] = 0
    found = fused_cross_entropy(logits.detach(), label, None, 2, False, True)
    compare(found, plain(logits, label, None, False, ignore_index=2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_and_logits_of_any_layout(dtype):
    logits, label, _ = draw((3, 4), (6, 8))
    narrow = label.to(dtype).mT.contiguous().mT
    channels_last = logits.detach().contiguous(memory_format=torch.channels_last)
    found = fused_cross_entropy(channels_last, narrow, None, 255, False, True)
    compare(found, plain(logits, label, None, False))


def test_without_gradient_and_with_large_logits():
    logits, label, weight = draw((2, 2), (4, 4))
    found = fused_cross_entropy(1e4 * logits.detach(), label, weight, 255, False, False)
    expected = cross_entropy_by_blocks(1e4 * logits.detach(), label, weight, 255, False, False)
    assert found[3].shape == (0,)
    assert all(torch.allclose(*pair, rtol=1e-6) for pair in zip(found, expected, strict=True))


def test_a_label_outside_the_classes_makes_the_loss_nan():
    logits, label, _ = draw((2, 2), (4, 4))
    label[:] = 1
    for wrong in (-1, 5, 40):
        label[0, 0, 0] = wrong
        total, each, _, _ = fused_cross_entropy(logits.detach(), label, None, 255, False, True)
        assert total.isnan()
        assert each.isnan().sum() == 1


def test_class_weights_of_the_loss_reach_the_kernel():
    loss = CrossEntropyLoss(class_weight=[1.0, 0.0, 3.0, 0.5, 2.0], avg_non_ignore=True)
    logits, label, _ = draw((2, 3), (6, 8))
    weight = loss.pixel_weight(label, 255)
    found = fused_cross_entropy(logits.detach(), label, weight, 255, False, True)
    compare(found, plain(logits, label, weight, False))


def test_what_does_not_fit_is_left_to_blocks():
    assert takes(torch.empty(1, 150, 64, 64), (512, 512), False)
    assert takes(torch.empty(1, 256, 4, 4), (32, 32), False)  # as much as there is room for
    assert not takes(torch.empty(1, 257, 4, 4), (32, 32), False)
    assert not takes(torch.empty(1, 150, 64, 640), (64, 64), False)  # 160 columns of logits for 16
    assert not takes(torch.empty(0, 5, 4, 4), (32, 32), False)


def test_runs_of_rows_share_two_rows_of_the_logits():
    plan = make_plan((3, 4), (24, 32), False, torch.device("cpu"))
    assert plan.starts.tolist() == [0, 4, 12, 20, 24]
    assert plan.longest == 8
    assert plan.sources == 16
    assert COLUMNS == 16
