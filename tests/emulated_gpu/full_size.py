"""How many launches a training step and a prediction take at full size.

``bash tools/run_emulated_gpu_tests.sh --launches`` prints them, and the host's own time.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import PixelData

from benchmark.networks import RATIOS, Network
from nlseg.models.tta import SegTTAModel
from nlseg.run.device import seed_iteration
from nlseg.run.finite import FiniteGuard
from nlseg.run.hooks import ExponentialMovingAverage
from nlseg.run.processes import Agreement
from nlseg.run.state import RunState
from nlseg.run.step import OptimWrapper
from nlseg.structures import SegDataSample
from tests.emulated_gpu.card import Launches

WINDOWS = (("mode", "slide"), ("crop_size", (769, 769)), ("stride", (513, 513)))


def sample(size: tuple[int, int], **metainfo: Any) -> SegDataSample:
    result = SegDataSample(metainfo={"ori_shape": size, "img_shape": size, **metainfo})
    result.gt_sem_seg = PixelData(data=torch.empty(1, *size, dtype=torch.int64))
    return result


def images(number: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.empty(number, 3, *size, dtype=torch.uint8)


def training_step(
    batch: int = 2,
    half: torch.dtype | None = None,
    network: Network | None = None,
    size: tuple[int, int] = (512, 1024),
) -> Launches:
    """Count the launches of a training step, from uint8 images to the optimizer's step."""
    model = (network or Network()).build("nlseg", "cuda").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    wrapper = OptimWrapper(optimizer)
    wrapper.agreement = Agreement(torch.device("cuda"))
    data = {"inputs": images(batch, size), "data_samples": [sample(size) for _ in range(batch)]}
    autocast = torch.autocast("cuda", half or torch.float16, enabled=half is not None)
    for _ in range(2):  # the second has its momentum
        wrapper.agreement.reduced = None
        with Launches() as seen, autocast:
            model.train_step(data, optim_wrapper=wrapper)
    return seen


def prediction(
    size: tuple[int, int] = (1024, 2048),
    original: tuple[int, int] | None = None,
    test_cfg: tuple[tuple[str, Any], ...] = (("mode", "whole"),),
) -> Launches:
    """Count the launches of the label map of one image."""
    model = Network(test_cfg=test_cfg).build("nlseg", "cuda").eval()
    data = {"inputs": images(1, size), "data_samples": [sample(original or size)]}
    with Launches() as seen, torch.no_grad():
        model.test_step(data)
    return seen


def augmented(size: tuple[int, int] = (1024, 2048)) -> Launches:
    """Count the launches of the label map of one image in six scales, each flipped and not."""
    model = SegTTAModel(Network().build("nlseg", "cuda")).eval()
    views = [(ratio, flip) for ratio in RATIOS for flip in (False, True)]
    data = {
        "inputs": [images(1, (int(size[0] * r), int(size[1] * r))) for r, _ in views],
        "data_samples": [
            [sample(size, flip=flip, flip_direction="horizontal")] for _, flip in views
        ],
    }
    with Launches() as seen, torch.no_grad():
        model.test_step(data)
    return seen


def deterministic() -> Launches:
    """Count the launches of the label map of one image in the determinism mode."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # as a run does
    try:
        return prediction()
    finally:
        torch.use_deterministic_algorithms(False)


def averaging() -> Launches:
    """Count the launches of one step of the average of the weights (EMAHook)."""
    model = Network().build("nlseg", "cuda").train()
    average = ExponentialMovingAverage(model, momentum=0.01)
    for _ in range(2):  # the first one copies
        with Launches() as seen:
            average.update_parameters(model)
    return seen


def host_ms(steps: int = 300) -> float:
    """Return the median time of a core that the guard's copies and seeding take in a step."""
    model = Network().build("nlseg", "cuda").train()
    guard = FiniteGuard(
        model, RunState(), policy="stop", limit=0, folder=Path("unused"), rank=0, lag=2
    )
    times_s = []
    for step in range(steps):
        start = time.thread_time()
        seed_iteration(7, step, 0)
        guard.before_iteration()
        times_s.append(time.thread_time() - start)
    return 1e3 * statistics.median(times_s)


ROWS: dict[str, Callable[[], Launches]] = {
    "training step, 2 x 512x1024": training_step,
    "training step, 16 x 512x1024, float16": lambda: training_step(16, torch.float16),
    "training step, 150 classes, 4 x 512x512": lambda: training_step(
        4, network=Network(classes=150), size=(512, 512)
    ),
    "prediction, 1024x2048": prediction,
    "prediction, 512x1024 of 1024x2048": lambda: prediction((512, 1024), (1024, 2048)),
    "sliding windows, 1024x2048 in 769x769": lambda: prediction(test_cfg=WINDOWS),
    "12 views of 1024x2048": augmented,
    "prediction, 1024x2048, determinism mode": deterministic,
    "step of the average of the weights": averaging,
}
"""What is counted, with an R-50 NLHead of 19 classes unless said otherwise."""


if __name__ == "__main__":
    os.environ["EMULATED_GPU_RUNS"] = "1"
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    for name, count in ROWS.items():
        seen = count()
        most = ", ".join(f"{number} {op}" for op, number in seen.operators.most_common(6))
        print(f"| {name} | {seen.total} | {most} |", flush=True)
    print(f"guard and seeding: {host_ms():.3f} ms of a core in a step")
