"""The state of a run between two iterations: collect it into a checkpoint, restore it from one."""

import time
from collections.abc import Mapping
from typing import Any

import mmengine
import torch
from mmengine.optim import OptimWrapper

import nlseg
from nlseg.run import processes
from nlseg.run.checkpoint import plain
from nlseg.run.loaders import batch_size_of
from nlseg.run.logs import recent_values

_MOVING = ("params", "lr", "initial_lr", "foreach", "fused")
_NOT_KEPT = ("cfg", "dataset_meta")


def collect(
    runner: Any,
    *,
    iteration: int,
    epoch: int,
    optimizer: bool = True,
    schedule: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect a run's state under OpenMMLab's keys; tensors are still those of the run.

    Args:
        runner: The runner.
        iteration: Iterations trained.
        epoch: Epochs trained.
        optimizer: Whether to include the optimizer.
        schedule: Whether to include the parameter schedulers.
        extra: More entries of ``meta``.
    """
    checkpoint: dict[str, Any] = {
        "meta": {**_meta(runner, iteration), **(extra or {}), "iter": iteration, "epoch": epoch},
        "state_dict": dict(processes.unwrap(runner.model).state_dict()),
        "message_hub": _messages(runner.message_hub),
    }
    if optimizer and isinstance(runner.optim_wrapper, OptimWrapper):
        checkpoint["optimizer"] = runner.optim_wrapper.state_dict()
    if schedule and runner.param_schedulers is not None:
        checkpoint["param_schedulers"] = scheduler_states(runner.param_schedulers)
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    return checkpoint


def _meta(runner: Any, iteration: int) -> dict[str, Any]:
    loop = runner.train_loop
    return {
        "seed": runner.seed,
        "cfg": runner.config_text,
        "dataset_meta": plain(dict(getattr(loop.dataloader.dataset, "metainfo", None) or {})),
        "experiment_name": runner.experiment_name,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "mmengine_version": mmengine.__version__,
        "nlseg_version": nlseg.__version__,
        "torch_version": str(torch.__version__),
        "world_size": processes.world_size(),
        "samples": loop.samples_after(iteration),
        "jumped": loop.jumped,
        "non_finite": runner.control.guard.happened,
        "settings": describe_settings(runner),
        "recent": recent_values(runner.message_hub, int(runner.log_processor.window_size)),
    }


def _messages(hub: Any) -> dict[str, Any]:
    """Keep the message hub's plain facts, in the form that mmengine reads; no history."""
    infos = {
        key: value
        for key, value in hub.runtime_info.items()
        if key not in _NOT_KEPT and isinstance(value, (bool, int, float, str))
    }
    return {"log_scalars": {}, "runtime_info": infos, "resumed_keys": dict.fromkeys(infos, True)}


def scheduler_states(schedulers: Any) -> Any:
    """Collect the states of a list of schedulers, or of a dict of lists."""
    if isinstance(schedulers, Mapping):
        return {name: scheduler_states(items) for name, items in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers]


def describe_settings(runner: Any) -> dict[str, Any]:
    """Return the settings that decide how training goes on, as plain values."""
    loop = runner.train_loop
    wrapper = runner.optim_wrapper
    dataset = loop.dataloader.dataset
    return {
        "max_iters": loop.max_iters,
        "max_epochs": loop.max_epochs,
        "optimizer": _of_optimizer(wrapper),
        "param_scheduler": plain(runner.scheduler_config),
        "accumulation": getattr(wrapper, "_accumulative_counts", 1),
        "batch_size": batch_size_of(loop.dataloader),
        "processes": processes.world_size(),
        "images": len(dataset),
        "dataset": type(dataset).__name__,
        "seed": runner.seed,
    }


def _of_optimizer(wrapper: Any) -> dict[str, Any]:
    optimizer = getattr(wrapper, "optimizer", None)
    if optimizer is None:
        return {}
    groups = [
        {
            **{key: plain(value) for key, value in group.items() if key not in _MOVING},
            "lr": group.get("initial_lr", group.get("lr")),
        }
        for group in optimizer.param_groups
    ]
    same = all(group == groups[0] for group in groups)
    return {"type": type(optimizer).__name__, "groups": groups[:1] if same else groups}
