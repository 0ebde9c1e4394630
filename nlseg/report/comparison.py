"""Evaluations of the same images compared: which classes and images differ, and how surely."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from nlseg.errors import UserError
from nlseg.evaluation.iou import areas_of
from nlseg.files import write_file
from nlseg.report.analysis import Interval, iou_of, percentile_interval, score_of_image
from nlseg.report.facts import FILE as FACTS
from nlseg.report.facts import as_matrix, read_facts
from nlseg.table import format_table
from nlseg.visualization.pages import render
from nlseg.zoo.receipt import NAME as RECEIPT
from nlseg.zoo.receipt import read_receipt

PAGE = "compare.html"
DRAWS = 2000
_FEW, _MANY = 5, 12
_COLUMNS = ("baseline", "now", "difference", "95 %", "p")
Floats = NDArray[np.float64]
Areas = NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found, image by image.

    Args:
        name: What it is called in tables.
        classes: Names of the K classes.
        images: Names of the N images, in alphabetical order.
        areas: Pixels found, labelled and predicted (N, 3, K).
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    areas: Areas


@dataclass(frozen=True)
class Difference:
    """How much a score differs from the baseline's.

    Args:
        name: Of the class, or mIoU.
        baseline: Score of the baseline, in [0, 1]; NaN where there is none.
        other: Score of the other evaluation.
        interval: Bounds of other less baseline, 95 %.
        p_value: Probability of a difference at least as large if it made no difference for any
            image which of the two networks labelled it.
    """

    name: str
    baseline: float
    other: float
    interval: Interval
    p_value: float

    @property
    def gain(self) -> float:
        """Other less baseline."""
        return self.other - self.baseline


@dataclass(frozen=True)
class Comparison:
    """One evaluation against the baseline.

    Args:
        name: Of the evaluation.
        miou: Difference of mIoU.
        classes: Difference of IoU of each class.
        images: Name, score of the baseline and of the other, largest loss first; images without a
            labelled pixel are left out.
    """

    name: str
    miou: Difference
    classes: list[Difference]
    images: list[tuple[str, float, float]]


def read_evaluation(path: Path, name: str | None = None) -> Evaluation:
    """Read the facts of a report, or the receipt of a test.

    Args:
        path: ``images.jsonl``, ``receipt.json``, or a folder of which the newest one below is read.
        name: What to call it; by default the path.

    Raises:
        UserError: There is neither, or it cannot be read.
    """
    file = path if path.is_file() else _newest(path)
    if file.suffix == ".jsonl":
        meta, facts = read_facts(file)
        classes, names = meta["classes"], [one.image for one in facts]
        counts = [as_matrix(one.pairs, len(classes) + 1) for one in facts]
    else:
        receipt = read_receipt(file)
        classes, names = receipt.facts["classes"], list(receipt.images.names)
        pairs = (receipt.images.of_image(i).tolist() for i in range(len(names)))
        counts = [as_matrix(each, len(classes) + 1) for each in pairs]
    if len(set(names)) < len(names):
        raise UserError(f"{file}: counts an image twice; evaluate without a sampler that repeats")
    short = _below_common_folder(names)
    order = sorted(range(len(names)), key=lambda i: short[i])
    areas = [_areas(counts[i], len(classes)) for i in order]
    return Evaluation(
        name or str(path), tuple(map(str, classes)), tuple(short[i] for i in order), np.stack(areas)
    )


def _newest(folder: Path) -> Path:
    found = [file for name in (FACTS, RECEIPT) for file in folder.rglob(name)]
    if not found:
        raise UserError(
            f"{folder}: holds no {FACTS} and no {RECEIPT}; a training and nlseg test leave them"
        )
    return max(found, key=lambda file: file.stat().st_mtime)


def _below_common_folder(names: Sequence[str]) -> list[str]:
    """Leave out the folders that all images share, which may differ between machines."""
    folders = [str(PurePosixPath(name).parent) for name in names]
    common = os.path.commonpath(folders) if len({f.startswith("/") for f in folders}) == 1 else ""
    return [os.path.relpath(name, common) if common else name for name in names]


def _areas(counts: Areas, num_classes: int) -> Areas:
    found, _, predicted, labelled = areas_of(torch.from_numpy(counts), num_classes)
    return torch.stack([found, labelled, predicted]).numpy()


def check_comparable(baseline: Evaluation, other: Evaluation) -> None:
    """Refuse evaluations of other classes, images or labels.

    Raises:
        UserError: Names what differs.
    """
    where = f"{other.name}: cannot be compared with {baseline.name}"
    if baseline.classes != other.classes:
        pairs = zip(baseline.classes, other.classes, strict=False)
        different = [f"class {k} is {b!r}, not {a!r}" for k, (a, b) in enumerate(pairs) if a != b]
        numbers = f"{len(other.classes)} classes, not {len(baseline.classes)}"
        raise UserError(f"{where}: {different[0] if different else numbers}")
    missing = sorted(set(baseline.images) - set(other.images))
    added = sorted(set(other.images) - set(baseline.images))
    if missing or added:
        told = [f"{len(missing)} images are missing, such as {missing[0]}"] if missing else []
        told += [f"{len(added)} images are others, such as {added[0]}"] if added else []
        raise UserError(f"{where}: {'; '.join(told)}")
    unequal = np.argwhere(baseline.areas[:, 1] != other.areas[:, 1])
    if len(unequal):
        i, k = unequal[0]
        raise UserError(
            f"{where}: the labels of {baseline.images[i]} differ: {other.areas[i, 1, k]} px of "
            f"{baseline.classes[k]!r}, not {baseline.areas[i, 1, k]}"
        )


def compare(baseline: Evaluation, other: Evaluation, seed: int = 0) -> Comparison:
    """Compare two evaluations image by image.

    Intervals: images are drawn with replacement, the same for both. Tests: for each image a coin
    says which of the two results counts for which network. Values of single classes are not
    corrected for the number of classes.

    Args:
        baseline: What is compared with.
        other: What is compared.
        seed: Of the draws.

    Raises:
        UserError: They are of other classes, images or labels.

    Source:
        Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 (percentile
        intervals) and 15 (permutation tests).
    """
    check_comparable(baseline, other)
    number = len(baseline.images)
    rng = np.random.default_rng(seed)
    one, two = baseline.areas.astype(np.float64), other.areas.astype(np.float64)
    weights = rng.multinomial(number, np.full(number, 1 / number), DRAWS).astype(np.float64)
    drawn = _scores(_sums(weights, two)) - _scores(_sums(weights, one))
    swaps = _sums(rng.integers(0, 2, (DRAWS, number)).astype(np.float64), two - one)
    swapped = _scores(two.sum(0) - swaps) - _scores(one.sum(0) + swaps)
    before, after = _scores(one.sum(0)), _scores(two.sum(0))
    names = [*baseline.classes, "mIoU"]
    found = [
        Difference(
            name, float(before[k]), float(after[k]), percentile_interval(drawn[:, k]),
            _p_value(swapped[:, k], float(after[k] - before[k])),
        )
        for k, name in enumerate(names)
    ]  # fmt: skip
    of_images = [
        (name, score_of_image(baseline.areas[i]), score_of_image(other.areas[i]))
        for i, name in enumerate(baseline.images)
    ]
    of_images = [each for each in of_images if not np.isnan(each[1])]
    of_images.sort(key=lambda each: each[2] - each[1])
    return Comparison(other.name, found[-1], found[:-1], of_images)


def _sums(weights: Floats, areas: Floats) -> Floats:
    """Return weighted sums (R, 3, K) over the images of areas (N, 3, K)."""
    return np.tensordot(weights, areas, 1)


def _scores(areas: Floats) -> Floats:
    """Return IoU of each class and mIoU (..., K + 1) of areas (..., 3, K)."""
    iou = iou_of(areas)
    there = np.isfinite(iou)
    with np.errstate(invalid="ignore"):
        mean = np.where(there, iou, 0).sum(-1) / there.sum(-1)
    return np.concatenate([iou, mean[..., None]], -1)


def _p_value(swapped: Floats, found: float) -> float:
    if np.isnan(found):
        return float("nan")
    as_large = np.abs(np.nan_to_num(swapped)) >= abs(found) - 1e-12
    return float((1 + as_large.sum()) / (1 + len(swapped)))


def as_tables(comparisons: Sequence[Comparison], baseline: Evaluation) -> str:
    """Return text: a row for each evaluation, then the classes and images of each one."""
    rows: list[list[object]] = []
    for one in comparisons:
        rows.append([one.name, *_cells(one.miou)])
    parts = [f"baseline: {baseline.name}, {len(baseline.images)} images"]
    parts.append(format_table(["mIoU of", *_COLUMNS], rows))
    for one in comparisons:
        parts.append(f"{one.name}, by class:")
        parts.append(
            format_table(["class", *_COLUMNS], [[c.name, *_cells(c)] for c in one.classes])
        )
        for heading, images in moved_most(one, _FEW).items():
            if images:
                lines = [[name, 100 * a, 100 * b, f"{100 * (b - a):+.2f}"] for name, a, b in images]
                parts.append(format_table([heading, "baseline", "now", "difference"], lines))
    return "\n\n".join(parts)


def _cells(one: Difference) -> list[object]:
    if np.isnan(one.gain):
        return [100 * one.baseline, 100 * one.other, "-", "-", "-"]
    low, high = one.interval
    bounds = f"{100 * low:+.2f} to {100 * high:+.2f}"
    values = [100 * one.baseline, 100 * one.other]
    return [*values, f"{100 * one.gain:+.2f}", bounds, f"{one.p_value:.4f}"]


def moved_most(one: Comparison, number: int) -> dict[str, list[tuple[str, float, float]]]:
    """Return the images whose score fell and rose most, by heading."""
    changed = [each for each in one.images if each[1] != each[2]]
    lost = [each for each in changed if each[2] < each[1]]
    gained = [each for each in reversed(changed) if each[2] > each[1]]
    return {"images that lost most": lost[:number], "images that gained most": gained[:number]}


def write_page(file: Path, comparisons: Sequence[Comparison], baseline: Evaluation) -> None:
    """Write comparisons with one baseline as an HTML page."""
    shown = []
    for one in comparisons:
        gains = [abs(each.gain) for each in [one.miou, *one.classes] if np.isfinite(each.gain)]
        shown.append((one, max([*gains, 1e-4]), moved_most(one, _MANY)))
    text = render(
        "report/comparison.html",
        title=f"Compared with {baseline.name}",
        created=time.strftime("%Y-%m-%d %H:%M"),
        baseline=baseline.name,
        images=len(baseline.images),
        comparisons=shown,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, text)
