"""Pascal VOC 2012: photographs, 20 classes and background."""

from typing import Any, ClassVar

from nlseg.datasets.base import BaseSegDataset
from nlseg.errors import ConfigError
from nlseg.registry import DATASETS

_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


def voc_colour(index: int) -> list[int]:
    """Return the colour that VOC's palette files give an index.

    The bits of the index, three at a time, are the next lower bits of red, green and blue.

    Source: the colour map of the VOC development kit.
    """
    colour = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            colour[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colour


@DATASETS.register_module()
class PascalVOCDataset(BaseSegDataset):
    """Pascal VOC 2012, and with ``SegmentationClassAug`` and ``aug.txt`` the augmented set."""

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": _CLASSES,
        "palette": [voc_colour(index) for index in range(len(_CLASSES))],
    }

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the samples named in ``ann_file``.

        Raises:
            ConfigError: There is no ``ann_file``; most of VOC's images have no labels.
        """
        if not self.ann_file:
            raise ConfigError(
                "PascalVOCDataset.ann_file: not given; give the list of the split, such as "
                "'ImageSets/Segmentation/train.txt'"
            )
        return super().load_data_list()
