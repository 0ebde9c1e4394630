import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlseg.ops.relu_attention import relu_attention
from tests.cases import each_case


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def plain(a, b, value):
    weight_NLS = torch.relu(a[:, :, None] + b[:, None, :]) / b.shape[1]
    return value @ weight_NLS.mT


def test_sum_by_hand():
    # a = 1 sees b = 3 and -0.5 (weights 4 and 1/2), not -2; the mean is over all three
    a, b = torch.tensor([[1.0]]), torch.tensor([[-2.0, 3.0, -0.5]])
    value = torch.tensor([[[10.0, 1.0, 2.0]]])
    assert relu_attention(a, b, value).item() == pytest.approx((4 * 1 + 0.5 * 2) / 3)


def test_positions_that_see_nothing_get_zero():
    a, b = torch.tensor([[-5.0, -1.0]]), torch.tensor([[1.0, 0.5]])
    assert relu_attention(a, b, torch.ones(1, 3, 2)).count_nonzero() == 0


@each_case("length, keys", [(1, 1), (1, 9), (9, 1), (12, 7), (20, 20)])
def test_values_and_gradients_are_the_plain_formula(length, keys):
    shapes = (2, length), (2, keys), (2, 3, keys)
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    grad = torch.randn(2, 3, length, dtype=torch.float64)
    ours, true = relu_attention(*inputs), plain(*inputs)
    torch.testing.assert_close(ours, true, rtol=0, atol=1e-13)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(true, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.lists(st.integers(-3, 3), min_size=1)
)
def test_ties_and_repeats_have_the_gradients_of_relu(a, b):
    # with whole numbers many sums are exactly 0, where the gradient of ReLU is 0
    inputs = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (a, b)]
    inputs.append(torch.arange(len(b), dtype=torch.float64).view(1, 1, -1).requires_grad_())
    ours, true = relu_attention(*inputs), plain(*inputs)
    torch.testing.assert_close(ours, true, rtol=0, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours.sum(), inputs),
        torch.autograd.grad(true.sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_float32_is_about_as_close_as_the_plain_formula(offset):
    exact = [torch.randn(s, dtype=torch.float64) for s in ((1, 4096), (1, 4096), (1, 4, 4096))]
    exact[0] += offset
    exact[1] -= offset
    true = plain(*exact)
    inputs = [x.float() for x in exact]
    error = (relu_attention(*inputs) - true).abs().max()
    assert error <= 1e-6 * (1 + offset)
    assert error <= 10 * (plain(*inputs) - true).abs().max() + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_lose_only_their_own_rounding(dtype):
    inputs = [torch.randn(s).to(dtype) for s in ((1, 50), (1, 60), (1, 4, 60))]
    ours = relu_attention(*inputs)
    assert ours.dtype == dtype
    true = plain(*(x.double() for x in inputs))
    torch.testing.assert_close(ours.double(), true, rtol=torch.finfo(dtype).eps, atol=1e-6)
