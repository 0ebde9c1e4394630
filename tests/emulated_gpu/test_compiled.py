"""Compiling on a card: one graph a part, in every mode, for every size, and never again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch._dynamo.utils import counters

from nlseg.errors import ConfigError
from nlseg.ops.global_context import ContextBlock
from nlseg.ops.non_local import MODES, NonLocal2d
from nlseg.registry import MODELS
from nlseg.run.build import wrap_model
from nlseg.run.device import check_graphs, compile_network
from nlseg.run.runner import Runner
from tests.emulated_gpu.card import CAPABILITY, count_waits
from tests.run.tiny_segmentor import labelled, tiny_config, tiny_run

pytestmark = pytest.mark.usefixtures("real_tensors")
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (CAPABILITY >= (8, 0))


def graphs() -> int:
    """Return how many graphs were compiled since the counters were cleared."""
    assert not counters["graph_break"]
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("mode", [*MODES, "global context"])
def test_a_block_is_one_graph(mode: Any, train: bool, dtype: torch.dtype) -> None:
    counters.clear()
    block = ContextBlock(16, ratio=0.25) if mode == "global context" else NonLocal2d(16, mode=mode)
    block = block.cuda().train(train)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    half = dtype != torch.float32
    autocast = torch.autocast("cuda", dtype if half else torch.float16, enabled=half)
    for height in (16, 16) if train else (16, 24, 32):
        x = torch.randn(2, 16, height, 24, device="cuda", requires_grad=train)
        if not train:
            torch._dynamo.maybe_mark_dynamic(x, [2, 3])
        with autocast, torch.set_grad_enabled(train):
            y = compiled(x)
        if train:
            y.float().sum().backward()
        assert graphs() == 1


@pytest.mark.parametrize(
    ("head", "backbone"),
    [("NLHead", "ResNetV1c"), ("GCHead", "ResNetV1c"), ("NLHead", "ResNetV1d")],
)
def test_a_network_compiles_once_for_training_and_once_for_evaluation(
    head: str, backbone: str
) -> None:
    counters.clear()
    config = tiny_config(head)
    config["backbone"].update(type=backbone, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
    model = MODELS.build(config).cuda()
    compile_network(model, {"backend": "aot_eager"})
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(3):
        samples = [labelled((64, 64)) for _ in range(2)]
        batch = {"inputs": torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)}
        data = model.data_preprocessor({**batch, "data_samples": samples}, training=True)
        with torch.autocast("cuda", dtype=torch.float16):
            total = model.parse_losses(model(**data, mode="loss"))[0]
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert graphs() == 3  # backbone and two heads
    model.eval()
    sizes = [(64 + i, 96 + i // 2) for i in range(9)]  # of every kind for windows of 2 px
    for size in ((64, 96), (96, 64), (72, 104), (128, 128), *sizes):
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.float16):
            model(torch.randn(1, 3, *size, device="cuda"), [labelled(size)], mode="predict")
        assert graphs() == 5  # and backbone and head for any size


def test_crops_of_many_sizes_are_compiled_twice_whatever_the_number_of_heads() -> None:
    counters.clear()
    config = tiny_config()
    first = config["auxiliary_head"]
    config["auxiliary_head"] = [first, {**first, "in_index": 1, "in_channels": 16}]
    model = MODELS.build(config).cuda()
    compile_network(model, {"backend": "aot_eager"})
    found = []
    for size in ((64, 64), (64, 96), (96, 64), (81, 72), (67, 99)):
        samples = [labelled(size).cuda() for _ in range(2)]
        model(torch.randn(2, 3, *size, device="cuda"), samples, mode="loss")
        found.append(graphs())
    assert found == [4, 8, 8, 8, 8]  # backbone and three heads


@pytest.fixture
def _two_processes() -> Iterator[None]:
    """A group whose collectives do nothing: the other process is not there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_two_processes")
def test_norms_of_several_processes_neither_wait_nor_break_a_graph() -> None:
    counters.clear()
    config = tiny_config()
    for part in ("backbone", "decode_head", "auxiliary_head"):
        config[part]["norm_cfg"] = {"type": "SyncBN", "requires_grad": True}
    for with_cp, compiled in ((True, False), (False, False), (False, True)):
        config["backbone"]["with_cp"] = with_cp
        model = wrap_model(MODELS.build(config), Config(), None, distributed=False)
        if compiled:
            compile_network(model, {"backend": "aot_eager"})
        for step in range(3):
            samples = [labelled((64, 64)).cuda() for _ in range(2)]
            images = torch.randn(2, 3, 64, 64, device="cuda")
            with count_waits() as found, torch.autocast("cuda", dtype=torch.float16):
                model.parse_losses(model(images, samples, mode="loss"))[0].backward()
            assert found.waits == 0 or step == 0, found.places
    with count_waits() as found:  # an empty batch, in a network that takes one
        model.backbone(torch.randn(0, 3, 64, 64, device="cuda"))[0].sum().backward()
    assert found.waits == 0, found.places
    assert graphs() == 3


def test_cuda_graphs_are_refused_where_gradients_are_added_up(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, iters=2, compile={"mode": "reduce-overhead"})
    config.optim_wrapper.accumulative_counts = 2
    with pytest.raises(ConfigError, match="accumulative_counts=2 cannot be added up; use mode="):
        Runner.from_cfg(config).train()
    check_graphs({"mode": "reduce-overhead"}, 1)
    check_graphs({"mode": "default"}, 2)


def test_two_graphs_are_kept_for_each_of_many_heads_of_one_class() -> None:
    counters.clear()
    config = tiny_config()
    head = config["auxiliary_head"]
    config["auxiliary_head"] = [{**head, "channels": 8 + i} for i in range(5)]
    model = MODELS.build(config).cuda()
    compile_network(model, {"backend": "aot_eager"})
    for size in ((64, 64), (64, 96)):
        samples = [labelled(size).cuda() for _ in range(2)]
        model(torch.randn(2, 3, *size, device="cuda"), samples, mode="loss")
    assert graphs() == 14
