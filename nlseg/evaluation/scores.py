"""Counts -> scores: accuracy, IoU, Dice, F-score from one confusion matrix, nothing else."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nlseg.errors import ConfigError, nearest

Scores = dict[str, NDArray[np.float64]]
"""Name of a score -> its value for every class (K,), as a fraction; ``aAcc`` is a scalar array."""

Areas = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Pixels of every class (K,): found, in the union, predicted, labelled."""

MetricName = Literal["mIoU", "mDice", "mFscore"]
METRIC_NAMES: tuple[str, ...] = get_args(MetricName)


def check_metric_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the wanted metrics as a tuple.

    Raises:
        ConfigError: If one is unknown.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in METRIC_NAMES:
            hint = nearest(name, METRIC_NAMES)
            raise ConfigError(
                f"iou_metrics: there is no metric {name!r}, only {', '.join(METRIC_NAMES)}{hint}"
            )
    return names


def class_scores(
    counts: Tensor,
    num_classes: int | None = None,
    *,
    metrics: str | Sequence[str] = ("mIoU",),
    beta: float = 1.0,
    nan_to_num: float | None = None,
) -> Scores:
    """Score every class from counted pairs.

    With i the pixels of a class that were found, p those predicted and l those labelled:
    IoU = i / (p + l - i), Acc = Recall = i / l, Dice = 2 i / (p + l), Precision = i / p,
    Fscore = (1 + beta^2) Precision Recall / (beta^2 Precision + Recall). A class where this is 0/0
    scores NaN. Note that a class that is predicted but never labelled has Dice 0 and Fscore NaN.

    Args:
        counts: Counted pixels (R, C), rows true, columns predicted, at least K of each. Rows and
            columns from K on hold strays, as :func:`nlseg.ops.confusion.count_pairs` counts them.
        num_classes: Number of classes K; without it all rows of ``counts`` are classes.
        metrics: Any of mIoU, mDice, mFscore.
        beta: Weight of recall against precision in the F-score.
        nan_to_num: What to write in place of NaN, before anything is averaged.

    Returns:
        ``aAcc`` (), the share of labelled pixels that were found, and the scores (K,) of the wanted
        metrics: IoU and Acc for mIoU; Dice and Acc for mDice; Fscore, Precision and Recall for
        mFscore.
    """
    table = counts.cpu().numpy().astype(np.float64)
    size = table.shape[0] if num_classes is None else num_classes
    found = np.diagonal(table)[:size]
    predicted, labelled = table[:, :size].sum(0), table[:size].sum(1)
    union = predicted + labelled - found
    return area_scores(
        (found, union, predicted, labelled), metrics=metrics, beta=beta, nan_to_num=nan_to_num
    )


def area_scores(
    areas: Areas,
    *,
    metrics: str | Sequence[str] = ("mIoU",),
    beta: float = 1.0,
    nan_to_num: float | None = None,
) -> Scores:
    """Score every class from its areas; see :func:`class_scores`.

    Args:
        areas: Pixels (K,) found, in the union, predicted, labelled.
        metrics: Any of mIoU, mDice, mFscore.
        beta: Weight of recall against precision in the F-score.
        nan_to_num: What to write in place of NaN, before anything is averaged.
    """
    found, union, predicted, labelled = areas
    names = check_metric_names(metrics)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: Scores = {"aAcc": np.asarray(found.sum() / labelled.sum())}
        if "mIoU" in names:
            scores["IoU"] = found / union
        if "mDice" in names:
            scores["Dice"] = 2 * found / (predicted + labelled)
        if "mIoU" in names or "mDice" in names:
            scores["Acc"] = found / labelled
        if "mFscore" in names:
            precision, recall = found / predicted, found / labelled
            top = (1 + beta**2) * precision * recall
            scores["Fscore"] = top / (beta**2 * precision + recall)
            scores["Precision"], scores["Recall"] = precision, recall
    if nan_to_num is not None:
        scores = {name: np.nan_to_num(values, nan=nan_to_num) for name, values in scores.items()}
    return scores


def summarize(scores: Scores) -> dict[str, float]:
    """Average over the classes that have a score.

    Args:
        scores: What :func:`class_scores` returns.

    Returns:
        ``aAcc`` and ``m<name>`` for every other score, in percent, rounded to two decimals. NaN
        where no class has a score.
    """
    summary = {}
    for name, values in scores.items():
        known = values[~np.isnan(values)]
        mean = float(known.mean()) if known.size else float("nan")
        summary[name if name == "aAcc" else f"m{name}"] = round(mean * 100, 2)
    return summary


def score(confusion: Tensor) -> dict[str, float]:
    """Compute aAcc, mIoU and mAcc in percent from a confusion matrix (K, K), rows true.

    A class that neither label nor prediction holds has no IoU and does not weigh in.
    """
    return summarize(class_scores(torch.as_tensor(confusion)))


def unscored_by(metrics: Iterable[object]) -> list[str]:
    """Return the classes without a score in the latest evaluation of metrics, sorted."""
    return sorted({str(name) for metric in metrics for name in getattr(metric, "unscored", ())})


def beside_mean(unscored: Sequence[str]) -> str:
    """Return what has to stand beside a mean that leaves classes out; nothing for none."""
    if not unscored:
        return ""
    more = f" and {len(unscored) - 8} more" if len(unscored) > 8 else ""
    return f", without a score of {', '.join(unscored[:8])}{more}"
