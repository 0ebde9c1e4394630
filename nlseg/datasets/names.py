"""Class names and palettes by the short names of data sets."""

from typing import Any

from nlseg.datasets.ade20k import ADE20KDataset
from nlseg.datasets.base import BaseSegDataset
from nlseg.datasets.camvid import CamVidDataset
from nlseg.datasets.cityscapes import CityscapesDataset
from nlseg.datasets.pascal_voc import PascalVOCDataset
from nlseg.errors import ConfigError

ALIASES: dict[str, type[BaseSegDataset]] = {
    "cityscapes": CityscapesDataset,
    "ade": ADE20KDataset,
    "ade20k": ADE20KDataset,
    "voc": PascalVOCDataset,
    "pascal_voc": PascalVOCDataset,
    "voc12": PascalVOCDataset,
    "voc12aug": PascalVOCDataset,
    "camvid": CamVidDataset,
}


def _metainfo(name: str) -> dict[str, Any]:
    if name not in ALIASES:
        raise ConfigError(f"data set {name!r} is not one of {', '.join(ALIASES)}")
    return ALIASES[name].METAINFO


def get_classes(name: str) -> list[str]:
    """Return the class names of a data set by its short name.

    Raises:
        ConfigError: The name is unknown.
    """
    return list(_metainfo(name)["classes"])


def get_palette(name: str) -> list[list[int]]:
    """Return the RGB colours of a data set's classes by its short name.

    Raises:
        ConfigError: The name is unknown.
    """
    return [list(colour) for colour in _metainfo(name)["palette"]]
