"""Files to the numbers that choices rest on; no choice is made here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.datasets.transforms.labels import LoadAnnotations
from nlseg.doctor.probe import Facts
from nlseg.errors import DataError
from nlseg.ops.resize import Size
from nlseg.start.labels import Labels
from nlseg.start.layout import Pair
from nlseg.structures import IGNORE_INDEX, Sample

_LABELS, _LEVELS = 24, 40
WIDTH_OF_MEAN = 4.0
"""Width of a long strip over the mean distance of its pixels to the border."""


@dataclass(frozen=True)
class DataFacts:
    """What was counted and measured.

    Args:
        num_train: Images that train.
        num_test: Images that test.
        sizes: Number of images of each (height, width) in px.
        shares: Share of each class in the labelled pixels of the training masks (K,).
        widths: Typical width of each class in px, 0 where it does not occur (K,); of a sample.
        channels: 1 for grey images of more than 8 bits, else 3.
        deep: Whether images have more than 8 bits a channel.
        mean: Of each channel, RGB order, over the training images.
        std: Of each channel, RGB order.
        most: Highest level that a deep image of the sample holds.
    """

    num_train: int
    num_test: int
    sizes: tuple[tuple[Size, int], ...]
    shares: tuple[float, ...]
    widths: tuple[float, ...]
    channels: int
    deep: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    most: int

    @property
    def size(self) -> Size:
        """Median (height, width) in px."""
        heights = sorted(h for (h, _), n in self.sizes for _ in range(n))
        widths = sorted(w for (_, w), n in self.sizes for _ in range(n))
        return heights[len(heights) // 2], widths[len(widths) // 2]


def check_files(pairs: Sequence[Pair], facts: Mapping[tuple[str, str], Facts]) -> None:
    """Refuse pairs that cannot be used.

    Raises:
        DataError: An image cannot be read, holds fractions, or has another size than its mask.
    """
    for pair in pairs:
        image, mask = facts["image", str(pair.image)], facts["label", str(pair.mask)]
        if image["error"]:
            raise DataError(
                f"{pair.image}: {image['error']}; convert or copy it again, or remove it and its "
                "mask"
            )
        if image["dtype"] not in ("uint8", "uint16"):
            raise DataError(
                f"{pair.image}: holds {image['dtype']} numbers, which have no common scale; store "
                "it with 8 or 16 bits a channel"
            )
        turned = image.get("turned")
        size = (image["height"], image["width"])[:: -1 if turned else 1]
        if mask["error"] is None and size != (mask["height"], mask["width"]):
            raise DataError(
                f"{pair.mask}: is {mask['height']} x {mask['width']} px, its image {pair.image} "
                f"{size[0]} x {size[1]} px{', as its EXIF tag turns it' * bool(turned)}; export "
                "the mask at the size of the image"
            )
    depths = {facts["image", str(pair.image)]["dtype"]: pair.image for pair in pairs}
    if len(depths) > 1:
        raise DataError(
            f"{depths['uint16']}: has 16 bits a channel, {depths['uint8']} has 8; store all "
            "images with one depth"
        )


def measure_data(
    train: Sequence[Pair], test: Sequence[Pair], labels: Labels,
    facts: Mapping[tuple[str, str], Facts],
) -> DataFacts:  # fmt: skip
    """Count and measure the pairs of a data set.

    Args:
        train: Pairs that train.
        test: Pairs that test.
        labels: What values mean.
        facts: Of every image and mask.
    """
    count = len(labels.classes)
    pixels = np.zeros(count)
    place = {value: i for i, value in enumerate(labels.values)}
    for pair in train:
        for value, number in values_of(facts["label", str(pair.mask)]):
            if value in place:
                pixels[place[value]] += number
    sizes: Counter[Size] = Counter()
    for pair in [*train, *test]:
        image = facts["image", str(pair.image)]
        height, width = image["height"], image["width"]
        sizes[(width, height) if image.get("turned") else (height, width)] += 1
    deep = facts["image", str(train[0].image)]["dtype"] == "uint16"
    mean, std, most = _deep_levels(train) if deep else _levels(train, facts)
    return DataFacts(
        num_train=len(train),
        num_test=len(test),
        sizes=tuple(sizes.most_common()),
        shares=tuple((pixels / max(1.0, pixels.sum())).tolist()),
        widths=tuple(_widths(train, labels)),
        channels=len(mean),
        deep=deep,
        mean=mean,
        std=std,
        most=most,
    )


def values_of(facts: Facts) -> list[tuple[int | tuple[int, int, int], int]]:
    """List (value or colour, pixels) of a mask's facts."""
    if "colours" in facts:
        return [((r, g, b), number) for r, g, b, number in facts["colours"]]
    return [(int(float(raw)), number) for raw, number in facts["values"].items()]


def _sample(pairs: Sequence[Pair], number: int) -> Sequence[Pair]:
    return pairs[:: max(1, len(pairs) // number)][:number]


def _levels(
    train: Sequence[Pair], facts: Mapping[tuple[str, str], Facts]
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Return mean and std (3,) over all pixels of the training images, in RGB order."""
    found = [facts["image", str(pair.image)] for pair in train]
    weight = np.array([f["height"] * f["width"] for f in found], np.float64)[:, None]
    mean = np.array([f["mean"] for f in found])
    square = np.array([f["std"] for f in found]) ** 2 + mean**2
    return _mean_and_std(
        (mean * weight).sum(0) / weight.sum(), (square * weight).sum(0) / weight.sum(), 255
    )


def _deep_levels(train: Sequence[Pair]) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """The same in the levels of the files, of a sample of them; grey images have one channel."""
    means, squares, most = [], [], 0
    for pair in _sample(train, _LEVELS):
        image = cv2.imread(str(pair.image), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise DataError(f"{pair.image}: cannot be decoded; copy it again, or remove it")
        array = image.reshape(-1, 1 if image.ndim == 2 else image.shape[2]).astype(np.float64)
        if array.shape[1] not in (1, 3):
            raise DataError(
                f"{pair.image}: has {array.shape[1]} channels of 16 bits; store 1 or 3 channels"
            )
        array = array[:, ::-1]
        means.append(array.mean(0))
        squares.append((array**2).mean(0))
        most = max(most, int(array.max()))
    if len({len(mean) for mean in means}) > 1:
        raise DataError(
            f"{train[0].image}: some images are grey and some have colours, all of 16 bits; store "
            "them alike"
        )
    return _mean_and_std(np.mean(means, 0), np.mean(squares, 0), most)


def _mean_and_std(
    mean: NDArray[np.float64], square: NDArray[np.float64], most: int
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    std = np.sqrt(np.maximum(square - mean**2, 1.0))
    return tuple(mean.round(2).tolist()), tuple(std.round(2).tolist()), most


def _widths(train: Sequence[Pair], labels: Labels) -> list[float]:
    """Return the typical width of each class in px, of a sample of the masks.

    A pixel of a strip of width w is w / 4 away from its edge on average. Pixels are weighed
    alike, so that the width is that of the class's larger parts.
    """
    count = len(labels.classes)
    total, pixels = np.zeros(count), np.zeros(count)
    for pair in _sample(train, _LABELS):
        label = read_label(pair.mask, labels)
        for value in np.unique(label):
            if value >= count:  # ignored
                continue
            inside = np.pad(label == value, 1).astype(np.uint8)
            distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
            total[value] += float(distance.sum()) - 0.5 * float(inside.sum())
            pixels[value] += int(inside.sum())
    mean = total / np.maximum(pixels, 1)
    return [round(float(WIDTH_OF_MEAN * m), 1) for m in mean]


def read_label(path: Path, labels: Labels) -> NDArray[np.uint8]:
    """Read a mask as the data set will: classes (H, W), 255 for what is ignored."""
    table = labels.table()
    load = LoadAnnotations(palette_to_index=colour_table(labels) if labels.is_painted else None)
    sample: Sample = {"seg_map_path": str(path)}  # type: ignore[typeddict-item]
    if not labels.is_painted:
        sample["label_map"] = {v: n for v, n in table.items() if isinstance(v, int)}
    label: NDArray[np.uint8] = load.transform(sample)["gt_seg_map"]
    return label


def colour_table(labels: Labels) -> dict[tuple[int, int, int], int]:
    """Return the class of each colour, 255 for those that are ignored."""
    places = {value: i for i, value in enumerate(labels.values)}
    places |= dict.fromkeys(labels.ignored, IGNORE_INDEX)
    return {value: new for value, new in places.items() if isinstance(value, tuple)}
