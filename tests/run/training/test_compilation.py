import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from nlseg.errors import ConfigError
from nlseg.models import SegTTAModel
from nlseg.registry import MODELS
from nlseg.run.device import compile_network, not_compiled, parts_of
from tests.run.tiny_segmentor import labelled, tiny_config, tiny_segmentor

SIZES = [(208, 224), (232, 200), (256, 256), (211, 219), (217, 256)]
"""On a CPU, PyTorch has a way of its own for maps of fewer than 20480 numbers; these are larger."""

Received = torch.futures.Future[torch.Tensor]


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


def sizes_in(graph: torch.fx.GraphModule) -> list[Any]:
    """Return height and width of all maps that go into a graph."""
    values = [n.meta.get("example_value") for n in graph.graph.nodes if n.op == "placeholder"]
    maps = [value for value in values if isinstance(value, torch.Tensor) and value.dim() == 4]
    return [side for x in maps for side in x.shape[2:]]


def test_crops_of_one_size_are_constants_and_of_several_free() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def remember(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    model = tiny_segmentor()
    model.auxiliary_head = None
    compile_network(model, {"backend": remember})
    model.eval()
    with torch.no_grad():
        for size in SIZES[:2]:
            model(torch.randn(1, 3, *size), [labelled(size)], mode="predict")
    model.train()
    found = []
    for size in ((224, 208), (224, 208), (240, 208), (256, 224), (288, 240)):
        graphs.clear()
        losses(model, torch.randn(2, 3, *size), [labelled(size) for _ in range(2)])
        found.append([all(isinstance(side, int) for side in sizes_in(graph)) for graph in graphs])
    assert found[0] == [True, True]  # backbone and decode head, after an evaluation with any size
    assert found[1] == []
    assert len(found[2]) == 2
    assert found[4] == []


class StepMarks:
    """Counts the iterations that CUDA graphs are told of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", self.count)

    def count(self) -> None:
        self.number += 1


@pytest.mark.parametrize("mode", ["reduce-overhead", "default"])
def test_cuda_graphs_are_told_of_each_training_iteration_once(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    used: list[str | None] = []

    def without_compiler(function: Any, **options: Any) -> Any:
        def call(*inputs: Any, **settings: Any) -> Any:
            used.append(options.get("mode"))
            return function(*inputs, **settings)

        return call

    monkeypatch.setattr(torch, "compile", without_compiler)
    marks = StepMarks(monkeypatch)
    model = tiny_segmentor()
    compile_network(model, {"mode": mode})
    for _ in range(3):
        losses(model, torch.randn(2, 3, 48, 64), [labelled((48, 64)) for _ in range(2)])
    assert marks.number == (3 if mode == "reduce-overhead" else 0)
    assert used == [mode] * 9
    used.clear()
    model.eval()
    with torch.no_grad():
        model(torch.randn(1, 3, 48, 64), [labelled((48, 64))], mode="predict")
    assert used == ["default"] * 2  # no graphs there: a result would be overwritten by the next


def test_parts_run_as_written_where_that_is_asked_for() -> None:
    model = tiny_segmentor()
    compile_network(model, {"backend": "eager"})
    with not_compiled(model):
        losses(model, torch.randn(2, 3, 48, 64), [labelled((48, 64)) for _ in range(2)])
    assert counters["stats"]["unique_graphs"] == 0
    assert all(part._compiled_call_impl is not None for part in parts_of(model))


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("_one_process")
def test_gradients_are_exchanged_before_the_backward_pass_ends() -> None:
    total, early = buckets_before_the_end()
    assert total >= 4
    assert early == total - 1
    with torch._dynamo.config.patch(optimize_ddp=False):  # what one graph of the backbone would do
        assert buckets_before_the_end()[1] < early


def buckets_before_the_end() -> tuple[int, int]:
    """Return the buckets of a training step, and how many are there before its last graph ends."""
    torch._dynamo.reset()
    events: list[str] = []

    def note(graph: torch.fx.GraphModule, _: Any) -> Any:
        def run(*inputs: Any) -> Any:
            results = graph(*inputs)
            events.append("graph")
            return results

        return make_boxed_func(run)

    config = tiny_config()
    config["backbone"]["base_channels"] = 32
    config["decode_head"]["in_channels"], config["auxiliary_head"]["in_channels"] = 256, 128
    model = MODELS.build(config)
    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph), bw_compiler=note)
    compile_network(model, {"backend": backend})
    wrapped = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1.5)
    wrapped.register_comm_hook(events, note_bucket)
    samples = [labelled((32, 32)) for _ in range(2)]
    for _ in range(2):  # the first iteration finds the order of the buckets
        events.clear()
        values = wrapped(torch.randn(2, 3, 32, 32), samples, mode="loss")
        (values["decode.loss_ce"] + values["aux.loss_ce"]).backward()
    last = max(place for place, event in enumerate(events) if event == "graph")
    return events.count("bucket"), events[:last].count("bucket")


def note_bucket(events: list[str], bucket: torch.distributed.GradBucket) -> Received:
    events.append("bucket")
    future: Received = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


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


class Branchless(nn.Module):
    """A stranger's layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


class Branching(nn.Module):
    """A stranger's head, whose way depends on what it computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.mean().item() > 0 else x


@pytest.mark.parametrize(
    "part", [nn.Identity(), nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), Branchless())]
)
def test_a_part_that_is_a_layer_of_pytorch_is_one_graph(part: nn.Module) -> None:
    part.register_forward_hook(lambda module, inputs, y: y + 1)
    graphs: list[Any] = []

    def remember(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    model = nn.ModuleDict({"backbone": part})
    compile_network(model, {"backend": remember})
    for size in ((2, 3, 16, 16), (2, 3, 16, 16), (0, 3, 16, 16)):  # the last one as written
        x = torch.ones(size)
        y = model.backbone(x)
        with not_compiled(model):
            assert torch.equal(y, model.backbone(x))
        assert len(graphs) == 1


def test_what_is_not_one_graph_is_named_with_a_way_that_works() -> None:
    def fails(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler")

    x = torch.ones(1, 2, 4, 4)
    model = nn.ModuleDict({"decode_head": Branching()})
    compile_network(model, {"backend": "eager"})
    place = (
        r"compile: Branching cannot be one graph at .*test_compilation\.py:\d+ \(return x \* 2 if"
    )
    with pytest.raises(ConfigError, match=place) as told:
        model.decode_head(x)
    assert "compile=dict(fullgraph=False) runs such lines" in str(told.value)
    model = nn.ModuleDict({"decode_head": Branching()})
    compile_network(model, {"backend": "eager", "fullgraph": False})
    assert torch.equal(model.decode_head(x), 2 * x)
    model = tiny_segmentor()
    compile_network(model, {"backend": fails})
    with pytest.raises(ConfigError, match=r"compiler fails on ResNetV1c: .*no compiler; compile=F"):
        model.backbone(torch.ones(1, 3, 64, 64))
    torch._dynamo.reset()
    with pytest.raises(ConfigError, match=r"ResNetV1c cannot be one graph .* more than 1 value"):
        model.backbone(torch.ones(1, 3, 8, 8))  # fails as it is written, too


class Counting(nn.Module):
    """A stranger's part, compiled anew for each value of what it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class LeftOut(nn.Module):
    """A stranger's part, which PyTorch's compiler is told to leave out."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="runs as it is written there")
@pytest.mark.parametrize(
    ("part", "cause"),
    [
        (Counting(), "Counting cannot be one graph: it is compiled anew for each new value"),
        (LeftOut(), "LeftOut cannot be one graph: .* as torch.compiler.disable asks for"),
        (torch.jit.script(nn.Conv2d(3, 4, 1)), "RecursiveScriptModule cannot be one graph at"),
    ],
)
def test_parts_that_pytorch_says_little_of_are_named_all_the_same(
    part: nn.Module, cause: str
) -> None:
    model = nn.ModuleDict({"backbone": part})
    compile_network(model, {"backend": "eager"})
    told = pytest.raises(ConfigError, match=cause + r".*compile=dict\(fullgraph=False\)")
    with torch._dynamo.config.patch(recompile_limit=8), told:  # other tests may have raised it
        [model.backbone(torch.ones(1, 3, 8, 8)) for _ in range(10)]


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
