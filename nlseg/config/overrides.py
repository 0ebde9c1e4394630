"""Overrides of a config: ``key=value``, where the key is a path or a short name."""

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from nlseg.config.linked import LINKED, Change
from nlseg.config.literals import parse_value, split_override
from nlseg.config.origin import Key, KeyPath, Trace
from nlseg.config.places import LOADERS, PLACES, at, places_of
from nlseg.config.runner_keys import KNOWN_KEYS
from nlseg.errors import ConfigError, nearest

FLAG = "--cfg-options"


def apply_overrides(config: Config, overrides: Sequence[str], trace: Trace) -> list[str]:
    """Lay overrides over a config: short names first, then paths, each in the order given.

    A short name (``crop_size``, ``lr``, ``max_iters``, ...) reaches every place that holds its
    value. So does a variable of the config files: setting ``train_pipeline.3.prob`` sets it in the
    data sets too. A part of a path that is a number is a position in a list.

    Args:
        config: Changed in place.
        overrides: ``key=value`` strings.
        trace: Origins of the config; the overridden values get the override as theirs.

    Returns:
        Why overrides were refused, one text each; the others are applied.
    """
    errors, pairs = [], []
    for text in overrides:
        try:
            pairs.append(split_override(text))
        except ConfigError as error:
            errors.append(str(error))
    pairs.sort(key=lambda pair: pair[0] not in LINKED and pair[0] not in PLACES)
    for key, value in pairs:
        try:
            _apply(config, key, value, trace)
        except ConfigError as error:
            errors.append(f"{FLAG} {key}={value}: {error}")
    _settle_workers(config, trace)
    return errors


def _apply(config: Config, key: str, text: str, trace: Trace) -> None:
    for path, value in _changes(ConfigDict(config.items()), key, text, trace):
        set_value(config, path, value)
        trace.root.put(path, value, f"{FLAG} {key}={text}")


def _changes(config: ConfigDict, key: str, text: str, trace: Trace) -> list[Change]:
    """Translate one override into paths and values."""
    if key in LINKED:
        return LINKED[key](config, parse_value(text, like=()))
    top, *rest = key.split(".")
    paths = [_resolve(config, (*path, *rest)) for path in _tops(config, top, trace)]
    value = parse_value(text, like=at(config, paths[0]))
    return [(path, value) for path in paths]


def _tops(config: ConfigDict, top: str, trace: Trace) -> list[KeyPath]:
    """List the paths that the first part of a key stands for."""
    own: list[KeyPath] = [(top,)] if top in config else []
    if top in PLACES:
        return own + places_of(config, top)
    if top in KNOWN_KEYS and top != "data_preprocessor":
        return [(top,)]
    if not own:
        choices = {*config, *KNOWN_KEYS, *PLACES, *LINKED}
        raise ConfigError(f"the config has no {top!r}{nearest(top, choices)}")
    copies = list(trace.root.copies_of(top))
    if not copies:
        raise ConfigError(f"{top!r} was used up while the files were read; set what it was used in")
    return own + [path for path in copies if path[0] != top]


def _resolve(config: ConfigDict, parts: tuple[Any, ...]) -> KeyPath:
    """Turn the parts of a path that index lists into numbers, and refuse a way that ends early."""
    path: list[Key] = []
    holder: Any = config
    for part in parts:
        key = _position(holder, part, path) if isinstance(holder, (list, tuple)) else part
        if holder is not None and not isinstance(holder, (dict, list, tuple)):
            raise ConfigError(f"{'.'.join(map(str, path))} is {holder!r}, which has no {part!r}")
        path.append(key)
        holder = at(holder, (key,))
    return tuple(path)


def _position(holder: Sequence[Any], part: Any, path: Sequence[Key]) -> int:
    try:
        position = int(part)
    except ValueError:
        position = len(holder)
    if not -len(holder) <= position < len(holder):
        where = ".".join(map(str, path))
        raise ConfigError(
            f"{where} is a list: expected a position in 0..{len(holder) - 1}, given {part!r}"
        )
    return position % len(holder)


def set_value(config: Config, path: KeyPath, value: Any) -> None:
    """Put a value at a path. Dicts are made on the way, a dict is merged into a dict.

    Args:
        config: Changed in place.
        path: Keys and list positions that exist, except for keys of dicts.
        value: The new value.
    """
    config[path[0]] = _with(config.get(path[0]), path[1:], value)


def _with(holder: Any, path: KeyPath, value: Any) -> Any:
    """Return a copy of a holder with one value inside replaced, tuples staying tuples."""
    if not path:
        if isinstance(holder, dict) and isinstance(value, dict):
            result = ConfigDict(holder)
            result.merge(ConfigDict(value))
            return result
        return value
    if isinstance(holder, (list, tuple)):
        items = list(holder)
        items[int(path[0])] = _with(items[int(path[0])], path[1:], value)
        return type(holder)(items)
    result = ConfigDict(holder or {})
    result[path[0]] = _with(result.get(path[0]), path[1:], value)
    return result


def _settle_workers(config: Config, trace: Trace) -> None:
    """Drop what only worker processes need where an override sets ``num_workers`` to 0."""
    for loader in LOADERS:
        settings = config.get(loader)
        origin = trace.where((loader, "num_workers"))
        if not settings or settings.get("num_workers") != 0 or not origin.startswith(FLAG):
            continue
        for key, value in (("persistent_workers", False), ("prefetch_factor", None)):
            if settings.get(key):
                settings[key] = value
                trace.root.put((loader, key), value, origin)
