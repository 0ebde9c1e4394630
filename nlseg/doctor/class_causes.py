"""What the counts say: classes that never occur, unlabelled frames, weights, normalisation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nlseg.datasets.class_counts import median_frequency_weights
from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.doctor.tally import Tally

_SHOWN = 8
WEIGHTS = "model.decode_head.loss_decode.class_weight = 'auto'"
_RARE = 1e-4


def class_causes(
    split: Split, tally: Tally, num_outputs: int | None, weights: str = WEIGHTS
) -> list[Finding]:
    """Name what is wrong with the classes of a split.

    Args:
        split: The split.
        tally: Its counts.
        num_outputs: Classes of the network's head, where known.
        weights: The line of a config that sets class weights.
    """
    checks = (_wrong_number(split, num_outputs), _all_ignored(split, tally), _absent(split, tally),
              _only_one(split, tally), _rare(split, tally, weights))  # fmt: skip
    return [finding for finding in checks if finding is not None]


def unexplained(findings: list[Finding], labels: list[Finding]) -> list[Finding]:
    """Drop findings about missing classes where wrong label values explain them.

    Args:
        findings: What :func:`class_causes` found.
        labels: What was found about the values of the same labels.
    """
    if not any(finding.severity == "error" for finding in labels):
        return findings
    return [finding for finding in findings if finding.code not in ("absent-classes", "one-class")]


def _wrong_number(split: Split, num_outputs: int | None) -> Finding | None:
    num_classes = len(split.rules.classes)
    if num_classes == 0:
        return Finding(
            "no-classes", "error", split.name, "The data set names no classes", "",
            f"{split.key}.metainfo = dict(classes=('background', 'thing'))",
        )  # fmt: skip
    if num_outputs is None or num_outputs == num_classes:
        return None
    return Finding(
        "num-classes", "error", split.name,
        f"The network has {num_outputs} classes, the data set {num_classes}",
        f"{', '.join(split.rules.classes[:6])}, ...",
        f"model.decode_head.num_classes = {num_classes}, and that of every auxiliary head",
    )  # fmt: skip


def _all_ignored(split: Split, tally: Tally) -> Finding | None:
    found = sorted(tally.all_ignored)
    if not found:
        return None
    share = len(found) / max(1, len(tally.labels))
    return Finding(
        "all-ignored", "error" if share > 0.5 else "warning", split.name,
        f"Labels ignored as a whole: {len(found)} of {len(tally.labels)}",
        f"every pixel is {split.rules.ignore_index} after the label rules: nothing to learn there",
        "leave these images out, or check reduce_zero_label and label_map" if share <= 0.5
        else f"check {split.key}.reduce_zero_label, label_map and ignore_index",
        tuple(found[:_SHOWN]), len(found),
    )  # fmt: skip


def _names(split: Split, mask: NDArray[np.bool_]) -> str:
    listed = [f"{i} {split.rules.classes[i]!r}" for i in np.flatnonzero(mask)]
    more = f" and {len(listed) - 12} more" if len(listed) > 12 else ""
    return ", ".join(listed[:12]) + more


def _absent(split: Split, tally: Tally) -> Finding | None:
    absent = tally.pixels == 0
    if not absent.any() or not tally.labels:
        return None
    learns = split.stage == "train"
    return Finding(
        "absent-classes", "warning" if learns else "note", split.name,
        f"Classes that never occur: {int(absent.sum())} of {len(absent)}", _names(split, absent),
        "check the order of metainfo.classes against the values in the files" if learns
        else "their IoU is no number, or 0 where they are predicted",
    )  # fmt: skip


def _only_one(split: Split, tally: Tally) -> Finding | None:
    there = np.flatnonzero(tally.pixels)
    if len(there) != 1 or len(tally.pixels) < 2:
        return None
    return Finding(
        "one-class", "error", split.name,
        f"All labelled pixels are class {there[0]} {split.rules.classes[there[0]]!r}",
        "a network that always says so is right everywhere: loss near 0, other IoUs 0",
        f"check {split.key}.label_map and reduce_zero_label, and the values in the files",
    )  # fmt: skip


def _rare(split: Split, tally: Tally, line: str) -> Finding | None:
    rare = (tally.shares > 0) & (tally.shares < _RARE)
    if split.stage != "train" or not rare.any():
        return None
    weights = ", ".join(f"{w:g}" for w in median_frequency_weights(tally.pixels, tally.area))
    return Finding(
        "rare-classes", "note", split.name,
        f"Classes with fewer than 1 in 10,000 labelled pixels: {int(rare.sum())}",
        _names(split, rare),
        f"{line}  # that is [{weights}]",
    )  # fmt: skip


def normalisation(
    split: Split, tally: Tally, preprocessor: dict[str, Any] | None
) -> Finding | None:
    """Compare the images' mean and std with the ones that the preprocessor subtracts and divides.

    Args:
        split: A training split.
        tally: Its counts.
        preprocessor: ``mean`` and ``std`` in RGB order, as the config gives them.
    """
    statistics = tally.channel_statistics()
    if statistics is None or preprocessor is None:
        return None
    mean, std = statistics
    remedy = f"model.data_preprocessor.mean = {mean}\nmodel.data_preprocessor.std = {std}"
    given_mean, given_std = preprocessor.get("mean"), preprocessor.get("std")
    if not given_mean or not given_std:
        return Finding(
            "normalisation", "warning", split.name, "Images are not normalised",
            "data_preprocessor has no mean and std", remedy,
        )  # fmt: skip
    if not _far(mean, std, given_mean, given_std):
        return None
    return Finding(
        "normalisation", "note", split.name, "Images differ much from the configured mean and std",
        f"mean {mean}, configured {list(given_mean)}; std {std}, configured {list(given_std)}",
        remedy + "\n# only without pretrained weights: those expect the configured ones",
    )  # fmt: skip


def _far(
    mean: Sequence[float], std: Sequence[float],
    given_mean: Sequence[float], given_std: Sequence[float],
) -> bool:  # fmt: skip
    """Return whether normalised images would be off by more than one, or by a factor above two."""
    offset = np.abs(np.array(mean) - given_mean) / given_std
    factor = np.maximum(np.array(std), 1e-3) / given_std
    return bool((offset > 1).any() or (factor > 2).any() or (factor < 0.5).any())
