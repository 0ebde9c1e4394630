import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from nlseg.ops import tiled_attention as module
from nlseg.ops.attention import as_head, fused_attention, softmax_attention
from nlseg.ops.tiled_attention import product, tiled_attention
from tests.cases import each_case


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    monkeypatch.setattr(module, "LONG_SIDE", 8)
    monkeypatch.setattr(module, "SHORT_SIDE", 3)


def draw(num=2, length=10, keys=7, channels=4, value_channels=5, dtype=torch.float64, size=1.0):
    shapes = (num, length, channels), (num, keys, channels), (num, keys, value_channels)
    return [torch.randn(s, dtype=torch.float64).mul(size).to(dtype) for s in shapes]


def plain(query, key, value, scale):
    return (query @ key.mT * scale).softmax(2) @ value


def test_result_by_hand():
    # scores 0 and ln 3: weights 1/4 and 3/4 of the values 4 and 8
    query, key = torch.ones(1, 1, 1), torch.tensor([[[1.0], [3.0]]]).log()
    value = torch.tensor([[[4.0], [8.0]]])
    context, log2_total = tiled_attention(query, key, value, 1.0)
    assert context.item() == pytest.approx(7.0)
    assert log2_total.item() == pytest.approx(2.0)  # 1 + 3


@each_case("length", [1, 8, 10, 24])
@each_case("keys", [1, 3, 7, 12])
def test_values_and_gradients_are_the_plain_formula(length, keys):
    inputs = [x.requires_grad_() for x in draw(length=length, keys=keys)]
    grad = torch.randn(2, length, 5, dtype=torch.float64)
    ours, true = softmax_attention(*inputs, 0.7), plain(*inputs, 0.7)
    torch.testing.assert_close(ours, true, rtol=0, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(true, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_gradients_are_finite_differences():
    inputs = [x.requires_grad_() for x in draw(1, 4, 5, 2, 2)]
    assert torch.autograd.gradcheck(lambda *x: tiled_attention(*x, 0.7)[0], inputs)


@each_case("size", [1e-20, 1.0, 100.0])
def test_scores_of_any_size_neither_overflow_nor_vanish(size):
    query, key, value = draw(size=size, dtype=torch.float32)
    inputs = [x.requires_grad_() for x in (query, key, value / size)]
    ours = softmax_attention(*inputs, 1.0)
    true = plain(*(x.double() for x in inputs), 1.0)
    torch.testing.assert_close(ours.double(), true, rtol=0, atol=2e-3 if size > 1 else 1e-6)
    assert all(g.isfinite().all() for g in torch.autograd.grad(ours.sum(), inputs))


def test_a_late_large_score_takes_over():
    query, key = torch.ones(1, 1, 1), torch.tensor([-500.0, 0.0, 1.0, 2.0, 3.0, 4.0, 900.0])
    value = torch.arange(7.0).view(1, 7, 1)
    assert softmax_attention(query, key.view(1, 7, 1), value, 1.0).item() == 6.0
    assert softmax_attention(query, key.flip(0).view(1, 7, 1), value, 1.0).item() == 0.0


def test_not_a_number_is_not_hidden():
    query, key, value = draw(dtype=torch.float32)
    key[0, 2] = torch.nan
    context = softmax_attention(query, key, value, 1.0)
    assert context[0].isnan().all()
    assert context[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_lose_only_their_own_rounding(dtype):
    inputs = draw(length=40, keys=60, channels=16, dtype=dtype)
    context, log2_total = tiled_attention(*inputs, 0.25)
    true = plain(*(x.double() for x in inputs), 0.25)
    assert (context.dtype, log2_total.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(context.double(), true, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_autocast_changes_nothing():
    inputs = [x.requires_grad_() for x in draw(dtype=torch.float32)]
    expected = tiled_attention(*inputs, 0.7)[0]
    expected_grads = torch.autograd.grad(expected.sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = tiled_attention(*inputs, 0.7)[0]
        grads = torch.autograd.grad(context.sum(), inputs)
    assert torch.equal(context, expected)
    for ours, other in zip(grads, expected_grads, strict=True):
        assert torch.equal(ours, other)


def test_operator_keeps_its_promises_to_autograd_and_fake_tensors():
    inputs = [x.requires_grad_() for x in draw()]
    torch.library.opcheck(tiled_attention, (*inputs, 0.7))


def test_channels_filled_up_for_the_fused_kernels_change_nothing():
    inputs = draw(dtype=torch.float32)
    heads = [as_head(x) for x in inputs]
    assert [head.shape[3] for head in heads] == [8, 8, 8]
    assert all(head.is_contiguous() for head in heads)
    context = fused_attention(*heads, 0.7)[:, 0, :, :5]
    torch.testing.assert_close(context, plain(*inputs, 0.7))


def test_inputs_may_lie_in_any_order_in_memory():
    query, key, value = draw(length=6, keys=6)
    expected = softmax_attention(query, key, value, 0.7)
    strided = [x.mT.contiguous().mT for x in (query, key, value)]
    torch.testing.assert_close(softmax_attention(*strided, 0.7), expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(torch.__version__ < "2.6", reason="torch does not count custom operators")
def test_products_are_counted():
    inputs = [x.requires_grad_() for x in draw(2, 10, 7, 4, 5)]
    with FlopCounterMode(display=False) as counter:
        context = tiled_attention(*inputs, 1.0)[0]
    assert counter.get_total_flops() == 2 * (2 * 10 * 7) * (4 + 5)
    with FlopCounterMode(display=False) as counter:
        context.sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 10 * 7) * (3 * 4 + 2 * 5)


@each_case("num_rows", [1, 31, 32, 96])
@each_case("dtype", [torch.float32, torch.float64])
def test_product_is_a_linear_layer(num_rows, dtype):
    rows, weights, bias = (torch.randn(s, dtype=dtype) for s in ((num_rows, 5), (3, 5), (3,)))
    expected = F.linear(rows.double(), weights.double(), bias.double()).to(dtype)
    torch.testing.assert_close(product(rows, weights, bias), expected)
    strided = rows.t().contiguous().t(), weights.t().contiguous().t()
    torch.testing.assert_close(product(*strided, bias), expected)


def test_float32_products_run_as_convolutions(monkeypatch):
    # F.linear would take twice as long on AMD; nothing else in the tests would notice
    monkeypatch.setattr(F, "linear", None)
    softmax_attention(*(x.float() for x in draw()), 1.0)
