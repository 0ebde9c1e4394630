"""What is kept of each image: counts of pixels, from which every score of a report follows."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from nlseg.errors import UserError
from nlseg.files import write_file
from nlseg.ops.confusion import confusion_matrix

FILE = "images.jsonl"
BAND_PX = 3
NUM_BINS = 15
SIZES = {"small": 32**2, "medium": 96**2, "large": None}
"""Upper limit of the area of an object in px, by name; COCO's."""
SURE = 0.9
_LEAST_DISAGREEMENT_PX = 64
_BOUNDARY_SHARE = 0.02
Map = NDArray[np.integer]
Mask = NDArray[np.bool_]
Pairs = list[list[int]]
"""Counted pixels: true class, predicted class, number; pairs that do not occur are left out."""


@dataclass
class ImageFacts:
    """Counts of one image.

    Args:
        image: Its file.
        size: Height and width in px.
        pairs: All labelled pixels.
        band: Those within 3 px of a border of a labelled region, also one to ignored pixels.
        objects: By size of the labelled object (a connected region): its pixels.
        disagreement: Pixels of regions that the network is sure of and that are labelled otherwise.
        boundary: For each class that occurs, pixels near a border: shared, labelled, predicted;
            near is within 2 % of the diagonal.
        calibration: For each bin of confidence: pixels, right ones, sum of confidence; empty where
            there is no confidence.
        detailed: Whether more than ``pairs`` was counted.
    """

    image: str
    size: list[int]
    pairs: Pairs
    band: Pairs = field(default_factory=list)
    objects: dict[str, Pairs] = field(default_factory=dict)
    disagreement: Pairs = field(default_factory=list)
    boundary: dict[str, list[int]] = field(default_factory=dict)
    calibration: list[list[float]] = field(default_factory=list)
    detailed: bool = True


def gather(
    image: str,
    label: Map,
    pred: Map,
    num_classes: int,
    ignore_index: int,
    confidence: NDArray[np.float32] | None = None,
    *,
    detailed: bool = True,
) -> ImageFacts:
    """Count one image.

    Args:
        image: Its file.
        label: Labelled classes (H, W).
        pred: Predicted classes (H, W).
        num_classes: Number of classes K.
        ignore_index: Label value that does not count.
        confidence: Largest probability of each pixel (H, W), where it is known.
        detailed: Whether to count more than pairs of classes, which takes 20 times as long.
    """
    counted = (label >= 0) & (label < num_classes) & (label != ignore_index)

    def pairs(where: Mask) -> Pairs:
        return as_pairs(label[where], pred[where], num_classes)

    facts = ImageFacts(image, list(label.shape), pairs(counted), detailed=detailed)
    if not detailed:
        return facts
    wrong, near_label = counted & (label != pred), near_borders(label, BAND_PX)
    facts.band = pairs(counted & near_label)
    area = object_areas(label, counted)
    lower = 0
    for name, upper in SIZES.items():
        of_size = counted & (area > lower) & ((area <= upper) if upper else True)
        facts.objects[name] = pairs(of_size)
        lower = upper or 0
    reach = max(1, round(_BOUNDARY_SHARE * float(np.hypot(*label.shape))))
    facts.boundary = _boundary_counts(label, pred, counted, reach, num_classes)
    if confidence is not None:
        facts.disagreement = pairs(_sure_and_other(wrong & ~near_label, confidence))
        facts.calibration = _calibration(confidence[counted], ~wrong[counted])
    return facts


def as_pairs(label: Map, pred: Map, num_classes: int) -> Pairs:
    """Count pairs of classes and leave out those that do not occur."""
    counts = confusion_matrix(
        torch.from_numpy(pred.astype(np.int64)), torch.from_numpy(label.astype(np.int64)),
        num_classes, ignore_index=-1,
    ).numpy()  # fmt: skip
    rows, columns = np.nonzero(counts)
    return [[int(i), int(j), int(counts[i, j])] for i, j in zip(rows, columns, strict=True)]


def as_matrix(pairs: Iterable[Iterable[int]], num_classes: int) -> NDArray[np.int64]:
    """Return counted pairs as a matrix (K, K), rows true, columns predicted."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    for true, predicted, number in pairs:
        counts[true, predicted] += number
    return counts


def near_borders(regions: Map, reach: int) -> Mask:
    """Return the pixels (H, W) within ``reach`` px of a border between two values."""
    values = regions.astype(np.int16)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near: Mask = cv2.dilate(values, kernel) != cv2.erode(values, kernel)
    return near


def object_areas(label: Map, counted: Mask) -> NDArray[np.int64]:
    """Return for each labelled pixel the area in px of its connected region of one class."""
    area = np.zeros(label.shape, np.int64)
    for k in np.unique(label[counted]):
        whole = ((label == k) & counted).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(whole)
        box = np.s_[top : top + height, left : left + width]
        mask = whole[box]
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
        inside = mask.astype(bool)
        area[box][inside] = stats[:, cv2.CC_STAT_AREA][parts[inside]]
    return area


def _boundary_counts(
    label: Map, pred: Map, counted: Mask, reach: int, num_classes: int
) -> dict[str, list[int]]:
    near_label, near_pred = near_borders(label, reach), near_borders(pred, reach)
    of_label, of_pred = label[counted & near_label], pred[counted & near_pred]
    both = counted & near_label & near_pred & (label == pred)
    shared, labelled, predicted = (
        np.bincount(values[(values >= 0) & (values < num_classes)], minlength=num_classes)
        for values in (each.astype(np.int64) for each in (label[both], of_label, of_pred))
    )  # fmt: skip
    classes = np.flatnonzero(labelled + predicted)
    return {str(k): [int(shared[k]), int(labelled[k]), int(predicted[k])] for k in classes}


def _sure_and_other(wrong: Mask, confidence: NDArray[np.float32]) -> Mask:
    """Return the larger regions of wrong pixels that the network is sure of on average."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8))
    flat = parts.ravel()
    pixels = np.maximum(np.bincount(flat, minlength=count), 1)
    mean = np.bincount(flat, confidence.ravel(), count) / pixels
    chosen = (mean >= SURE) & (stats[:, cv2.CC_STAT_AREA] >= _LEAST_DISAGREEMENT_PX)
    chosen[0] = False
    result: Mask = chosen[parts]
    return result


def _calibration(confidence: NDArray[np.float32], right: Mask) -> list[list[float]]:
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    columns = (
        np.bincount(bins, None, NUM_BINS),
        np.bincount(bins, right, NUM_BINS),
        np.bincount(bins, confidence, NUM_BINS),
    )
    return [[float(value) for value in row] for row in zip(*columns, strict=True)]


def write_facts(file: Path, facts: Iterable[ImageFacts], meta: dict[str, Any]) -> None:
    """Write the facts of a test as JSON lines, the first of which holds classes and palette."""
    lines = [json.dumps({"meta": meta}), *(json.dumps(asdict(one)) for one in facts)]
    write_file(file, "\n".join(lines) + "\n")


def read_facts(file: Path) -> tuple[dict[str, Any], list[ImageFacts]]:
    """Read what :func:`write_facts` wrote.

    Raises:
        UserError: The file holds something else.
    """
    try:
        head, *rest = file.read_text().splitlines()
        meta = json.loads(head)["meta"]
        return meta, list(_parse(rest))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: holds no facts of a test ({error})") from error


def find_facts(path: Path) -> Path:
    """Return the newest file of facts in a run folder or below; a file is returned as it is.

    Raises:
        UserError: There is none.
    """
    if path.is_file():
        return path
    found = sorted(path.rglob(FILE), key=lambda file: file.stat().st_mtime)
    if not found:
        raise UserError(f"{path}: holds no {FILE}; nlseg test CONFIG CHECKPOINT --report makes one")
    return found[-1]


def _parse(lines: Iterable[str]) -> Iterator[ImageFacts]:
    for line in lines:
        yield ImageFacts(**json.loads(line))
