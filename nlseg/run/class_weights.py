"""Class weights that a run takes from its training data, or from the run that it resumes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch.utils.data import DataLoader

from nlseg.config.class_weight import auto_weight_places, weights_at, with_class_weights
from nlseg.config.literals import parse_assignments
from nlseg.config.origin import KeyPath
from nlseg.datasets.class_counts import ClassCounts, count_classes, median_frequency_weights
from nlseg.errors import CheckpointError, ConfigError
from nlseg.registry import DATASETS
from nlseg.run import processes
from nlseg.run.protocol import RunnerProtocol
from nlseg.table import format_table
from nlseg.weights.files import read_checkpoint


def fill_class_weights(
    runner: RunnerProtocol, model: Any, loader: Any, start: Callable[[], Path | None]
) -> Any:
    """Put numbers where a model's config leaves class weights to the data.

    In training they are those of the checkpoint that the run resumes from, where its config holds
    them, and else the median frequency weights of the training data, counted by process 0; all
    processes get the same. The config of the run then holds the numbers. A test computes no loss
    and needs none.

    Args:
        runner: Its log is there, its network is not.
        model: The model's config, or the model itself.
        loader: The training loader or its config; None without training.
        start: Returns the checkpoint that the run will resume from, None for a new run.

    Returns:
        The model's config with numbers.
    """
    places = auto_weight_places(model) if isinstance(model, Mapping) else []
    if not places:
        return model
    if loader is None:
        return with_class_weights(model, None)
    path = start()
    weights = None if path is None else _of_checkpoint(runner, path, places)
    if weights is None:
        weights = _of_data(runner, loader)
    filled = with_class_weights(model, weights)
    if isinstance(runner.cfg.get("model"), Mapping):
        runner.cfg.model = with_class_weights(runner.cfg.model, weights)
    return filled


def _of_checkpoint(
    runner: RunnerProtocol, path: Path, places: Sequence[KeyPath]
) -> list[float] | None:
    """Return the numbers in the config of a checkpoint, if there are any."""
    found = json.dumps(_stored(path, places)) if processes.is_main() else ""
    weights: list[float] | None = json.loads(processes.broadcast_text(found))
    if weights is not None:
        runner.logger.info(f"class_weight='auto': as in {path}: {weights}")
    return weights


def _stored(path: Path, places: Sequence[KeyPath]) -> list[float] | None:
    try:
        text = read_checkpoint(path).get("meta", {}).get("cfg")
        return weights_at(parse_assignments(text).get("model"), places) if text else None
    except (CheckpointError, ConfigError):
        return None  # told, with its reason, when the run resumes from it


def _of_data(runner: RunnerProtocol, loader: Any) -> list[float]:
    """Count the classes of the training data in process 0."""
    weights = ""
    if processes.is_main():
        dataset: Any = loader.dataset if isinstance(loader, DataLoader) else _dataset_of(loader)
        if hasattr(dataset, "set_seed"):
            dataset.set_seed(runner.seed)
        counts = count_classes(dataset, progress=True)
        numbers = median_frequency_weights(counts.pixels, counts.area).tolist()
        names = dataset.metainfo["classes"]
        runner.logger.info(f"class_weight='auto':\n{weight_table(names, counts, numbers)}")
        weights = json.dumps(numbers)
    found: list[float] = json.loads(processes.broadcast_text(weights))
    return found


def _dataset_of(loader: Mapping[str, Any]) -> Any:
    settings = loader.get("dataset")
    if not isinstance(settings, Mapping):
        return settings
    return DATASETS.build(Config(dict(settings)).to_dict())


def weight_table(names: Sequence[str], counts: ClassCounts, weights: Sequence[float]) -> str:
    """Lay out what was counted: class, share of the labelled pixels, weight.

    Args:
        names: Of the classes.
        counts: What was counted.
        weights: One for each class.
    """
    total = max(1, int(counts.pixels.sum()))
    rows = [
        (name, f"{100 * pixels / total:.3f} %", f"{weight:g}")
        for name, pixels, weight in zip(names, counts.pixels.tolist(), weights, strict=True)
    ]
    table = format_table(("class", "labelled pixels", "weight"), rows)
    return f"{table}\nmedian frequency of {counts.images} training images"
