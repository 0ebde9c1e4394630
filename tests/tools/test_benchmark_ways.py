"""The baseline and ours do the same: they may be compared."""

from functools import partial
from typing import Any

import pytest
import torch

from benchmark import baseline, blocks, networks, pixels
from benchmark.measure import Plan, time_in_turns
from benchmark.networks import BASELINE, BEST, COMPILED, PLAIN, Network
from benchmark.suite import MODES, Comparison, Suite

NETWORK = Network(18, 8)
WINDOWS = Network(
    18, 8, test_cfg=(("mode", "slide"), ("crop_size", (48, 48)), ("stride", (32, 32)))
)
QUICK = Suite("cpu", quick=True)
SECTIONS = ("block", "attention", "loss", "upsample", "count", "inference", "slide", "tta", "train")
ROWS = [(name, row) for name in SECTIONS for row in getattr(QUICK, name)()]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def both(build: Any, **sizes: Any) -> tuple[Any, Any]:
    """Run the baseline and ours with the same draws."""
    results = []
    for way in (BASELINE, PLAIN):
        torch.manual_seed(1)
        work = build(way, "cpu", **sizes)
        torch.manual_seed(2)
        results.append(work.run())
    return results[0], results[1]


@pytest.mark.parametrize("mode", MODES)
def test_the_block_in_every_mode(mode: str) -> None:
    expected, found = both(blocks.non_local, mode=mode, size=(6, 8), channels=16)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["embedded_gaussian", "gaussian", "dot_product"])
def test_the_gradient_of_the_block(mode: str) -> None:
    expected, found = both(blocks.non_local, mode=mode, size=(6, 8), channels=16, backward=True)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-8)


def test_the_context_block() -> None:
    expected, found = both(blocks.global_context, size=(6, 8), channels=16)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["CrossEntropyLoss", "DiceLoss", "TverskyLoss", "FocalLoss"])
def test_the_gradient_of_the_loss(kind: str) -> None:
    expected, found = both(pixels.loss, kind=kind, classes=7, size=(64, 96), batch=2)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


def test_the_label_map() -> None:
    expected, found = both(pixels.upsample, classes=7, size=(64, 96))
    assert torch.equal(found, expected)


def test_the_counts() -> None:
    areas, table = both(pixels.count, classes=7, size=(64, 96))
    counts = table[:7, :7].float()
    assert torch.equal(areas[0], counts.diag())
    assert torch.equal(areas[1], counts.sum(0) + counts.sum(1) - counts.diag())
    assert torch.equal(areas[2], counts.sum(0))
    assert torch.equal(areas[3], counts.sum(1))


def agreement(expected: Any, samples: Any) -> float:
    """Return the share of pixels with the same class in both predictions."""
    labels = expected[1] if isinstance(expected, tuple) else expected
    return (samples[0].pred_sem_seg.data == labels).float().mean().item()


@pytest.mark.parametrize("head", ["NLHead", "GCHead"])
def test_a_whole_prediction(head: str) -> None:
    network = Network(18, 8, head)
    assert agreement(*both(networks.inference, network=network, size=(64, 96))) > 0.999


def test_sliding_windows() -> None:
    assert agreement(*both(networks.inference, network=WINDOWS, size=(64, 96))) > 0.999


def test_a_compiled_network_is_timed_as_compiled_and_counted_as_written() -> None:
    network = Network(18, 8, backend="aot_eager")
    build = partial(networks.inference, device="cpu", network=network, size=(64, 96))
    work = build(COMPILED)
    assert work.warm is work.run  # at the timed size
    assert work.compiled is not None
    ways = {way: partial(build, way) for way in (PLAIN, COMPILED)}
    found = time_in_turns(ways, Plan(threads=1, rounds=2, seconds=0.1, rate_side=64))
    assert [result.failure for result in found.values()] == [None, None]
    assert found[COMPILED].flops == found[PLAIN].flops > 0


def test_several_scales_and_flips() -> None:
    assert agreement(*both(networks.augmented, network=NETWORK, size=(64, 96))) > 0.99


def test_a_training_step_ends_at_the_same_weights() -> None:
    weights = []
    for way in (BASELINE, PLAIN):
        model = NETWORK.build(way, "cpu").train()
        torch.manual_seed(0)  # the same images for both
        images, label = torch.randn(2, 3, 64, 96), pixels.noise_labels(19, (2, 64, 96))
        torch.manual_seed(4)
        model.zero_grad()
        networks._loss(model, way, images, label).backward()
        weights.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize(("section", "row"), ROWS, ids=[f"{s}: {r.name}" for s, r in ROWS])
def test_every_quick_row_runs_in_every_way(section: str, row: Comparison) -> None:
    for way in row.ways:
        work = row.build(way, "cpu")
        work.warm()
        work.run()
        assert work.precision in (("fp32", "bf16") if way == BEST else ("fp32",))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_target_is_for_a_way_that_is_run(device: str) -> None:
    suite = Suite(device)
    for section in SECTIONS:
        for row in getattr(suite, section)():
            assert set(row.targets) <= set(row.ways), row.name
    names = [row.name for section in SECTIONS for row in getattr(suite, section)()]
    assert len(names) == len(set(names)) + 2  # loss and label map share names with counting


def test_resizing_is_done_even_where_nothing_changes() -> None:
    maps = torch.randn(1, 2, 4, 4)
    again = baseline.resize(maps, (4, 4))
    assert torch.equal(again, maps)
    assert again.data_ptr() != maps.data_ptr()
