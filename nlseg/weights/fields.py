"""Read what a checkpoint holds beside weights; what has the wrong type is named, never a crash."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlseg.errors import CheckpointError
from nlseg.weights.fitting import shorten
from nlseg.weights.inert_parts import Inert

_LARGEST = 1 << 62
_LIKE_THE_PARAMETER = {  # what PyTorch's optimizers keep in the shape of the parameter
    "momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg",
    "grad_avg", "acc_delta", "sum", "ax", "prev", "step_size",
}  # fmt: skip


def meta_in(checkpoint: Mapping[str, Any], source: str = "checkpoint") -> dict[str, Any]:
    """Return the classes and palette that a checkpoint names, new style or OpenMMLab 0.x.

    Raises:
        CheckpointError: They are no names and colours.
    """
    meta = mapping(checkpoint, "meta", source)
    known = mapping(meta, "meta.dataset_meta", source)
    classes = known.get("classes") or meta.get("CLASSES")
    palette = known.get("palette") if known else meta.get("PALETTE")
    if isinstance(palette, (Tensor, np.ndarray)):
        palette = palette.tolist()
    if classes is not None and not _all(classes, lambda name: isinstance(name, str)):
        raise _wrong(classes, "meta: classes", "a list of names", source)
    if palette is not None and not _all(palette, _is_colour):
        raise _wrong(palette, "meta: palette", "a list of colours", source)
    pairs = {"classes": classes, "palette": palette}
    return {name: value for name, value in pairs.items() if value is not None}


def _all(values: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(values, (list, tuple)) and all(map(holds, values))


def _is_colour(value: Any) -> bool:
    parts = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    return _all(parts, lambda part: isinstance(part, int) and 0 <= part <= 255) and len(parts) == 3


def mapping(values: Mapping[str, Any], place: str, source: str) -> Mapping[Any, Any]:
    """Return a field that holds a dict.

    Args:
        values: What holds the field.
        place: Dotted name of the field in the file; its last part is the key.
        source: Name of the file.

    Returns:
        An empty dict where the field is missing, None, or an object that was not loaded.

    Raises:
        CheckpointError: It is something else.
    """
    value = values.get(place.rpartition(".")[2])
    if value is None or isinstance(value, Inert):
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(value, place, "a dict", source)
    return value


def count(values: Mapping[str, Any], place: str, source: str, *, default: int | None = None) -> int:
    """Return a field that holds a whole number from 0.

    Args:
        values: What holds the field.
        place: Dotted name of the field in the file; its last part is the key.
        source: Name of the file.
        default: Stands for a field that is missing.

    Raises:
        CheckpointError: It is missing, or anything else.
    """
    value = values.get(place.rpartition(".")[2], default)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 0 <= value < _LARGEST:
        raise _wrong(value, place, "a whole number from 0", source)
    return int(value)


def number(values: Mapping[str, Any], place: str, source: str) -> float:
    """Return a field that holds a finite number.

    Args:
        values: What holds the field.
        place: Dotted name of the field in the file; its last part is the key.
        source: Name of the file.

    Raises:
        CheckpointError: It is missing, or anything else.
    """
    value: Any = values.get(place.rpartition(".")[2])
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not abs(value) <= _LARGEST:  # NaN is no number either
        raise _wrong(value, place, "a finite number", source)
    return float(value)


def _wrong(value: Any, place: str, expected: str, source: str) -> CheckpointError:
    shown = shorten(repr(value)) if isinstance(value, (str, int, float, Inert)) else None
    given = "missing" if value is None else shown or f"a {type(value).__name__}"
    return CheckpointError(f"{source}: {place}: is {given}, not {expected}; the file was changed")


def check_optimizer(
    state: Any, optimizer: torch.optim.Optimizer, source: str, place: str = "optimizer"
) -> None:
    """Refuse the state of another optimizer, or one that was changed, before any of it is loaded.

    Args:
        state: What the checkpoint holds under ``place``.
        optimizer: The one that is to go on from it.
        source: Name of the file.
        place: Dotted name of the field in the file.

    Raises:
        CheckpointError: Groups or parameters differ in number, or a value in type or shape, or a
            number is not finite; the field is named.
    """
    if not isinstance(state, Mapping):
        raise _wrong(state, place, "a dict", source)
    groups = state.get("param_groups")
    if not isinstance(groups, (list, tuple)):
        raise _wrong(groups, f"{place}.param_groups", "a list", source)
    own = optimizer.param_groups
    if len(groups) != len(own):
        raise CheckpointError(
            f"{source}: {place}.param_groups: has {len(groups)} groups, the optimizer {len(own)}"
        )
    parameters: dict[Any, Tensor] = {}
    for index, (group, now) in enumerate(zip(groups, own, strict=True)):
        where = f"{place}.param_groups[{index}]"
        parameters.update(zip(_numbers_of(group, now, where, source), now["params"], strict=True))
    if not isinstance(state.get("state"), Mapping):
        raise _wrong(state.get("state"), f"{place}.state", "a dict", source)
    shaped = type(optimizer).__module__.startswith("torch.optim.")
    _check_entries(state["state"], parameters, shaped, f"{place}.state", source)


def _check_entries(
    entries: Mapping[Any, Any],
    parameters: Mapping[Any, Tensor],
    shaped: bool,
    place: str,
    source: str,
) -> None:
    """Check what is kept for each parameter; of PyTorch's own optimizers shapes and names, too."""
    for key, entry in entries.items():
        where = f"{place}[{shorten(key)}]"
        if key not in parameters:
            raise CheckpointError(f"{source}: {where}: belongs to no parameter")
        _check_entry(entry, parameters[key].shape if shaped else None, where, source)
    if shaped:
        _check_names(entries, place, source)


def _check_names(entries: Mapping[Any, Mapping[Any, Any]], place: str, source: str) -> None:
    """Refuse a state of which some parameters lack what others have."""
    present = {
        key: {n for n, v in entry.items() if v is not None} for key, entry in entries.items()
    }
    every = set().union(*present.values())
    for key, names in present.items():
        if missing := every - names:
            name = shorten(min(map(str, missing)))
            raise CheckpointError(
                f"{source}: {place}[{shorten(key)}].{name}: is missing, other parameters have it"
            )


def _check_entry(entry: Any, shape: torch.Size | None, place: str, source: str) -> None:
    if not isinstance(entry, Mapping):
        raise _wrong(entry, place, "a dict", source)
    for name, value in entry.items():
        like = shape if name in _LIKE_THE_PARAMETER else None
        _check_value(value, like, f"{place}.{shorten(name)}", source)


def _numbers_of(group: Any, now: Mapping[str, Any], place: str, source: str) -> list[Any]:
    """Return the numbers that a saved group gives its parameters, and check its settings."""
    if not isinstance(group, Mapping):
        raise _wrong(group, place, "a dict", source)
    numbers = group.get("params")
    if not isinstance(numbers, (list, tuple)) or not all(isinstance(n, int) for n in numbers):
        raise _wrong(numbers, f"{place}.params", "a list of numbers", source)
    if len(numbers) != len(now["params"]):
        raise CheckpointError(
            f"{source}: {place}.params: has {len(numbers)} parameters, the optimizer "
            f"{len(now['params'])}"
        )
    for name, value in now.items():
        given = group.get(name)
        if name == "params" or given is None or isinstance(given, Tensor):
            continue
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number(group, f"{place}.{name}", source)
        elif isinstance(value, (list, tuple)) and not (
            isinstance(given, (list, tuple))
            and len(given) == len(value)
            and all(isinstance(item, (int, float, Tensor)) for item in given)
        ):
            raise _wrong(given, f"{place}.{name}", f"{len(value)} numbers", source)
    return list(numbers)


def _check_value(value: Any, shape: torch.Size | None, place: str, source: str) -> None:
    """Check one value of a parameter's state; without a shape only that it can be used at all."""
    if isinstance(value, Tensor):
        if shape is not None and value.shape != shape:
            raise CheckpointError(
                f"{source}: {place}: has shape {tuple(value.shape)}, its parameter {tuple(shape)}"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{source}: {place}: holds NaN or infinity")
    elif shape is not None and value is not None:
        raise _wrong(value, place, "a tensor", source)
    elif isinstance(value, (str, Inert)) or not _usable(value):
        raise _wrong(value, place, "a number or a tensor", source)


def _usable(value: Any) -> bool:
    return not isinstance(value, (int, float)) or abs(value) <= _LARGEST
