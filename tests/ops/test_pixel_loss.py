"""The streamed loss against interpolate and cross_entropy, which hold the whole map."""

import pytest
import torch
import torch.nn.functional as F

from nlseg.ops import pixel_loss
from nlseg.ops.pixel_loss import upsampled_cross_entropy
from nlseg.ops.upsampled import upsampled_blocks
from tests.cases import each_case

torch.set_num_threads(1)
SIZES = [
    ((4, 6), (32, 48)),
    ((5, 7), (33, 50)),
    ((9, 8), (9, 8)),
    ((6, 5), (3, 4)),
    ((1, 1), (5, 3)),
]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Make blocks of two or three rows, so that small maps have several."""
    monkeypatch.setitem(pixel_loss.BLOCK_BYTES, "cpu", 4000)


def draw(small, large, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, *small, generator=generator)
    label = torch.randint(0, classes, (2, *large), generator=generator)
    label[torch.rand(2, *large, generator=generator) < 0.2] = 255
    weight = torch.rand(2, *large, generator=generator)
    return logits.requires_grad_(), label, weight


def plain(logits, label, weight, align_corners):
    size = label.shape[1:]
    large = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    each = F.cross_entropy(large, label, ignore_index=255, reduction="none")
    right = (large.argmax(1) == label).sum()
    return (each if weight is None else each * weight).sum(), each, right


@each_case("weighted", [False, True])
@each_case("align_corners", [False, True])
@each_case("small, large", SIZES)
def test_values_and_gradient_are_those_of_the_plain_path(small, large, align_corners, weighted):
    logits, label, weight = draw(small, large)
    weight = weight if weighted else None
    want_total, want_each, want_right = plain(logits, label, weight, align_corners)
    (want_grad,) = torch.autograd.grad(2.5 * want_total, logits)
    total, each, right = upsampled_cross_entropy(
        logits, label, weight=weight, align_corners=align_corners
    )
    (grad,) = torch.autograd.grad(2.5 * total, logits)
    assert total.item() == pytest.approx(want_total.item(), rel=1e-5)
    assert torch.allclose(each, want_each, rtol=1e-5, atol=1e-5)
    assert right == want_right
    assert torch.allclose(grad, want_grad, rtol=1e-4, atol=1e-5 * want_grad.abs().max().item())


def test_the_gradient_is_that_of_float64():
    logits, label, weight = draw((3, 4), (7, 9))
    total, _, _ = plain(logits.double(), label, weight.double(), False)
    (want,) = torch.autograd.grad(total, logits)
    total, _, _ = upsampled_cross_entropy(logits, label, weight=weight)
    (grad,) = torch.autograd.grad(total, logits)
    assert (grad - want).abs().max() <= 2e-6 * want.abs().max()


def test_ignored_pixels_alone_give_zero():
    logits, label, _ = draw((2, 2), (8, 8))
    total, each, right = upsampled_cross_entropy(logits, torch.full_like(label, 255))
    (grad,) = torch.autograd.grad(total, logits)
    assert (total.item(), right.item()) == (0.0, 0)
    assert not each.any()
    assert not grad.any()


def test_a_block_has_as_many_rows_as_its_bytes_hold():
    # a row of 48 px and 5 classes is 960 bytes of float32: 4 of them go into 4000
    logits = torch.zeros(1, 5, 4, 6)
    rows = [len(block.logits) for block in upsampled_blocks(logits, (30, 48), align_corners=False)]
    assert rows == [4, 4, 4, 4, 4, 4, 4, 2]


def test_large_logits_overflow_nowhere():
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    total, _, _ = upsampled_cross_entropy(logits, torch.ones(1, 2, 2, dtype=torch.long))
    (grad,) = torch.autograd.grad(total, logits)
    assert total.item() == 4 * 2e4
    assert grad.flatten().tolist() == [4.0, -4.0]


def test_autocast_leaves_statistics_in_float32():
    logits, label, _ = draw((4, 4), (16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _, _ = upsampled_cross_entropy(logits.bfloat16(), label)
    want, _, _ = upsampled_cross_entropy(logits.bfloat16().float(), label)
    assert total.dtype == torch.float32
    assert total.item() == want.item()


def test_tf32_may_be_turned_on_and_off_between_losses():
    logits, label = torch.randn(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64)
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    totals = []
    try:
        for allowed in (True, False, True, before):
            matmul.allow_tf32 = allowed
            totals.append(upsampled_cross_entropy(logits, label)[0].item())
            assert matmul.allow_tf32 == allowed
    finally:
        matmul.allow_tf32 = before
    assert len(set(totals)) == 1


def test_a_label_outside_the_classes_is_refused():
    logits, label, _ = draw((2, 2), (4, 4))
    label[0, 0, 0] = 77
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        upsampled_cross_entropy(logits, label)


def test_no_graph_is_kept_where_nothing_is_trained():
    logits, label, _ = draw((2, 2), (4, 4))
    with torch.no_grad():
        total, _, _ = upsampled_cross_entropy(logits, label)
    assert not total.requires_grad


def test_operator_is_well_formed_for_compilers():
    logits, label, weight = draw((2, 3), (5, 6))
    for needs_grad in (False, True):
        inputs = logits.detach().requires_grad_(needs_grad), label, weight, 255, False, needs_grad
        torch.library.opcheck(pixel_loss._cross_entropy, inputs)


@pytest.mark.slow
def test_it_compiles_without_a_graph_break():
    logits, label, weight = draw((4, 6), (8, 12))

    def loss(logits):
        return upsampled_cross_entropy(logits * 2, label, weight=weight)[0] / label.numel()

    want = loss(logits)
    (want_grad,) = torch.autograd.grad(want, logits)
    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(logits)
    (grad,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(want.item(), rel=1e-6)
    assert torch.allclose(grad, want_grad, atol=1e-7)
