"""Nothing waits for the card, in training and in evaluation, with workers that load."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch.utils._python_dispatch import TorchDispatchMode

from nlseg.registry import DATASETS
from nlseg.run.runner import Runner
from tests.emulated_gpu.card import Asked, asked, count_waits
from tests.run.tiny_segmentor import NoiseImages, labelled, tiny_run, tiny_segmentor

pytestmark = pytest.mark.usefixtures("real_tensors")
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
SIZE = (64, 96)
READ = 2
"""Waits of reading a tensor of the card: its copy to pageable memory, and that copy's end."""


class WaitsPerStep(Hook):
    """Notes what the card was asked for between the ends of two steps."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.marks: list[tuple[int, int, int]] = []

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        self.marks.append(asked())

    def after_test_iter(self, *_: Any, **__: Any) -> None:
        self.marks.append(asked())

    @property
    def waits(self) -> list[int]:
        """Waits of each step but the first, and the last, after which the state is saved."""
        sums = [synchronized + copied for synchronized, copied, _ in self.marks]
        return [after - before for before, after in pairwise(sums[:-1])]


@DATASETS.register_module(force=True)
class ViewedImages(NoiseImages):
    """Images of noise as a test pipeline leaves them: of many sizes, or in 12 views."""

    def __init__(self, size: int = 6, views: bool = False, resized: bool = False) -> None:
        super().__init__(size)
        self.views, self.resized = views, resized

    def __getitem__(self, index: Any) -> dict[str, Any]:
        larger = 8 * int(getattr(index, "index", index)) if self.resized else 0
        size = (SIZE[0] + larger, SIZE[1])
        if not self.views:
            return {"inputs": noise(size, 1.0), "data_samples": labelled(SIZE)}
        samples = []
        for flip in (False, True) * len(SCALES):
            samples.append(labelled(SIZE))
            samples[-1].set_metainfo({"flip": flip, "flip_direction": "horizontal"})
        images = [noise(size, scale) for scale in SCALES for _ in range(2)]
        return {"inputs": images, "data_samples": samples}


def noise(size: tuple[int, int], scale: float) -> torch.Tensor:
    shape = (3, int(size[0] * scale), int(size[1] * scale))
    return torch.randint(256, shape, dtype=torch.uint8)


def test_what_waits_is_counted() -> None:
    x = torch.ones(8)
    for wait in (
        lambda: x.to("cuda"),
        lambda: x.to("cuda", non_blocking=True),
        lambda: x.cuda().sum().item(),
        lambda: torch.nonzero(x.pin_memory().to("cuda", non_blocking=True)),
    ):
        with count_waits() as seen:
            wait()
        assert seen.waits >= 1
    with count_waits() as seen:
        x.pin_memory().to("cuda", non_blocking=True).sum()
    assert seen == Asked()


class Copies(TorchDispatchMode):
    """Notes the stream of each copy to the card, and how many tensors another stream may read."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[torch.cuda.Stream] = []
        self.recorded = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.recorded += func._schema.name == "aten::record_stream"
        given = [x for x in args if isinstance(x, torch.Tensor)]
        if isinstance(out, torch.Tensor) and out.is_cuda and any(x.is_cpu for x in given):
            self.streams.append(torch.cuda.current_stream())
        return out


def test_a_batch_is_copied_beside_what_is_computed() -> None:
    model = tiny_segmentor().cuda()
    samples = [labelled((64, 64)).pin_memory() for _ in range(2)]
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8).pin_memory()
    computing = torch.cuda.current_stream()
    with Copies() as seen:
        model.data_preprocessor({"inputs": images, "data_samples": samples}, training=True)
    assert len(seen.streams) == seen.recorded == 3  # the images, and two labels
    assert computing not in seen.streams
    assert torch.cuda.current_stream() == computing


@pytest.mark.parametrize("wrapper", ["OptimWrapper", "AmpOptimWrapper"])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_steps_never_wait(tmp_path: Path, wrapper: str, workers: int) -> None:
    config = tiny_run(tmp_path, iters=8, log_level="ERROR")
    config.train_dataloader.num_workers = workers
    config.optim_wrapper.type = wrapper
    if wrapper == "AmpOptimWrapper":
        config.optim_wrapper.dtype = "float16"
    config.custom_hooks = [{"type": "EMAHook", "momentum": 0.01}]
    assert waits_of_steps(config) == [0] * 6


def waits_of_steps(config: Config) -> list[int]:
    """Return the waits of each step of a training."""
    runner = Runner.from_cfg(config)
    runner.register_hook(hook := WaitsPerStep())
    runner.train()
    return hook.waits


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({"sampler": {"type": "OHEMPixelSampler", "min_kept": 100}}, 0),
        ({"loss_decode": {"type": "LovaszLoss", "classes": "all"}}, 0),
        ({"loss_decode": {"type": "LovaszLoss", "classes": [0, 3], "per_image": True}}, 0),
        ({"loss_decode": {"type": "LovaszLoss"}}, READ),  # which classes the labels have
    ],
    ids=["ohem", "lovasz all", "lovasz of each image", "lovasz present"],
)
def test_losses_that_rank_pixels_read_at_most_once(
    tmp_path: Path, changes: dict[str, Any], waits: int
) -> None:
    config = tiny_run(tmp_path, iters=8, log_level="ERROR")
    config.model.decode_head.update(changes)
    assert waits_of_steps(config) == [waits] * 6


def evaluate(folder: Path, test_cfg: dict[str, Any], **dataset: bool) -> list[int]:
    """Return the waits of each image of a test."""
    config: Config = tiny_run(folder, iters=1, log_level="ERROR")
    config.test_dataloader = {
        "batch_size": 1, "num_workers": 2, "dataset": {"type": "ViewedImages", **dataset},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }  # fmt: skip
    config.test_cfg = {"type": "TestLoop"}
    config.test_evaluator = {"type": "IoUMetric"}
    config.model.test_cfg = test_cfg
    if dataset.get("views"):
        config.model = {"type": "SegTTAModel", "module": config.model}
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        config.pop(key)
    runner = Runner.from_cfg(config)
    runner.register_hook(hook := WaitsPerStep())
    runner.test()
    return hook.waits


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize(
    "test_cfg",
    [
        {"mode": "whole"},
        {"mode": "whole", "resize_once": True},
        {"mode": "slide", "crop_size": (48, 48), "stride": (32, 32)},
    ],
    ids=["whole", "once", "slide"],
)
def test_predicting_an_image_never_waits(
    tmp_path: Path, test_cfg: dict[str, Any], resized: bool, views: bool
) -> None:
    assert evaluate(tmp_path, test_cfg, views=views, resized=resized) == [0] * 4
