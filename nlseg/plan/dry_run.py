"""Building everything and taking one step, to say what a run will need before it starts."""

import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from nlseg.config.parts import heads_of
from nlseg.memory import shown_bytes
from nlseg.ops.resize import Size
from nlseg.plan.memory import free_bytes
from nlseg.plan.training_step import (
    StepCost,
    StepProbe,
    cut,
    extrapolate,
    full_bytes,
    smaller_sizes,
)
from nlseg.run import processes
from nlseg.run.runner import Runner
from nlseg.structures import SegDataSample

LONGEST_STEP_S = 60.0
LONGEST_LOADING_S = 15.0
LARGEST_SHARE = 0.7
R50 = {
    "type": "ResNetV1c",
    "depth": 50,
    "strides": (1, 2, 1, 1),
    "dilations": (1, 1, 2, 4),
    "contract_dilation": True,
}
"""The backbone of the published models: ResNet-50 at output stride 8."""
_PARTS = 6  # building, loading, three small steps, the full one


@dataclass
class DryRun:
    """What a run takes.

    Args:
        device: Where it was measured.
        parameters: Number of parameters, and of those that train.
        images: Images a batch and process.
        size: Height and width in px of what the network trains on.
        flops: Operations of forward and of forward and backward, each for one image of that size.
        small: Largest of the small steps, which were always taken.
        memory_bytes: Memory of a full step, extrapolated from the small ones.
        step_s: Time of a full step, extrapolated from the small ones.
        full: The full step, where it was taken.
        free: Memory that was free.
        data_s: Time that loading a batch takes.
        batches: How many batches were loaded to find that.
        iterations: Length of the run.
        beside: The same for R-50 in place of a backbone of timm; None for other backbones.
    """

    device: str
    parameters: tuple[int, int]
    images: int
    size: Size
    flops: tuple[float, float]
    small: StepCost
    memory_bytes: float
    step_s: float
    full: StepCost | None
    free: int
    data_s: float
    batches: int
    iterations: int
    beside: "DryRun | None" = None

    @property
    def network_s(self) -> float:
        """Time of a full step of the network, measured if it was taken."""
        return self.full.seconds if self.full else self.step_s

    @property
    def duration_s(self) -> float:
        """Time of all iterations, each as long as the slower of network and loading."""
        return self.iterations * max(self.network_s, self.data_s)


@contextmanager
def built(config: Config) -> Iterator[Runner]:
    """Build all that a run needs, with its folder in a temporary place, and end its workers after.

    Args:
        config: A config for training; it is not changed.

    Yields:
        The runner, with loops, optimizer and schedulers.
    """
    config = copy.deepcopy(config)
    with tempfile.TemporaryDirectory() as folder:
        config.work_dir = folder
        config.load_from, config.resume = None, False
        config.log_level = "WARNING"
        runner = Runner.build(config)
        try:
            runner.prepare_training()
            _ = runner.test_loop  # built, so that its mistakes are told
            yield runner
        finally:
            runner.close()


def dry_run(config: Config, *, progress: bool = False) -> DryRun:
    """Build everything, load batches, and take steps forward and backward.

    Small steps on parts of one real image are always taken and extrapolated to the full size. The
    full step is taken where it promises to fit into memory and into a minute.

    Args:
        config: A config for training; it is not changed.
        progress: Tell what is measured: a bar where stderr is a terminal, else a line each.

    Returns:
        What was measured.
    """
    other = with_r50(config)
    beside = dry_run(other, progress=progress) if other is not None else None
    with _telling(progress) as tell:
        tell("building everything")
        with built(config) as runner:
            return _measure_all(runner, tell, beside)


Tell = Callable[[str], None]
"""Says what is measured next."""


@contextmanager
def _telling(wanted: bool) -> Iterator[Tell]:
    """Open the bar, or what writes lines in its place."""
    bar = tqdm(total=_PARTS, unit="part", disable=not (wanted and sys.stderr.isatty()))

    told: list[str] = []

    def tell(text: str) -> None:
        if bar.disable and wanted:
            sys.stderr.write(f"dry run: {text}\n")
            sys.stderr.flush()
        bar.update(1 if told else 0)
        bar.set_description(text)
        told.append(text)

    with bar:
        yield tell
        bar.update(_PARTS - bar.n)


def _measure_all(runner: Runner, tell: Tell, beside: DryRun | None) -> DryRun:
    """Load batches and take the steps."""
    loop: Any = runner.train_loop
    tell("loading batches")
    batch, data_s, count = time_loading(loop.dataloader)
    model: Any = processes.unwrap(runner.model)
    data = model.data_preprocessor(batch, training=True)
    probe = StepProbe(model, runner.optim_wrapper)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    return DryRun(
        device=describe_device(probe.device),
        parameters=(sum(p.numel() for p in model.parameters()), sum(trained)),
        data_s=data_s,
        batches=count,
        iterations=loop.max_iters,
        beside=beside,
        **_measure(probe, data["inputs"], data["data_samples"], tell),
    )


def with_r50(config: Config) -> Config | None:
    """Return a config with ``R50`` in place of a backbone of timm, and heads that fit it.

    Args:
        config: A config for training; it is not changed.

    Returns:
        The copy; None where the backbone is another one, or a head takes several maps.
    """
    if config.model.backbone.get("type") != "TIMMBackbone":
        return None
    copied = copy.deepcopy(config)
    heads = heads_of(dict(copied.items()))
    if any(not isinstance(head.get("in_channels"), int) for _, head in heads):
        return None
    channels = copied.model.backbone.get("in_channels", 3)
    norm = heads[0][1].get("norm_cfg") or {"type": "BN"}
    copied.model.backbone = {**R50, "in_channels": channels, "norm_cfg": norm}
    for path, head in heads:
        is_main = path[1] == "decode_head"
        head.update(in_index=3 if is_main else 2, in_channels=2048 if is_main else 1024)
    return copied


class Measured(TypedDict):
    """The fields of ``DryRun`` that steps are taken for."""

    images: int
    size: Size
    flops: tuple[float, float]
    small: StepCost
    memory_bytes: float
    step_s: float
    full: StepCost | None
    free: int


def _measure(
    probe: StepProbe, inputs: Tensor, samples: Sequence[SegDataSample], tell: Tell
) -> Measured:
    """Take the small steps on a preprocessed batch (N, 3, H, W), and the full one if it fits."""
    size: Size = (inputs.shape[2], inputs.shape[3])
    steps = []
    for small in smaller_sizes(size):
        tell(f"a step of 1 image, {small[0]}x{small[1]} px")
        steps.append(probe.measure(*cut(inputs, samples, 1, small)))
    memory = full_bytes(steps, size, len(inputs))
    step_s = extrapolate(steps, "seconds", size, len(inputs))
    free = free_bytes(probe.device)
    fits = memory < LARGEST_SHARE * free and step_s < LONGEST_STEP_S
    if fits:
        tell(f"a step of {len(inputs)} images, {size[0]}x{size[1]} px")
    full = _full_step(probe, inputs, samples) if fits else None
    forward, both = (extrapolate(steps, name, size, 1) for name in ("forward_flops", "flops"))
    return {
        "images": len(inputs),
        "size": size,
        "flops": (forward, both),
        "small": steps[-1],
        "memory_bytes": memory,
        "step_s": step_s,
        "full": full,
        "free": free,
    }


def _full_step(
    probe: StepProbe, inputs: Tensor, samples: Sequence[SegDataSample]
) -> StepCost | None:
    """Take the full step, None where it does not fit after all."""
    try:
        return probe.measure(inputs, samples)
    except torch.cuda.OutOfMemoryError:
        return None


def time_loading(loader: DataLoader) -> tuple[Any, float, int]:
    """Load a few batches, the first of which is not timed.

    Args:
        loader: The training loader.

    Returns:
        A batch, seconds a batch, and how many were timed.
    """
    batches = iter(loader)
    batch = next(batches)
    wanted = 2 * loader.num_workers + 4
    count, started = 0, time.perf_counter()
    while count < wanted and time.perf_counter() - started < LONGEST_LOADING_S:
        batch = next(batches, batch)
        count += 1
    return batch, (time.perf_counter() - started) / count, count


def describe_device(device: torch.device) -> str:
    """Name a device as a person would."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def report(run: DryRun) -> str:
    """Write a dry run as lines for a person.

    Args:
        run: What was measured.

    Returns:
        The text.
    """
    height, width = run.size
    forward, both = (number / 1e9 for number in run.flops)
    each = f"for one image of {height}x{width}"
    duration = timedelta(seconds=round(run.duration_s))
    lines = [
        ("device", run.device),
        ("parameters", f"{run.parameters[0]:,}, of which {run.parameters[1]:,} train"),
        ("operations", f"{forward:.1f} GFLOP forward, {both:.1f} GFLOP with backward, {each}"),
        ("memory", f"{_memory(run)}; {shown_bytes(run.free)} are free"),
        ("step", _step(run)),
        ("loading", f"{run.data_s:.3f} s a batch over {run.batches} batches; {_bottleneck(run)}"),
        ("run", f"{run.iterations} iterations take {duration}, validation not counted"),
    ]
    if run.beside is not None:
        lines.append(("beside R-50", _ratios(run, run.beside)))
    if run.memory_bytes > run.free and run.full is None:
        lines.append(("warning", "the step does not fit into memory; see --auto-batch"))
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def _ratios(run: DryRun, other: DryRun) -> str:
    """Say what one backbone takes in multiples of another."""
    ratios = (
        (run.parameters[0] / other.parameters[0], "parameters"),
        (run.flops[1] / other.flops[1], "operations"),
        (run.memory_bytes / other.memory_bytes, "memory of a step"),
        (run.step_s / other.step_s, "time of a step"),
    )
    told = ", ".join(f"{ratio:.2f}x {name}" for ratio, name in ratios)
    return (
        f"{told}; R-50 at output stride 8 has {other.parameters[0] / 1e6:.1f} M, "
        f"{other.flops[1] / 1e9:.0f} GFLOP, {shown_bytes(round(other.memory_bytes))} and "
        f"{other.step_s:.3f} s, the last two extrapolated"
    )


def _where(run: DryRun) -> tuple[str, str]:
    """Name the batch of the small step and that of the full one."""
    small = "x".join(map(str, run.small.size))
    return f"1 image of {small}", f"{run.images} of {run.size[0]}x{run.size[1]}"


def _memory(run: DryRun) -> str:
    part, whole = _where(run)
    text = f"{shown_bytes(run.small.peak_bytes)} measured for {part}, extrapolated to {whole}: "
    text += shown_bytes(run.memory_bytes)
    return text + (f", measured: {shown_bytes(run.full.peak_bytes)}" if run.full else "")


def _step(run: DryRun) -> str:
    part, whole = _where(run)
    small, full = run.small.seconds, run.step_s
    text = f"{small:.3f} s measured for {part}, extrapolated to {whole}: {full:.3f} s"
    return text + (f", measured: {run.full.seconds:.3f} s" if run.full else "")


def _bottleneck(run: DryRun) -> str:
    if run.data_s <= run.network_s:
        return "the network is slower"
    return (
        "loading is slower: raise train_dataloader.num_workers, or decode images once: "
        "train_dataloader.dataset.cache = 'memmap'"
    )
