"""Facts of all images to scores: with intervals, by class and size, and where the points went."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from nlseg.evaluation.scores import class_scores
from nlseg.report.facts import NUM_BINS, SIZES, ImageFacts, as_matrix

RESAMPLES = 1000
_LEVEL = 95.0
_MOST_PAIRS = 8
Interval = tuple[float, float]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """Points of mIoU that would be gained if one kind of error were right and nothing else.

    Args:
        cause: What kind.
        points: mIoU gained, in percent points.
        pixels: Share of the labelled pixels that it concerns, in [0, 1].
    """

    cause: str
    points: float
    pixels: float


@dataclass
class Analysis:
    """What a report says; scores in [0, 1], NaN where a class does not occur.

    Args:
        classes: Names of the K classes.
        counts: Pixels (K, K), rows true, columns predicted.
        scores: By name: aAcc, mIoU, mAcc, boundary IoU, calibration error.
        miou_interval: Bounds of mIoU, 95 %, by bootstrap over images.
        per_class: By name of a score, values (K,).
        iou_intervals: Bounds of each class's IoU.
        losses: Where the points went, largest first; not additive.
        by_size: Share of pixels found of objects of a size, and how many pixels these are.
        calibration: For each bin (B, 3): pixels, accuracy, mean confidence.
        image_scores: mIoU over the classes of each image.
        unscored: Classes that neither labels nor predictions hold: mIoU is over the others.
        missing: Classes that are never predicted although they are labelled.
        num_detailed: Images of which more than pairs of classes was counted.
        num_confident: Those of them whose confidence is known.
    """

    classes: Sequence[str]
    counts: NDArray[np.int64]
    scores: dict[str, float]
    miou_interval: Interval
    per_class: dict[str, Floats]
    iou_intervals: list[Interval]
    losses: list[Loss]
    by_size: dict[str, tuple[float, int]]
    calibration: Floats
    image_scores: list[tuple[str, float]] = field(default_factory=list)
    unscored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    num_detailed: int = 0
    num_confident: int = 0


def analyse(facts: Sequence[ImageFacts], classes: Sequence[str]) -> Analysis:
    """Score a test from the facts of its images.

    Args:
        facts: One of each image.
        classes: Names of the K classes.
    """
    num = len(classes)
    areas = np.stack([_areas(as_matrix(one.pairs, num)) for one in facts])  # (N, 3, K)
    counts = sum_of(facts, "pairs", num)
    of_classes = class_scores(torch.from_numpy(counts), metrics=("mIoU", "mFscore"))
    iou, accuracy = of_classes["IoU"], of_classes["Acc"]
    boundary = _boundary_iou(facts, num)
    calibration, error = _calibrate(facts)
    miou_interval, iou_intervals = bootstrap(areas)
    labelled = counts.sum(1)
    return Analysis(
        classes=classes,
        counts=counts,
        scores={
            "mIoU": float(np.nanmean(iou)),
            "aAcc": float(of_classes["aAcc"]),
            "mAcc": float(np.nanmean(accuracy)),
            "boundary IoU": float(np.nanmean(boundary)) if np.isfinite(boundary).any() else np.nan,
            "calibration error": error,
        },
        miou_interval=miou_interval,
        per_class={
            "IoU": iou, "Acc": accuracy, "Precision": of_classes["Precision"],
            "boundary IoU": boundary, "share": labelled / max(1, labelled.sum()),
        },
        iou_intervals=iou_intervals,
        losses=where_points_went(facts, classes, counts),
        by_size=_by_size(facts, num),
        calibration=calibration,
        image_scores=sorted(
            ((one.image, score_of_image(area)) for one, area in zip(facts, areas, strict=True)),
            key=lambda pair: pair[1],
        ),
        unscored=[name for name, score in zip(classes, iou, strict=True) if np.isnan(score)],
        missing=[
            name for k, name in enumerate(classes) if labelled[k] and not counts[:, k].sum()
        ],
        num_detailed=sum(one.detailed for one in facts),
        num_confident=sum(bool(one.calibration) for one in facts),
    )  # fmt: skip


def sum_of(facts: Sequence[ImageFacts], name: str, num_classes: int) -> NDArray[np.int64]:
    """Sum one kind of counted pairs over all images, (K, K)."""
    total = np.zeros((num_classes, num_classes), np.int64)
    for one in facts:
        total += as_matrix(getattr(one, name), num_classes)
    return total


def _areas(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([np.diagonal(counts), counts.sum(1), counts.sum(0)])


def iou_of(areas: NDArray[np.generic]) -> Floats:
    """Return IoU (..., K) of areas (..., 3, K): found, labelled, predicted; NaN for 0 / 0."""
    found, labelled, predicted = np.moveaxis(areas.astype(np.float64), -2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = found / (labelled + predicted - found)
    return result


def miou_of(counts: NDArray[np.generic]) -> float:
    """Return the mean IoU of a matrix of counts (K, K), over the classes that occur."""
    return float(np.nanmean(iou_of(_areas(counts.astype(np.int64)))))


def score_of_image(areas: NDArray[np.int64]) -> float:
    """Return the mean IoU over the classes that an image is labelled with; areas (3, K)."""
    iou = iou_of(areas)
    occurs = areas[1] > 0
    return float(iou[occurs].mean()) if occurs.any() else float("nan")


def bootstrap(areas: NDArray[np.int64], seed: int = 0) -> tuple[Interval, list[Interval]]:
    """Return 95 % intervals of mIoU and of each class's IoU, images drawn with replacement.

    Args:
        areas: Of each image (N, 3, K).
        seed: Of the draws.

    Source:
        Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979; percentile intervals.
    """
    number, _, num_classes = areas.shape
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(number, np.full(number, 1 / number), RESAMPLES)
    drawn = np.tensordot(weights.astype(np.float64), areas.astype(np.float64), 1)  # (R, 3, K)
    iou = iou_of(drawn)
    with np.errstate(invalid="ignore"):
        means = np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in iou])
    return percentile_interval(means), [percentile_interval(iou[:, k]) for k in range(num_classes)]


def percentile_interval(values: Floats) -> Interval:
    """Return where the middle 95 % of values (R,) lie; NaN does not count."""
    values = values[np.isfinite(values)]
    if not len(values):
        return (float("nan"), float("nan"))
    low, high = np.percentile(values, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return float(low), float(high)


def where_points_went(
    facts: Sequence[ImageFacts], classes: Sequence[str], counts: NDArray[np.int64]
) -> list[Loss]:
    """Return what each kind of error costs: mIoU if its pixels were right, less mIoU as it is.

    Kinds overlap, and IoU is no sum, so the points do not add up to what is missing. What was
    counted of some images only is put right in the counts of these.

    Args:
        facts: One of each image.
        classes: Names of the K classes.
        counts: Pixels (K, K) of all images.
    """
    num = len(classes)
    losses = []

    def add(cause: str, errors: NDArray[np.int64], among: NDArray[np.int64]) -> None:
        errors = errors.copy()
        np.fill_diagonal(errors, 0)
        if errors.sum():
            points = 100 * (miou_of(put_right(among, errors)) - miou_of(among))
            losses.append(Loss(cause, points, float(errors.sum() / among.sum())))

    pairs = np.triu(counts + counts.T, 1)
    for i, j in np.argwhere(pairs)[np.argsort(-pairs[pairs > 0], kind="stable")][:_MOST_PAIRS]:
        only = np.zeros_like(counts)
        only[i, j], only[j, i] = counts[i, j], counts[j, i]
        add(f"{classes[i]} taken for {classes[j]}, or the other way round", only, counts)
    detailed = [one for one in facts if one.detailed]
    among = sum_of(detailed, "pairs", num)
    add("within 3 px of a border of a labelled region", sum_of(detailed, "band", num), among)
    small = np.zeros_like(counts)
    for one in detailed:
        small += as_matrix(one.objects.get("small", []), num)
    add(f"pixels of small labelled objects, of at most {SIZES['small']} px", small, among)
    confident = [one for one in detailed if one.calibration]
    add("larger regions that the network is sure of: look at their labels",
        sum_of(confident, "disagreement", num), sum_of(confident, "pairs", num))  # fmt: skip
    return sorted(losses, key=lambda loss: -loss.points)


def put_right(counts: NDArray[np.int64], errors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return counts (K, K) in which the pixels of ``errors`` (K, K) are predicted as labelled."""
    right = counts - errors
    right[np.diag_indices(len(counts))] += errors.sum(1)
    return right


def _boundary_iou(facts: Sequence[ImageFacts], num_classes: int) -> Floats:
    """Return the boundary IoU of each class (K,).

    Source:
        Cheng et al., "Boundary IoU", 2021; 2 % of the diagonal, pixels summed over images. Near a
        border means near one of any class, which is the same but for regions at ignored pixels.
    """
    sums = np.zeros((3, num_classes))
    for one in facts:
        for k, values in one.boundary.items():
            sums[:, int(k)] += values
    return iou_of(sums)


def _by_size(facts: Sequence[ImageFacts], num_classes: int) -> dict[str, tuple[float, int]]:
    result = {}
    for name in SIZES:
        counts = np.zeros((num_classes, num_classes), np.int64)
        for one in facts:
            counts += as_matrix(one.objects.get(name, []), num_classes)
        pixels = int(counts.sum())
        share = float(np.trace(counts)) / pixels if pixels else float("nan")
        result[name] = (share, pixels)
    return result


def _calibrate(facts: Sequence[ImageFacts]) -> tuple[Floats, float]:
    """Return pixels, accuracy and mean confidence of each bin (B, 3), and the expected error.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 3.
    """
    sums = np.zeros((NUM_BINS, 3))
    for one in facts:
        if one.calibration:
            sums += one.calibration
    pixels = sums[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = sums[:, 1:] / pixels[:, None]
    if not pixels.sum():
        return np.full((NUM_BINS, 3), np.nan), float("nan")
    gaps = np.abs(np.nan_to_num(rates[:, 0] - rates[:, 1]))
    return np.column_stack([pixels, rates]), float((gaps * pixels).sum() / pixels.sum())
