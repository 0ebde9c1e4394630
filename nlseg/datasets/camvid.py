"""CamVid: road scenes of Cambridge, 11 classes, in the folders of the SegNet tutorial."""

from typing import Any, ClassVar

from nlseg.datasets.base import BaseSegDataset
from nlseg.registry import DATASETS
from nlseg.structures import IGNORE_INDEX

_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid as ``images/<split>/*.jpg`` and ``annotations/<split>/*.png``.

    Index 11 of the label files, "unlabelled", is ignored; no converter is needed.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": tuple(_CLASSES),
        "palette": [list(colour) for colour in _CLASSES.values()],
    }
    LABEL_MAP: ClassVar[dict[int, int] | None] = {11: IGNORE_INDEX}
