"""Weights of the classes: given as numbers, or in a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import yaml
from torch import Tensor

from nlseg.errors import ConfigError


def class_weights(source: Sequence[float] | str | None) -> Tensor | None:
    """Return class weights (K,) given as numbers or as a file, None for None."""
    return None if source is None else torch.tensor(read_class_weight(source))


def read_class_weight(source: Sequence[float] | str) -> list[float]:
    """Return class weights given as numbers or as the path of a .npy, .json or .yaml file.

    Raises:
        ConfigError: For a file that is not there, has another suffix or does not hold numbers.
    """
    if not isinstance(source, str):
        return [float(value) for value in source]
    if source == "auto":
        raise ConfigError(
            "class_weight: 'auto' is counted by a run from its training data; a loss by itself has "
            "none, so give it numbers (tools/check_data.py suggests some)"
        )
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"class_weight: {source} is not a file; 'auto' counts weights in the training data, "
            "tools/check_data.py suggests weights"
        )
    if path.suffix == ".npy":
        values = np.load(path, allow_pickle=False).tolist()
    elif path.suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in (".yaml", ".yml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    else:
        raise ConfigError(f"class_weight: {source} is not a .npy, .json or .yaml file")
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
        raise ConfigError(f"class_weight: {source} does not hold a list of numbers")
    return [float(value) for value in cast("list[float]", values)]
