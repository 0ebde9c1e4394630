"""What a checkpoint must hold for a run to go on from it: checked before any of it is used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict
from torch import Tensor
from torch.optim import Optimizer

from nlseg.errors import CheckpointError, UserError
from nlseg.run.checkpoint import plain
from nlseg.weights import fields
from nlseg.weights.fitting import shorten

_COUNTS = ("epoch", "samples", "jumped", "non_finite", "seed")
_COUNTED_SETTINGS = ("max_iters", "max_epochs", "batch_size", "processes", "images")


def check_meta(content: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Return the ``meta`` of a checkpoint, every field of which can be used.

    Raises:
        CheckpointError: One cannot; it is named.
    """
    meta = fields.mapping(content, "meta", source)
    fields.count(meta, "meta.iter", source)
    for name in _COUNTS:
        if meta.get(name) is not None:
            fields.count(meta, f"meta.{name}", source)
    settings = fields.mapping(meta, "meta.settings", source)
    for name in _COUNTED_SETTINGS:
        if settings.get(name) is not None:
            fields.count(settings, f"meta.settings.{name}", source)
    identity = fields.mapping(meta, "meta.identity", source)
    if not all(isinstance(text, str) for pair in identity.items() for text in pair):
        raise CheckpointError(f"{source}: meta.identity: holds what is no text")
    _check_best(fields.mapping(meta, "meta.best", source), source)
    _check_recent(meta, source)
    return meta


def _check_recent(meta: Mapping[str, Any], source: str) -> None:
    for name, values in fields.mapping(meta, "meta.recent", source).items():
        place = f"meta.recent.{shorten(name)}"
        if not isinstance(name, str) or not isinstance(values, (list, tuple)):
            raise CheckpointError(f"{source}: {place}: is no list of numbers; the file was changed")
        if not all(isinstance(value, (int, float)) for value in values):
            raise CheckpointError(f"{source}: {place}: holds what is no number")


def _check_best(best: Mapping[Any, Any], source: str) -> None:
    for key in best:
        place = f"meta.best.{shorten(key)}"
        entry = fields.mapping(best, f"meta.best.{key}", source)
        fields.number(entry, f"{place}.score", source)
        fields.count(entry, f"{place}.iter", source)
        name = entry.get("file")
        if not isinstance(name, str) or not name or "/" in name or "\0" in name:
            raise CheckpointError(f"{source}: {place}.file: is no name of a file")
        unscored = entry.get("unscored", [])
        if not isinstance(unscored, list) or not all(isinstance(one, str) for one in unscored):
            raise CheckpointError(f"{source}: {place}.unscored: is no list of names")


def check_average(content: Mapping[str, Any], source: str) -> None:
    """Refuse averaged weights that are no finite tensors of the shapes of the others.

    Raises:
        CheckpointError: One is not; it is named.
    """
    average = fields.mapping(content, "ema_state_dict", source)
    weights = fields.mapping(content, "state_dict", source)
    for both in (average, weights) if average else ():
        for key, value in both.items():
            place = f"{'ema_state_dict' if both is average else 'state_dict'}.{shorten(key)}"
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise CheckpointError(f"{source}: {place}: is no tensor; the file was changed")
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"{source}: {place}: holds NaN or infinity")
    for key, value in average.items():
        other = weights.get(key.removeprefix("module."))
        if key.startswith("module.") and (other is None or other.shape != value.shape):
            raise CheckpointError(f"{source}: ema_state_dict.{shorten(key)}: is no average of it")


def check_optimizers(wrapper: Any, state: Any, entries: Any, source: str) -> None:
    """Refuse the state of an optimizer that does not fit in every part.

    Args:
        wrapper: The optimizer wrapper, or several by name.
        state: What the checkpoint holds as ``optimizer``.
        entries: How many parameters had a state when it was written; None where that is not known.
        source: Name of the file.

    Raises:
        CheckpointError: It does not; the field is named.
    """
    parts = {"": wrapper}
    if isinstance(wrapper, OptimWrapperDict):
        parts = dict(wrapper.items())
    found = 0
    for name, part in parts.items():
        place = f"optimizer.{name}" if name else "optimizer"
        own: Any = fields.mapping({"optimizer": state}, "optimizer", source)
        if name:
            own = fields.mapping(own, place, source)
        optimizer = getattr(part, "optimizer", None)
        if isinstance(optimizer, Optimizer):
            fields.check_optimizer(own, optimizer, source, place)
            found += len(own["state"])
    if isinstance(entries, int) and entries != found:
        raise CheckpointError(
            f"{source}: optimizer.state: has {found} entries, but was written with {entries}; the "
            "file was changed"
        )


def check_schedulers(schedulers: Any, states: Any, source: str, place: str) -> None:
    """Refuse states of schedulers whose fields are others, or of another type.

    Args:
        schedulers: A list of schedulers, or such lists by name.
        states: What the checkpoint holds.
        source: Name of the file.
        place: Dotted name of the field in the file.

    Raises:
        CheckpointError: They do not fit; the field is named.
    """
    if isinstance(schedulers, Mapping):
        given = states if isinstance(states, Mapping) else {}
        for name, items in schedulers.items():
            check_schedulers(items, given.get(name), source, f"{place}.{name}")
        return
    if not isinstance(states, (list, tuple)) or len(states) != len(schedulers):
        raise CheckpointError(
            f"{source}: {place}: is not the state of {len(schedulers)} schedulers; the file was "
            "changed, or belongs to another run"
        )
    for index, (scheduler, state) in enumerate(zip(schedulers, states, strict=True)):
        where, own = f"{place}[{index}]", plain(scheduler.state_dict())
        if not isinstance(state, Mapping) or state.keys() != own.keys():
            raise CheckpointError(f"{source}: {where}: is not the state of this scheduler")
        for key, value in own.items():
            if not _alike(value, state[key]):
                raise CheckpointError(
                    f"{source}: {where}.{key}: is {shorten(repr(state[key]))}, where a value such "
                    f"as {shorten(repr(value))} belongs"
                )


def _alike(own: Any, given: Any) -> bool:
    """Return whether a value is of the kind that a scheduler keeps there."""
    if isinstance(own, (list, tuple)):
        whole = isinstance(given, (list, tuple)) and len(given) == len(own)
        return whole and all(map(_alike, own, given))
    if isinstance(own, (int, float)):
        return isinstance(given, (int, float)) and abs(given) < 1 << 62
    return isinstance(given, type(own))


@contextmanager
def restoring(source: str, place: str) -> Iterator[None]:
    """Name the field of a checkpoint that somebody's ``load_state_dict`` could not take.

    Raises:
        CheckpointError: In place of what was raised within.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise CheckpointError(
            f"{source}: {place}: cannot be restored: {type(error).__name__}: {reason}"
        ) from error
