"""The counts of each single image of an evaluation, kept as the few pairs that occur in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine import dist
from numpy.typing import NDArray
from torch import Tensor

_TOGETHER = 32  # images whose counts leave a GPU at once, as each transfer waits for it


@dataclass(frozen=True)
class CountedImages:
    """Which label met which prediction, image by image.

    Args:
        names: The images, one name each time that one was counted.
        pairs: Image (position in ``names``), true class, predicted class and number of pixels
            (M, 4), int64; pairs that do not occur are left out. Class K holds strays, see
            :func:`nlseg.ops.confusion.count_pairs`.
    """

    names: tuple[str, ...]
    pairs: NDArray[np.int64]

    def total(self, num_classes: int) -> NDArray[np.int64]:
        """Return the counts (K + 1, K + 1) of all images together, rows true, columns predicted.

        Raises:
            ValueError: A class, an image or a number is out of range.
        """
        edge = num_classes + 1
        limits = np.array([max(len(self.names), 1), edge, edge, np.iinfo(np.int64).max])
        if ((self.pairs < 0) | (self.pairs >= limits)).any():
            raise ValueError("counts: an image, a class or a number of pixels is out of range")
        counts = np.zeros((edge, edge), np.int64)
        np.add.at(counts, (self.pairs[:, 1], self.pairs[:, 2]), self.pairs[:, 3])
        return counts

    def labelled(self, num_classes: int) -> NDArray[np.int64]:
        """Return the labelled pixels (N, K + 1) of every class in every image."""
        areas = np.zeros((len(self.names), num_classes + 1), np.int64)
        np.add.at(areas, (self.pairs[:, 0], self.pairs[:, 1]), self.pairs[:, 3])
        return areas

    def of_image(self, position: int) -> NDArray[np.int64]:
        """Return true class, predicted class and number (M, 3) of one image."""
        return self.pairs[self.pairs[:, 0] == position, 1:]


class ImageCounts:
    """Gathers counts while an evaluation runs."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._pairs: list[NDArray[np.int64]] = []
        self._waiting: list[Tensor] = []

    def add(self, name: str, counts: Tensor) -> None:
        """Take the counts (K + 1, K + 1) of an image, which stay on their device for a while."""
        self._names.append(name)
        self._waiting.append(counts)
        if counts.device.type == "cpu" or len(self._waiting) >= _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        counts = torch.stack(self._waiting).cpu().numpy()
        first = len(self._names) - len(self._waiting)
        self._waiting.clear()
        image, true, predicted = np.nonzero(counts)
        numbers = counts[image, true, predicted]
        self._pairs.append(np.stack([image + first, true, predicted, numbers], 1))

    def gather(self) -> CountedImages:
        """Return the images of all processes; every process has to call it."""
        self._settle()
        own = (self._names, np.concatenate([np.zeros((0, 4), np.int64), *self._pairs]))
        return joined(dist.all_gather_object(own))


def joined(parts: Sequence[tuple[list[str], NDArray[np.int64]]]) -> CountedImages:
    """Put the images of several processes behind each other."""
    names: list[str] = []
    pairs = []
    for more, counted in parts:
        pairs.append(counted + np.array([len(names), 0, 0, 0]))
        names += more
    return CountedImages(tuple(names), np.concatenate(pairs))
