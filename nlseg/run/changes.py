"""What differs between the settings a checkpoint was trained with and those it is resumed with."""

from collections.abc import Mapping
from textwrap import indent
from typing import Any

from nlseg.run import distributed
from nlseg.run.checkpoint import plain
from nlseg.run.loaders import batch_size_of
from nlseg.table import format_table

_MOVING = ("params", "lr", "initial_lr", "foreach", "fused")
SCHEDULE = ("max_iters", "max_epochs", "optimizer", "param_scheduler", "accumulation")


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
        "processes": distributed.world_size(),
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


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ: name to (before, now)."""
    before, now = _flat(old), _flat(new)
    names = [*now, *(name for name in before if name not in now)]
    return {
        name: (before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    }


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(_flat(item, f"{name}.{key}" if name else str(key)))
    return flat


def schedule_changed(changes: Mapping[str, Any]) -> bool:
    """Tell whether learning rates have to be computed anew."""
    return any(name.split(".")[0] in SCHEDULE for name in changes)


def table(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Write the changed settings as a table."""
    rows = [(name, str(before), str(now)) for name, (before, now) in changes.items()]
    return indent(format_table(["setting", "in the checkpoint", "now"], rows, rule=False), "  ")
