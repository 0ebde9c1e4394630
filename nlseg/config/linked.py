"""Short names whose value changes other numbers with it: crop size, length of the run."""

from collections.abc import Callable
from typing import Any

from nlseg.config.origin import KeyPath
from nlseg.config.places import at, walk
from nlseg.errors import ConfigError

Change = tuple[KeyPath, Any]
EVALUATION = ("val_dataloader", "test_dataloader", "test_pipeline", "tta_pipeline")


def crop_size_changes(config: Any, value: Any) -> list[Change]:
    """Say what a new crop size changes: crops, their padding, and sliding windows of that size.

    Args:
        config: The config.
        value: Height and width in px, or one number for a square.

    Returns:
        Paths and new values. A window that was as large as the crop becomes as large as the new
        one, and its stride keeps its share of it.

    Raises:
        ConfigError: The value is no size, or nothing is cropped.
    """
    size = _size(value)
    changes: list[Change] = []
    for path, item in walk(config):
        if isinstance(item, dict) and path and path[0] not in EVALUATION:
            changes += _crop_in(path, item, size)
    if not changes:
        raise ConfigError("crop_size: this config crops nothing")
    old = next((at(config, path) for path, _ in changes if path[-1] == "crop_size"), None)
    variable: list[Change] = [(("crop_size",), size)] if "crop_size" in config else []
    return variable + changes + _window_changes(config, old, size)


def _size(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    whole = isinstance(pair, (list, tuple)) and all(type(side) is int for side in pair)
    if not whole or len(pair) != 2 or min(pair) < 1:
        raise ConfigError(f"crop_size: expected (height, width) in px, given {value!r}")
    return pair[0], pair[1]


def _crop_in(path: KeyPath, item: dict[str, Any], size: tuple[int, int]) -> list[Change]:
    kind = str(item.get("type")).rpartition(".")[2]
    if kind == "RandomCrop":
        return [((*path, "crop_size"), size)]
    if kind == "Pad" and item.get("size") is not None:
        return [((*path, "size"), size[::-1])]
    if path[-1] == "data_preprocessor" and item.get("size") is not None:
        return [((*path, "size"), size)]
    return []


def _window_changes(config: Any, old: Any, size: tuple[int, int]) -> list[Change]:
    path: KeyPath = ("model", "test_cfg")
    window, stride = at(config, (*path, "crop_size")), at(config, (*path, "stride"))
    if old is None or window is None or stride is None or tuple(window) != tuple(old):
        return []
    new = tuple(max(1, s * n // o) for s, n, o in zip(stride, size, old, strict=True))
    return [((*path, "crop_size"), size), ((*path, "stride"), new)]


def max_iters_changes(config: Any, value: Any) -> list[Change]:
    """Say what a new number of iterations changes; see ``_length_changes``."""
    return _length_changes(config, value, "max_iters", by_epoch=False)


def max_epochs_changes(config: Any, value: Any) -> list[Change]:
    """Say what a new number of epochs changes; see ``_length_changes``."""
    return _length_changes(config, value, "max_epochs", by_epoch=True)


def _length_changes(config: Any, value: Any, key: str, *, by_epoch: bool) -> list[Change]:
    """Scale what counts in the same unit as the run: schedules, validation, checkpoints."""
    old = at(config, ("train_cfg", key))
    if old is None:
        other = "max_epochs" if key == "max_iters" else "max_iters"
        hint = f"; it counts {other}" if at(config, ("train_cfg", other)) else ""
        raise ConfigError(f"{key}: train_cfg has no {key}{hint}")
    if type(value) is not int or value < 1:
        raise ConfigError(f"{key}: expected a whole number from 1, given {value!r}")
    changes: list[Change] = [(("train_cfg", key), value)]
    interval = at(config, ("train_cfg", "val_interval"))
    if interval is not None:
        changes.append((("train_cfg", "val_interval"), scaled(interval, value, old)))
    saving: KeyPath = ("default_hooks", "checkpoint")
    saved = at(config, saving) or {}
    if saved.get("by_epoch", True) == by_epoch and saved.get("interval", -1) > 0:
        changes.append(((*saving, "interval"), scaled(saved["interval"], value, old)))
    return changes + _schedule_changes(config, value, old, by_epoch=by_epoch)


def scaled(number: int, new: int, old: int) -> int:
    """Scale a count with the length of the run: at least 1, at most the run."""
    return max(1, min(new, round(number * new / old)))


def _schedule_changes(config: Any, new: int, old: int, *, by_epoch: bool) -> list[Change]:
    schedulers = config.get("param_scheduler") or []
    one = isinstance(schedulers, dict)
    changes: list[Change] = []
    for index, scheduler in enumerate([schedulers] if one else schedulers):
        path: KeyPath = ("param_scheduler",) if one else ("param_scheduler", index)
        if scheduler.get("by_epoch", True) != by_epoch:
            continue
        for key in ("end", "T_max", "total_iters"):
            if scheduler.get(key) == old:
                changes.append(((*path, key), new))
    return changes


LINKED: dict[str, Callable[[Any, Any], list[Change]]] = {
    "crop_size": crop_size_changes,
    "max_epochs": max_epochs_changes,
    "max_iters": max_iters_changes,
}
"""Short names that change several numbers, each in its own way."""
