"""The parts of a config that checks compare: heads, data sets, transforms."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlseg.config.families import find_class
from nlseg.config.origin import KeyPath
from nlseg.config.places import LOADERS, at, walk
from nlseg.datasets.metainfo import read_classes
from nlseg.registry import DATASETS

Problem = tuple[KeyPath, str, bool]
"""Place, what is wrong, and whether the run cannot be right."""


def error(path: KeyPath, text: str) -> Problem:
    """Make a finding that stops the run."""
    return path, text, True


def warning(path: KeyPath, text: str) -> Problem:
    """Make a finding that may be meant."""
    return path, text, False


def parts_below(value: Any, path: KeyPath) -> list[tuple[KeyPath, Any]]:
    """List a dict, or the dicts of a list, with their paths."""
    if isinstance(value, (list, tuple)):
        items = [((*path, index), item) for index, item in enumerate(value)]
    else:
        items = [(path, value)]
    return [(where, item) for where, item in items if isinstance(item, dict)]


def heads_of(config: Any) -> list[tuple[KeyPath, Any]]:
    """List the decode heads and then the auxiliary heads."""
    found = []
    for name in ("decode_head", "auxiliary_head"):
        found += parts_below(at(config, ("model", name)), ("model", name))
    return found


def leaf_datasets(config: Any, *loaders: str) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the data sets that read files, below ``ConcatDataset`` and the like."""
    for loader in loaders:
        for path, item in walk(at(config, (loader, "dataset")), (loader, "dataset")):
            is_set = isinstance(item, dict) and "type" in item and "pipeline" not in path[2:]
            if is_set and not ({"dataset", "datasets"} & item.keys()):
                yield path, item


def datasets_of(config: Any) -> Iterator[tuple[str, int]]:
    """Yield name, with its first loader, and number of classes of each data set that tells it."""
    seen = set()
    for path, dataset in leaf_datasets(config, *LOADERS):
        count = class_count(dataset)
        name = str(dataset["type"])
        if count is not None and (name, count) not in seen:
            seen.add((name, count))
            yield f"{name} of {path[0]}", count


def class_count(dataset: Any) -> int | None:
    """Return how many classes a data set has.

    Args:
        dataset: Its config; ``metainfo.classes`` may be a list or a text file.

    Returns:
        Their number, None where neither the config nor the class says it.
    """
    classes = at(dataset, ("metainfo", "classes"))
    if classes is None:
        found = find_class(dataset["type"], DATASETS)
        classes = getattr(found, "METAINFO", {}).get("classes")
    if isinstance(classes, str):
        return len(read_classes(classes, "classes")) if Path(classes).is_file() else None
    return len(classes) if isinstance(classes, (list, tuple)) else None


def train_transforms(config: Any) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every transform of the training pipelines."""
    for path, dataset in leaf_datasets(config, "train_dataloader"):
        for index, transform in enumerate(dataset.get("pipeline") or ()):
            if isinstance(transform, dict):
                yield (*path, "pipeline", index), transform
