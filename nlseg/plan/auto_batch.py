"""Batch size and learning rate on other machines: what fits, and what goes with it."""

import copy
import gc
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from nlseg.config.class_weight import with_class_weights
from nlseg.config.linked import max_iters_changes
from nlseg.config.overrides import set_value
from nlseg.errors import ConfigError
from nlseg.ops.resize import Size
from nlseg.plan.memory import free_bytes
from nlseg.plan.training_step import StepProbe, cut, drawn_batch, full_bytes, smaller_sizes
from nlseg.registry import MODELS, SCOPE
from nlseg.run import processes
from nlseg.run.device import revert_sync_batchnorm

LOGGER = logging.getLogger("nlseg.auto_batch")
SHARE = 0.9
"""Share of the free memory that a step may use."""


def fit_batch_size(config: Config, *, share: float = SHARE) -> int:
    """Set the largest batch that fits and accumulate up to the batch that the config asks for.

    The batch of a process is split into equal parts. With k parts the run has k times as many
    iterations, the schedule and all intervals with it, so that it sees the same images, takes as
    many optimizer steps and follows the same curve. Batch norm sees the smaller batch.

    Args:
        config: A config for training, changed in place.
        share: Share of the free memory to use.

    Returns:
        Number of parts k.

    Raises:
        ConfigError: Not even one image fits, or training has no fixed size.
    """
    wanted = config.train_dataloader.batch_size
    size = _training_size(config)
    probe = _make_probe(config)
    num_classes = _first_head(config).get("num_classes", 2)
    fits = _fits_on_cuda if probe.device.type == "cuda" else _fits_on_cpu
    batch_size = largest_part(int(wanted), fits(probe, size, num_classes, share))
    agreed = -int(processes.max_over_ranks(torch.tensor([-batch_size])).item())
    if agreed == 0:
        raise ConfigError(
            f"train_dataloader.batch_size: not one image of {size[0]}x{size[1]} fits into memory; "
            "make crop_size smaller"
        )
    parts = int(wanted) // agreed
    LOGGER.warning("batch of %d in %d part%s of %d images", wanted, parts, "s"[: parts > 1], agreed)
    accumulate(config, parts)
    return parts


def largest_part(batch_size: int, fits: Callable[[int], bool]) -> int:
    """Return the largest divisor of a batch size that fits, 0 where none does."""
    parts = [part for part in range(batch_size, 0, -1) if batch_size % part == 0]
    return next((part for part in parts if fits(part)), 0)


def accumulate(config: Config, parts: int) -> None:
    """Split every batch of a config into parts whose gradients are added up.

    Args:
        config: Changed in place: batch size, accumulation, and what counts iterations.
        parts: Number of parts; the batch size is a multiple of it.
    """
    if parts == 1:
        return
    config["train_dataloader"]["batch_size"] //= parts
    before = config["optim_wrapper"].get("accumulative_counts", 1)
    config["optim_wrapper"]["accumulative_counts"] = before * parts
    if "base_batch_size" in (config.get("auto_scale_lr") or {}):
        config["auto_scale_lr"]["base_batch_size"] /= parts  # it is compared with one part
    if "max_iters" in config["train_cfg"]:
        longer = config["train_cfg"]["max_iters"] * parts
        for path, value in max_iters_changes(config.to_dict(), longer):
            set_value(config, path, value)


def enable_rate_scaling(config: Config) -> None:
    """Let the runner scale the learning rate with the number of images in a step of all processes.

    Args:
        config: Changed in place. Without ``auto_scale_lr.base_batch_size`` the batch that the rate
            is meant for is read from the file's name, such as 8 from ``4xb2``.

    Raises:
        ConfigError: Neither says it.
    """
    settings = dict(config.get("auto_scale_lr") or {})
    named = re.search(r"_(\d+)xb(\d+)-", Path(config.filename or "").name)
    if "base_batch_size" not in settings and named is None:
        raise ConfigError(
            "auto_scale_lr.base_batch_size: not given, and the file's name says no batch "
            "size such as 4xb2; it is the batch, over all GPUs, that the learning rate is meant for"
        )
    if named is not None:
        settings.setdefault("base_batch_size", int(named[1]) * int(named[2]))
    config.auto_scale_lr = {**settings, "enable": True}


def _training_size(config: Config) -> Size:
    size = config.model.get("data_preprocessor", {}).get("size")
    if size is None:
        raise ConfigError("model.data_preprocessor.size: needed to try batch sizes")
    return (size[0], size[1])


def _first_head(config: Config) -> Any:
    head = config.model.decode_head
    return head[0] if isinstance(head, (list, tuple)) else head


def _make_probe(config: Config) -> StepProbe:
    """Build the network and its optimizer on this process's device."""
    processes.start(config.get("launcher", "none"))
    parts = copy.deepcopy(config)
    parts.model.pretrained = None
    DefaultScope.get_instance("nlseg_auto_batch", scope_name=SCOPE)
    model = revert_sync_batchnorm(MODELS.build(with_class_weights(parts.model, None))).to(
        processes.device()
    )
    return StepProbe(model, build_optim_wrapper(model, parts.optim_wrapper))


def _fits_on_cuda(
    probe: StepProbe, size: Size, num_classes: int, share: float
) -> Callable[[int], bool]:
    """Make a test that takes a real step and keeps some memory free."""
    limit = share * (free_bytes(probe.device) + torch.cuda.memory_allocated(probe.device))

    def fits(images: int) -> bool:
        step = None
        with suppress(torch.cuda.OutOfMemoryError):
            batch = drawn_batch(images, size, num_classes, probe.device, probe.channels)
            step = probe.measure(*batch)
        probe.wrapper.zero_grad()
        gc.collect()  # what failed leaves its maps in cycles, and the next would fail by them
        torch.cuda.empty_cache()
        return step is not None and step.peak_bytes < limit

    return fits


def _fits_on_cpu(
    probe: StepProbe, size: Size, num_classes: int, share: float
) -> Callable[[int], bool]:
    """Make a test that extrapolates: running out of memory on a CPU kills the process."""
    inputs, samples = drawn_batch(1, size, num_classes, probe.device, probe.channels)
    steps = [probe.measure(*cut(inputs, samples, 1, small)) for small in smaller_sizes(size)]
    limit = share * free_bytes(probe.device)

    def fits(images: int) -> bool:
        return full_bytes(steps, size, images) < limit

    return fits
