"""What the counts say: classes that never occur, unlabelled frames, weights, normalisation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nlseg.datasets.class_counts import median_frequency_weights
from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split, num_classes_lines, unshifted
from nlseg.doctor.tally import Tally
from nlseg.structures import IGNORE_INDEX

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
    checks = (
        _wrong_number(split, tally, num_outputs), _all_ignored(split, tally),
        _absent(split, tally), _only_one(split, tally), _rare(split, tally, weights),
    )  # fmt: skip
    return [finding for finding in checks if finding is not None]


def unexplained(findings: list[Finding], labels: list[Finding]) -> list[Finding]:
    """Drop findings about missing classes where wrong label values explain them.

    Args:
        findings: What :func:`class_causes` found.
        labels: What was found about the values of the same labels.
    """
    if not any(finding.severity == "error" for finding in labels):
        return findings
    explained = {"absent-classes", "one-class"}
    if any("metainfo = dict(classes=" in finding.remedy for finding in labels):
        explained.add("num-classes")  # it is compared again with the classes that are advised
    return [finding for finding in findings if finding.code not in explained]


def _wrong_number(split: Split, tally: Tally, num_outputs: int | None) -> Finding | None:
    num_classes = len(split.rules.classes)
    if num_classes == 0:
        return Finding(
            "no-classes", "error", split.name, "The data set names no classes",
            f"the labels hold {', '.join(list(tally.values)[:12])}" if tally.values else "",
            f"{split.key}.metainfo = dict(classes={_placeholders(split, tally)})  # to be named",
        )  # fmt: skip
    if num_outputs is None or num_outputs == num_classes:
        return None
    return Finding(
        "num-classes", "error", split.name,
        f"The network has {num_outputs} classes, the data set {num_classes}",
        f"{', '.join(split.rules.classes[:6])}, ...",
        "\n".join(num_classes_lines(split, num_classes)),
    )  # fmt: skip


def _placeholders(split: Split, tally: Tally) -> tuple[str, ...]:
    """Return as many names as the labels need: two for 0 and 255, else one for each value."""
    values = {int(raw) for raw in tally.values if raw.isdigit()} - {split.rules.ignore_index}
    top = max((value for value in values if value < split.rules.ignore_index), default=1)
    return ("background", *(f"class_{i}" for i in range(1, max(1, top) + 1)))


def _all_ignored(split: Split, tally: Tally) -> Finding | None:
    found = sorted(tally.all_ignored)
    if not found:
        return None
    share = len(found) / max(1, len(tally.labels))
    step = f"leave these images out: name the others in a text file, {split.key}.ann_file"
    if len(found) == len(tally.labels):
        held = ", ".join(sorted(tally.values)) or "ignored colours"
        step = (
            f"the files hold {held} alone: name the folder of the labels by "
            f"{split.key}.data_prefix.seg_map_path, or export them again with their classes"
        )
    return Finding(
        "all-ignored", "error" if share > 0.5 else "warning", split.name,
        f"Labels ignored as a whole: {len(found)} of {len(tally.labels)}",
        f"every pixel is {split.rules.ignore_index} after the label rules: nothing to learn there",
        (share > 0.5 and _unignored(split, tally)) or step, tuple(found[:_SHOWN]), len(found),
    )  # fmt: skip


def _unignored(split: Split, tally: Tally) -> str:
    """Return the line without which the values of ignored labels are classes; else nothing."""
    rules, classes = split.rules, range(len(split.rules.classes))
    facts = [tally.labels[path].get("values", {}) for path in tally.all_ignored]
    values = {int(raw) for one in facts for raw in one if raw.isdigit()}
    if values <= set(classes) and rules.reduce_zero_label:
        return "\n".join(unshifted(split))
    if values <= set(classes) and rules.raw_map:
        return f"{split.key}.label_map = None"
    if values == {rules.ignore_index} and rules.ignore_index in classes:
        return f"{split.key}.ignore_index = {IGNORE_INDEX}"
    return ""


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
        f"Classes that never occur: {int(absent.sum())} of {len(absent)}",
        _names(split, absent)
        + ("" if learns else "; their IoU is no number, or 0 where they are predicted"),
        f"compare the order of {split.key}.metainfo.classes with the values in the files; add "
        "images that show them, or take them out of the classes and of num_classes" if learns
        else "",
    )  # fmt: skip


def _only_one(split: Split, tally: Tally) -> Finding | None:
    there = np.flatnonzero(tally.pixels)
    if len(there) != 1 or len(tally.pixels) < 2:
        return None
    return Finding(
        "one-class", "error", split.name,
        f"All labelled pixels are class {there[0]} {split.rules.classes[there[0]]!r}",
        "a network that always says so is right everywhere: loss near 0, other IoUs 0",
        _several_classes(split, tally),
    )  # fmt: skip


def _several_classes(split: Split, tally: Tally) -> str:
    """Return the lines by which several values of one class become several, else a step."""
    values = {int(raw) for raw in tally.values if raw.isdigit()}
    if len(values & set(range(len(split.rules.classes)))) > 1:
        if split.rules.reduce_zero_label:
            return "\n".join(unshifted(split))
        if split.rules.raw_map:
            return f"{split.key}.label_map = None"
    held = ", ".join(sorted(tally.values)) or "one colour"
    return (
        f"the files hold {held} alone: name the folder of the labels by "
        f"{split.key}.data_prefix.seg_map_path, or add labels of the other classes"
    )


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
    split: Split, tally: Tally, preprocessor: dict[str, Any] | None,
    key: str = "model.data_preprocessor",
) -> Finding | None:  # fmt: skip
    """Compare the images' mean and std with the ones that the preprocessor subtracts and divides.

    Args:
        split: A training split.
        tally: Its counts.
        preprocessor: ``mean`` and ``std`` in RGB order, as the config gives them.
        key: Its place in the config.
    """
    statistics = tally.channel_statistics()
    if statistics is None or preprocessor is None:
        return None
    mean, std = statistics
    remedy = f"{key}.mean = {mean}\n{key}.std = {std}"
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
