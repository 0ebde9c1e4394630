from typing import Any

import pytest
import torch
from torch import nn

from nlseg.errors import ConfigError
from nlseg.run.half import AmpOptimWrapper
from nlseg.run.processes import Agreement
from nlseg.run.step import OptimWrapper
from tests.cases import each_case


def make(kind: type[OptimWrapper] = OptimWrapper, **options: Any) -> tuple[nn.Linear, OptimWrapper]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    fused = options.pop("fused", None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    wrapper = kind(optimizer, **options)
    wrapper.agreement = Agreement(torch.device("cpu"))
    return model, wrapper


def step(model: nn.Module, wrapper: OptimWrapper, scale: float = 1.0) -> bool:
    with wrapper.optim_context(model):
        loss = model(torch.ones(4, 3)).square().mean() * scale
    wrapper.update_params(loss)
    assert wrapper.agreement is not None
    (verdict,) = wrapper.agreement.close(0)
    return verdict.non_finite


def test_plain_step_equals_the_optimizers() -> None:
    model, wrapper = make()
    before = model.weight.detach().clone()
    gradient = torch.autograd.grad(model(torch.ones(4, 3)).square().mean(), model.weight)[0]
    assert not step(model, wrapper)
    torch.testing.assert_close(model.weight, before - 0.1 * gradient)


@each_case("fused", [None, True])
@each_case("scale", [float("nan"), float("inf")])
def test_bad_number_leaves_the_step_out(scale: float, fused: bool | None) -> None:
    good, good_wrapper = make(fused=fused)
    bad, bad_wrapper = make(fused=fused)
    assert step(bad, bad_wrapper, scale)  # also as the very first step
    assert not step(good, good_wrapper)
    assert not step(bad, bad_wrapper)
    assert torch.equal(good.weight, bad.weight)
    assert step(bad, bad_wrapper, scale)
    assert not step(good, good_wrapper)
    assert not step(bad, bad_wrapper)
    assert torch.equal(good.weight, bad.weight)


def test_gradient_alone_may_be_bad() -> None:
    model, wrapper = make()
    model.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = model.weight.detach().clone()
    assert step(model, wrapper)
    assert torch.equal(model.weight, before)
    assert wrapper.gradient_norms is not None
    assert wrapper.gradient_norms.isfinite().tolist() == [False, True]  # weight, bias


def test_accumulation_equals_the_joined_batch() -> None:
    one, one_wrapper = make()
    two, two_wrapper = make(accumulative_counts=2)
    inputs = torch.randn(4, 3)
    one_wrapper.update_params(one(inputs).square().mean())
    for part in inputs.chunk(2):
        two_wrapper.update_params(two(part).square().mean())
    torch.testing.assert_close(one.weight, two.weight)


def test_clipping_limits_the_norm() -> None:
    model, wrapper = make(clip_grad={"max_norm": 0.01})
    before = [p.detach().clone() for p in model.parameters()]
    step(model, wrapper)
    moved = torch.cat([(p - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-4)


def test_bfloat16_trains_on_the_cpu_without_a_scaler() -> None:
    model, wrapper = make(AmpOptimWrapper)
    assert isinstance(wrapper, AmpOptimWrapper)
    assert wrapper.dtype == torch.bfloat16
    assert not wrapper.loss_scaler.is_enabled()
    with wrapper.optim_context(model):
        assert model(torch.ones(4, 3)).dtype == torch.bfloat16
    assert not step(model, wrapper)
    assert step(model, wrapper, float("nan"))


def test_overflow_under_the_scaler_is_no_error() -> None:
    model, wrapper = make(AmpOptimWrapper, dtype="float16", loss_scale={"init_scale": 2.0**120})
    assert isinstance(wrapper, AmpOptimWrapper)
    before = model.weight.detach().clone()
    assert not step(model, wrapper)  # gradients of about 2^118 are beyond float16
    assert torch.equal(model.weight, before)
    assert wrapper.loss_scaler.get_scale() == 2.0**119


def test_training_goes_on_where_the_scale_has_fallen_enough() -> None:
    model, wrapper = make(AmpOptimWrapper, dtype="float16", loss_scale={"init_scale": 2.0**24})
    assert isinstance(wrapper, AmpOptimWrapper)
    before, scales = model.weight.detach().clone(), []
    while torch.equal(model.weight, before):
        assert not step(model, wrapper)
        scales.append(wrapper.loss_scaler.get_scale())
    assert 2.0**10 < scales[-1] < 2.0**20
    assert scales == [2.0 ** (23 - i) for i in range(len(scales) - 1)] + scales[-2:-1]
    assert not step(model, wrapper)
    assert wrapper.loss_scaler.get_scale() == scales[-1]


def test_scale_that_has_sunk_below_one_is_an_error() -> None:
    model, wrapper = make(AmpOptimWrapper, dtype="float16", loss_scale={"init_scale": 0.5})
    assert not step(model, wrapper)
    model.weight.register_hook(lambda gradient: gradient * float("inf"))
    assert step(model, wrapper)


def test_scaler_state_is_saved_and_restored() -> None:
    _, wrapper = make(AmpOptimWrapper, dtype="float16", loss_scale={"init_scale": 8.0})
    _, other = make(AmpOptimWrapper, dtype="float16")
    other.load_state_dict(wrapper.state_dict())
    assert isinstance(other, AmpOptimWrapper)
    assert other.loss_scaler.state_dict() == wrapper.loss_scaler.state_dict()


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigError, match="'float8' is not one of 'float16', 'bfloat16'"):
        make(AmpOptimWrapper, dtype="float8")
