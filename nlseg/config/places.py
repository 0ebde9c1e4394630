"""Finding the places of a config that one short name stands for."""

from collections.abc import Callable, Iterator
from typing import Any

from nlseg.config.origin import KeyPath, dotted
from nlseg.errors import ConfigError

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value of a config with its path, outermost first."""
    yield path, value
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        yield from walk(item, (*path, key))


def at(config: Any, path: KeyPath) -> Any:
    """Return the value at a path, or None where there is none."""
    for key in path:
        if isinstance(config, dict):
            config = config.get(key)
        elif isinstance(config, (list, tuple)) and isinstance(key, int) and key < len(config):
            config = config[key]
        else:
            return None
    return config


def keys_below(config: Any, key: str, *tops: str) -> list[KeyPath]:
    """List the paths that end in a key, below given top-level keys."""
    return [
        path
        for top in tops
        for path, _ in walk(config.get(top), (top,))
        if path[-1] == key and "metainfo" not in path
    ]


def _data_roots(config: Any) -> list[KeyPath]:
    """List the roots in the loaders, and in variables such as ``dataset_train`` that they use."""
    paths = keys_below(config, "data_root", *LOADERS)
    roots = [at(config, path) for path in paths]
    variables = [name for name in config if str(name).startswith("dataset_")]
    copied = keys_below(config, "data_root", *variables)
    return paths + [path for path in copied if at(config, path) in roots]


def _train_pipelines(config: Any) -> list[KeyPath]:
    return keys_below(config, "pipeline", "train_dataloader")


def _test_pipelines(config: Any) -> list[KeyPath]:
    return keys_below(config, "pipeline", "val_dataloader", "test_dataloader")


def _num_classes(config: Any) -> list[KeyPath]:
    return keys_below(config, "num_classes", "model")


def _norms(config: Any) -> list[KeyPath]:
    return keys_below(config, "norm_cfg", "model")


def _batch_size(config: Any) -> list[KeyPath]:
    return [("train_dataloader", "batch_size")] if "train_dataloader" in config else []


def _learning_rate(config: Any) -> list[KeyPath]:
    """List the rates of the optimizer, and in the variable ``optimizer`` those that it copies."""
    paths = keys_below(config, "lr", "optim_wrapper")
    rates = [at(config, path) for path in paths]
    copied = keys_below(config, "lr", "optimizer")
    return paths + [path for path in copied if not paths or at(config, path) in rates]


def _workers(config: Any) -> list[KeyPath]:
    return [(name, "num_workers") for name in LOADERS if config.get(name)]


PLACES: dict[str, Callable[[Any], list[KeyPath]]] = {
    "batch_size": _batch_size,
    "data_root": _data_roots,
    "lr": _learning_rate,
    "norm_cfg": _norms,
    "num_classes": _num_classes,
    "num_workers": _workers,
    "test_pipeline": _test_pipelines,
    "train_pipeline": _train_pipelines,
}
"""Short names that put one value into several places."""

AGREEING = ("data_root", "lr", "norm_cfg", "test_pipeline", "train_pipeline")
"""Short names whose places have to hold equal values: else one value for all is no clear wish."""


def places_of(config: Any, name: str) -> list[KeyPath]:
    """List where a short name's value goes.

    Args:
        config: The config.
        name: A key of ``PLACES``.

    Returns:
        Paths, at least one.

    Raises:
        ConfigError: The config has no such place, or its places differ today.
    """
    paths = PLACES[name](config)
    if not paths:
        raise ConfigError(f"{name}: this config has no place for it")
    values = [at(config, path) for path in paths]
    if name in AGREEING and any(value != values[0] for value in values):
        listed = "".join(
            f"\n    {dotted(path)}={value!r:.60}" for path, value in zip(paths, values, strict=True)
        )
        raise ConfigError(f"{name}: its places differ, so set one of them by its path:{listed}")
    return paths
