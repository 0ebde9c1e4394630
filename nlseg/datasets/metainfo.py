"""Class names, palettes and label maps: what a data set says about its classes."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nlseg.errors import ConfigError
from nlseg.structures import IGNORE_INDEX

_PALETTE_SEED = 42


def read_classes(classes: Any, where: str) -> list[str] | tuple[str, ...]:
    """Read class names given as a tuple, a list, or the path of a text file with one name a line.

    Returns:
        A list for a list, so that it equals what was given; else a tuple.

    Raises:
        ConfigError: A single string that is no file, a file that is not there, or no strings.
    """
    if isinstance(classes, str):
        if os.path.isfile(classes):
            with open(classes, encoding="utf-8") as file:
                return tuple(line.rstrip("\n\r") for line in file if line.strip())
        if classes.endswith(".txt") or os.sep in classes:
            raise ConfigError(f"{where}: the file {classes!r} with the class names is not there")
        raise ConfigError(
            f"{where}: the string {classes!r} is neither a list of names nor a file; "
            f"a tuple of one needs a comma: ({classes!r},)"
        )
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"{where}: {classes!r} is not a tuple or list of class names")
    return list(classes) if isinstance(classes, list) else tuple(classes)


def read_metainfo(
    standard: Mapping[str, Any], given: Mapping[str, Any] | None, where: str
) -> dict[str, Any]:
    """Merge what a class of data sets knows with what a config says; the config wins.

    Raises:
        ConfigError: ``given`` is no mapping, or its classes are not names.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{where}.metainfo: {given!r} is not a dict such as dict(classes=(...))")
    merged = {**copy.deepcopy(dict(standard)), **(given or {})}
    if merged.get("classes") is not None:
        merged["classes"] = read_classes(merged["classes"], f"{where}.metainfo.classes")
    return merged


def class_map(
    standard: Sequence[str] | None, chosen: Sequence[str] | None, where: str
) -> dict[int, int] | None:
    """Map the standard class indices to those of a chosen subset, dropped classes to 255.

    Returns:
        The map, or None where the classes are the standard ones or there is no standard.

    Raises:
        ConfigError: A chosen class is not among the standard ones.
    """
    if standard is None or chosen is None or list(standard) == list(chosen):
        return None
    unknown = [name for name in chosen if name not in standard]
    if unknown:
        raise ConfigError(
            f"{where}.metainfo.classes: {unknown} are not classes of this data set; choose among "
            f"{list(standard)}, or use BaseSegDataset for classes of your own"
        )
    places = {name: index for index, name in enumerate(chosen)}
    return {old: places.get(name, IGNORE_INDEX) for old, name in enumerate(standard)}


def fit_palette(
    palette: Sequence[Sequence[int]] | None,
    classes: Sequence[str],
    subset: Mapping[int, int] | None,
    where: str,
) -> list[list[int]]:
    """Return one RGB colour for each class.

    A palette of the right length is kept, one of the standard classes is cut to the chosen ones in
    their order, a longer one is kept, and without one the colours are drawn with a fixed seed.

    Raises:
        ConfigError: There are fewer colours than classes.
    """
    colours = [list(colour) for colour in palette or ()]
    if not colours:
        drawn = np.random.RandomState(_PALETTE_SEED).randint(0, 255, size=(len(classes), 3))
        return [[int(level) for level in colour] for colour in drawn]
    if len(colours) == len(classes):
        return colours
    if len(colours) < len(classes):
        raise ConfigError(
            f"{where}.metainfo.palette: {len(colours)} colours for {len(classes)} classes; "
            "give one (red, green, blue) for each class, or leave the palette out"
        )
    if subset is None:
        return colours
    chosen = sorted((new, old) for old, new in subset.items() if new != IGNORE_INDEX)
    return [colours[old] for _, old in chosen]


def join_label_maps(
    raw: Mapping[int, int] | None,
    subset: Mapping[int, int] | None,
    reduce_zero_label: bool,
    where: str,
) -> dict[int, int] | None:
    """Chain the map of raw label values with the map to a subset of the classes.

    Raises:
        ConfigError: Raw values are mapped and shifted.
    """
    if raw and reduce_zero_label:
        raise ConfigError(
            f"{where}: label_map and reduce_zero_label=True are both given; "
            "write the shift into label_map and leave reduce_zero_label out"
        )
    if raw is None:
        return None if subset is None else dict(subset)
    later = subset or {}
    joined = {int(old): later.get(new, new) for old, new in raw.items()}
    return {**later, **joined}
