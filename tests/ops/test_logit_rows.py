import pytest
import torch
import torch.nn.functional as F

from nlseg.ops import logit_rows
from nlseg.ops.logit_rows import Averaged, Held, Resized, Restored, label_map, whole_map
from nlseg.ops.resize import AxisTaps
from tests.cases import each_case

torch.set_num_threads(1)
SIZES = [
    ((4, 6), (32, 48)),
    ((5, 7), (33, 50)),
    ((9, 8), (4, 3)),
    ((3, 3), (3, 11)),
    ((1, 2), (6, 5)),
]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Make blocks of two or three rows, so that small maps have several."""
    monkeypatch.setitem(logit_rows.BLOCK_BYTES, "cpu", 2000)


def upsample(logits, size, align_corners):
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=align_corners)[0]


@each_case("align_corners", [False, True])
@each_case("small, large", SIZES)
def test_rows_are_those_of_the_whole_map(small, large, align_corners):
    logits = torch.randn(7, *small)
    source = Resized(Held(logits), large, align_corners=align_corners)
    assert torch.allclose(whole_map(source), upsample(logits, large, align_corners), atol=1e-6)


@each_case("factor", [2, 4, 8])
def test_labels_are_exact_where_the_arithmetic_is(factor):
    # eighths times powers of two: no rounding on any machine, and many ties
    logits = torch.randint(-8, 8, (19, 12, 10)) / 8.0
    size = (12 * factor, 10 * factor)
    source = Resized(Held(logits), size, align_corners=False)
    assert torch.equal(label_map(source), upsample(logits, size, False).argmax(0, keepdim=True))


@each_case("flip", [(False, True), (True, False), (True, True), (False, False)])
def test_padding_flip_and_second_resize_are_undone_in_this_order(flip):
    logits = torch.randn(5, 6, 8)
    source = Resized(Held(logits), (48, 64), align_corners=False)
    source = Restored(source, (3, 4, 1, 2), flip)
    source = Resized(source, (31, 77), align_corners=False)
    want = upsample(logits, (48, 64), False)[:, 1:46, 3:60]
    want = want.flip([axis + 1 for axis in (0, 1) if flip[axis]])
    want = upsample(want, (31, 77), False)
    assert torch.allclose(whole_map(source), want, atol=1e-6)


def test_rows_at_once_are_the_rows_one_by_one():
    wide, top = torch.randn(4, 5, 3), 7
    taps = AxisTaps(
        torch.tensor([0, 0, 1, 3]) + top,
        torch.tensor([0, 1, 2, 3]) + top,
        torch.tensor([1.0, 0.25, 0.75, 1.0]),
        torch.tensor([0.0, 0.75, 0.25, 0.0]),
    )
    want = torch.stack(
        [wide[0], wide[0] / 4 + wide[1] * 3 / 4, wide[1] * 3 / 4 + wide[2] / 4, wide[3]]
    )
    for blend in (logit_rows.blend_rows, logit_rows.blend_block):
        torch.testing.assert_close(blend(wide, top, taps), want, rtol=0, atol=1e-6)


def test_rows_may_be_read_in_any_order():
    logits = torch.randn(3, 6, 5)
    want = upsample(logits, (24, 20), False).permute(1, 2, 0)
    source = Resized(Held(logits), (24, 20), align_corners=False)
    for top, bottom in [(20, 24), (0, 3), (3, 4), (2, 9), (23, 24), (9, 12), (0, 24)]:
        torch.testing.assert_close(source.rows(top, bottom), want[top:bottom], rtol=0, atol=1e-6)


def test_equal_logits_give_the_first_class():
    assert not label_map(Resized(Held(torch.zeros(4, 2, 2)), (9, 9), align_corners=False)).any()


def test_probabilities_are_averaged_over_sources():
    views = [torch.randn(3, 6, 8) for _ in range(4)]
    want = torch.stack([view.softmax(0) for view in views]).mean(0)
    source = Averaged([Held(view) for view in views])
    assert torch.allclose(whole_map(source), want, atol=1e-6)
    assert torch.equal(label_map(source), want.argmax(0, keepdim=True))
    views = [view.requires_grad_() for view in views]
    rows = Averaged([Held(view) for view in views]).rows(0, 6).permute(2, 0, 1)
    assert torch.allclose(rows, want, atol=1e-6)
    factor = torch.randn(3, 6, 8)
    grads = torch.autograd.grad((rows * factor).sum(), views)
    plain = torch.stack([view.softmax(0) for view in views]).mean(0)
    wants = torch.autograd.grad((plain * factor).sum(), views)
    for grad, expected in zip(grads, wants, strict=True):
        assert torch.allclose(grad, expected, atol=1e-6)


def test_a_single_class_is_told_by_its_probability():
    logits = torch.tensor([[[-1.0, 0.0, 1.0]]])
    assert label_map(Averaged([Held(logits)]), 0.6).tolist() == [[[0, 0, 1]]]
    assert label_map(Averaged([Held(logits)]), 0.2).tolist() == [[[1, 1, 1]]]


def test_reading_does_not_change_what_is_held():
    logits = torch.randn(3, 4, 4)
    before = logits.clone()
    label_map(Averaged([Held(logits), Held(logits)]))
    Held(logits).rows(0, 4).zero_()
    assert torch.equal(logits, before)


def test_half_precision_logits_are_read_in_float32():
    logits = torch.randn(3, 4, 4)
    halved = Resized(Held(logits.bfloat16()), (16, 16), align_corners=False)
    want = upsample(logits.bfloat16().float(), (16, 16), False)
    assert torch.allclose(whole_map(halved), want, atol=1e-6)


def test_no_more_than_one_block_of_rows_is_made_at_a_time(monkeypatch):
    made = []

    class Counting(Held):
        def rows(self, top, bottom):
            made.append(bottom - top)
            return super().rows(top, bottom)

    label_map(Resized(Counting(torch.randn(3, 16, 16)), (128, 128), align_corners=False))
    assert max(made) <= 2
    assert sum(made) == 16
