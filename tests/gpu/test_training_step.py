"""Training and evaluation on a GPU: nothing waits, memory stays linear, compiled code agrees."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from benchmark.measure import Plan, peak_memory
from benchmark.networks import BEST, PLAIN
from benchmark.suite import Suite
from nlseg.ops.synchronized_norm import ALMOST_NOTHING
from nlseg.registry import HOOKS
from nlseg.run.device import compile_network
from nlseg.run.fast import apply, find_hardware, training_choices
from nlseg.run.half import AmpOptimWrapper
from nlseg.run.processes import Agreement
from nlseg.run.runner import Runner
from tests.run.tiny_segmentor import labelled, tiny_run, tiny_segmentor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PLAN = Plan(device="cuda")
GIB = 2**30


@HOOKS.register_module(force=True)
class RefuseToWait(Hook):
    """Let every operation that waits for the device raise, in ordinary iterations."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        ordinary = 4 <= runner.iter < 8
        torch.cuda.set_sync_debug_mode("error" if ordinary else "default")


@pytest.mark.parametrize("average", [False, True])
def test_an_ordinary_iteration_never_waits_for_the_device(tmp_path: Path, average: bool) -> None:
    hooks: list[Any] = [{"type": "RefuseToWait"}]
    if average:
        hooks.append({"type": "EMAHook", "momentum": 0.01})
    config = tiny_run(tmp_path, iters=10, custom_hooks=hooks)
    apply(config, training_choices(find_hardware()))
    try:
        Runner.from_cfg(config).train()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fused", [False, True])
def test_training_recovers_from_overflow_beside_the_guard(fused: bool) -> None:
    """A step that overflows is left out, lowers the scale and is no error to the guard."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, device="cuda")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=fused)
    wrapper = AmpOptimWrapper(optimizer, dtype="float16", loss_scale={"init_scale": 2.0**24})
    wrapper.agreement = Agreement(torch.device("cuda", 0))
    before, scales = layer.weight.detach().clone(), []
    while torch.equal(layer.weight, before) and len(scales) < 20:
        with wrapper.optim_context(layer):
            loss = layer(torch.ones(4, 3, device="cuda")).square().mean()
        wrapper.update_params(loss)
        assert not any(verdict.non_finite for verdict in wrapper.agreement.close(len(scales)))
        scales.append(wrapper.loss_scaler.get_scale())
    assert 2.0**10 < scales[-1] < 2.0**20
    assert torch.isfinite(layer.weight).all()


def test_the_kernel_of_synchronized_norms_takes_an_empty_batch_for_nothing() -> None:
    x = torch.randn(4, 6, 5, 7, device="cuda", dtype=torch.float16)
    mean, inverse = torch.batch_norm_stats(x, 1e-5)
    means, inverses = torch.stack([mean * 0, mean]), torch.stack([mean * 0 + 1, inverse])
    counts = torch.tensor([ALMOST_NOTHING, 4 * 5 * 7], device="cuda")
    running = torch.zeros(6, device="cuda"), torch.ones(6, device="cuda")
    found = torch.batch_norm_gather_stats_with_counts(
        x, means, inverses, *running, 0.1, 1e-5, counts
    )
    var = x.float().var((0, 2, 3))
    for one, expected in zip(
        (*found, *running), (mean, inverse, 0.1 * mean, 0.9 + 0.1 * var), strict=True
    ):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-6)


def test_waiting_is_found() -> None:
    number = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            number.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_network_predicts_the_same() -> None:
    plain = tiny_segmentor().cuda().eval()
    model = copy.deepcopy(plain)
    compile_network(model, True)
    for size in ((96, 128), (128, 160), (104, 200)):
        image = torch.randn(1, 3, *size, device="cuda")
        with torch.no_grad():
            expected = plain(image, [labelled(size)], mode="predict")[0].pred_sem_seg.data
            found = model(image, [labelled(size)], mode="predict")[0].pred_sem_seg.data
        assert (found == expected).float().mean() > 0.99


def test_a_prediction_on_the_gpu_is_that_of_the_cpu() -> None:
    model = tiny_segmentor().eval()
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        expected = model(image, [labelled((96, 128))], mode="predict")[0].pred_sem_seg.data
        model.cuda()
        found = model(image.cuda(), [labelled((96, 128))], mode="predict")[0].pred_sem_seg.data
    assert (found.cpu() == expected).float().mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("way", [PLAIN, BEST])
def test_several_scales_and_flips_of_a_whole_frame_fit_in_6_gib(way: str) -> None:
    row = Suite("cuda").tta()[-1]
    assert row.name.startswith("R-50 NLHead, 1x3x1024x2048")
    assert peak_memory(lambda: row.build(way, "cuda"), PLAN) < 6 * GIB
