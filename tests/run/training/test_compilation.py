import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from nlseg.errors import ConfigError
from nlseg.models import SegTTAModel
from nlseg.run.device import compile_network, parts_of
from tests.run.tiny_segmentor import labelled, tiny_segmentor

SIZES = [(208, 224), (232, 200), (256, 256), (211, 219)]
"""On a CPU, PyTorch has a way of its own for maps of fewer than 20480 numbers; these are larger."""


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def losses(model: Any, images: torch.Tensor, samples: list) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)  # dropout
    return model(images, samples, mode="loss")


@pytest.mark.slow
def test_all_evaluation_sizes_run_the_same_graphs() -> None:
    plain = tiny_segmentor().eval()
    model = copy.deepcopy(plain)
    names = list(model.state_dict())
    assert compile_network(model, {"backend": "eager"}) == 3
    assert list(model.state_dict()) == names
    graphs = []
    with torch.no_grad():
        for size in SIZES:
            image = torch.randn(1, 3, *size)
            found = model(image, [labelled(size)], mode="predict")[0].pred_sem_seg.data
            expected = plain(image, [labelled(size)], mode="predict")[0].pred_sem_seg.data
            assert torch.equal(found, expected)
            graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [2] * len(SIZES)  # backbone and decode head
    assert counters["graph_break"] == {}


@pytest.mark.slow
def test_all_training_iterations_run_the_same_graphs() -> None:
    plain = tiny_segmentor()
    model = copy.deepcopy(plain)
    compile_network(model, {"backend": "eager"})
    images = torch.randn(2, 3, 48, 64)
    for step in range(3):  # every iteration has other file names in its samples
        samples = [labelled((48, 64), f"{step}_{i}.png") for i in range(2)]
        expected = losses(plain, images, samples)
        found = losses(model, images, samples)
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
        assert counters["stats"]["unique_graphs"] == 3  # backbone and two heads
    assert counters["graph_break"] == {}


def test_compiling_twice_changes_nothing_and_copies_are_plain() -> None:
    model = tiny_segmentor("GCHead")
    compile_network(model, True)
    calls = [part._compiled_call_impl for part in parts_of(model)]
    compile_network(model, True)
    assert [part._compiled_call_impl for part in parts_of(model)] == calls
    copied = copy.deepcopy(model)  # as an average of the weights is made
    assert all(part._compiled_call_impl is None for part in parts_of(copied))


def test_a_test_time_wrapper_is_looked_through() -> None:
    model = tiny_segmentor()
    assert list(parts_of(SegTTAModel(module=model))) == list(parts_of(model))


@pytest.mark.parametrize("setting", [None, False])
def test_without_the_setting_nothing_is_compiled(setting: Any) -> None:
    model = tiny_segmentor()
    assert compile_network(model, setting) == 0
    assert all(part._compiled_call_impl is None for part in parts_of(model))


def test_a_wrong_option_or_network_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"compile.modus: not one of fullgraph, dynamic"):
        compile_network(tiny_segmentor(), {"modus": "default"})
    with pytest.raises(ConfigError, match="compile: Linear has none of backbone"):
        compile_network(nn.Linear(1, 1), True)
