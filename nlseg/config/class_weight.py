"""Class weights that a config leaves to the data: where ``'auto'`` stands, and numbers for it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from nlseg.config.origin import KeyPath
from nlseg.config.places import at, walk

AUTO = "auto"
KEY = "class_weight"


def auto_weight_places(model: Any) -> list[KeyPath]:
    """List where a model config leaves class weights to the data.

    Args:
        model: The config of a model, or of a wrapper with one inside.
    """
    return [path for path, value in walk(model) if path[-1:] == (KEY,) and value == AUTO]


def with_class_weights(model: Any, weights: Sequence[float] | None) -> Any:
    """Return a copy of a model config that has numbers wherever it leaves them to the data.

    Args:
        model: The config of a model, or of a wrapper with one inside; it stays as it is.
        weights: One for each class; None for a network that computes no loss.
    """
    filled = copy.deepcopy(model)
    for path in auto_weight_places(model):
        loss = at(filled, path[:-1])
        loss[KEY] = None if weights is None else list(weights)
    return filled


def weights_at(model: Any, places: Sequence[KeyPath]) -> list[float] | None:
    """Return the numbers that another config of the same model has in these places.

    Args:
        model: The config, such as the one that a checkpoint holds.
        places: From ``auto_weight_places``.

    Returns:
        The numbers; None where one of the places holds none, or not the same.
    """
    found = [at(model, path) if isinstance(model, Mapping) else None for path in places]
    numbers = found[0] if found and isinstance(found[0], list | tuple) else None
    return None if numbers is None or any(one != numbers for one in found) else list(numbers)
