"""The whole check of a config's data sets, from its text to a report."""

import inspect
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from mmengine.config import Config

from nlseg.datasets.class_counts import median_frequency_weights
from nlseg.doctor.class_causes import (
    WEIGHTS,
    class_causes,
    normalisation,
    unexplained,
)
from nlseg.doctor.file_causes import deep_level, file_causes, shared_between
from nlseg.doctor.finding import Finding, by_severity
from nlseg.doctor.label_causes import label_causes, shifted_or_not
from nlseg.doctor.listing import list_pairs
from nlseg.doctor.own_steps import OF_VALUES, run_through, with_own_steps
from nlseg.doctor.scale_causes import measure_scale, scale_causes
from nlseg.doctor.splits import Split, find_splits, for_equal_sets
from nlseg.doctor.survey import survey
from nlseg.doctor.tally import Tally, ValueCounter, make_tally
from nlseg.errors import ConfigError
from nlseg.registry import MODELS


@dataclass
class Examination:
    """Everything that was found out about the data sets of a config.

    Args:
        config_file: The config.
        findings: What is wrong, the worst first.
        tallies: Counts of every split.
        num_files: Files that were looked at.
        seconds: How long that took.
    """

    config_file: str
    findings: list[Finding]
    tallies: list[tuple[Split, Tally]]
    num_files: int
    seconds: float
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))

    @property
    def num_errors(self) -> int:
        """Number of findings with which training or scores would be wrong."""
        return sum(finding.severity == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON and for the page."""
        return {
            "config": self.config_file,
            "created": self.created,
            "num_files": self.num_files,
            "seconds": round(self.seconds, 2),
            "findings": [finding.as_dict() for finding in self.findings],
            "partners": self._partners(),
            "labels": self._labels(),
            "splits": [_describe(split, tally) for split, tally in self.tallies],
        }

    def _labels(self) -> list[str]:
        """List the label files that a finding names, or names the image of."""
        known = {label for _, tally in self.tallies for label in tally.labels}
        partners = self._partners()
        named = {file for finding in self.findings for file in finding.files}
        return sorted(known & (named | {partners[file] for file in named & partners.keys()}))

    def _partners(self) -> dict[str, str]:
        """Return the other file of every pair that a finding names a file of."""
        named = {file for finding in self.findings for file in finding.files}
        pairs = [pair for split, _ in self.tallies for pair in split.pairs]
        return {
            one: other
            for image, label in pairs
            for one, other in ((image, label), (label, image))
            if one in named and one is not None and other is not None
        }


def examine(
    config: Config,
    *,
    stages: Sequence[str] = ("train", "val", "test"),
    num_processes: int = 0,
    cache_file: Path | None = None,
    progress: bool = True,
) -> Examination:
    """Look at every image and label file of a config's data sets.

    Args:
        config: What :func:`nlseg.config.load_config` returns.
        stages: Which of train, val and test to look at.
        num_processes: How many processes read files; 0 for one a CPU core.
        cache_file: Keeps facts about files between runs.
        progress: Show a bar.

    Raises:
        ConfigError: If the config has no data sets.
    """
    start = time.perf_counter()
    splits = [split for split in find_splits(config) if split.stage in stages]
    if not splits:
        raise ConfigError(
            f"{config.filename}: there is no data set in "
            + ", ".join(f"{stage}_dataloader.dataset" for stage in stages)
        )
    findings = [f for split in splits for f in for_equal_sets(split, list_pairs(split))]
    files = [("image", image) for split in splits for image, _ in split.pairs]
    files += [("label", label) for split in splits for _, label in split.pairs if label]
    facts = survey(
        files,
        num_processes=num_processes or len(os.sched_getaffinity(0)),
        cache_file=cache_file,
        progress=progress,
    )
    tallies = [(split, make_tally(split, facts)) for split in splits if not split.trouble]
    level = deep_level(tallies)
    for split, tally in tallies:
        findings += for_equal_sets(split, _causes(split, tally, config, level))
    findings = shifted_or_not(findings, sum(split.stage == "train" for split, _ in tallies))
    found = [shared_between(first, second) for first, second in combinations(tallies, 2)]
    findings += [finding for finding in found if finding is not None]
    seconds = time.perf_counter() - start
    return Examination(str(config.filename), by_severity(findings), tallies, len(facts), seconds)


def _causes(split: Split, tally: Tally, config: Config, level: int) -> list[Finding]:
    model = config.get("model") or {}
    own = with_own_steps(split)
    values = label_causes(split, tally) if tally.labels and own is None else []
    findings = file_causes(split, tally, level) + values
    tally.scale = measure_scale(split, tally)
    findings += scale_causes(split, tally, tally.scale)
    classes = class_causes(split, tally, num_outputs_of(model), weights_line(model))
    if own is None:
        findings += unexplained(classes, values)
    else:
        findings += [finding for finding in classes if finding.code not in OF_VALUES]
        findings += run_through(own, split)
    dark = any(f.code == "deep-images" and f.severity == "error" for f in findings)
    if split.stage == "train" and not dark and not split.rules.keeps_depth:
        # dark ones have another mean once they are converted, deep ones have other levels
        holder, key = (model, "model.") if "data_preprocessor" in model else (config, "")
        preprocessor, key = holder.get("data_preprocessor"), f"{key}data_preprocessor"
        findings += [f for f in [normalisation(split, tally, preprocessor, key)] if f is not None]
    return findings


def weights_line(model: Any) -> str:
    """Return the line of a config that sets class weights, in the first loss that takes them."""
    key, head = "model.decode_head", model.get("decode_head")
    if isinstance(head, list | tuple) and head:
        key, head = f"{key}.{len(head) - 1}", head[-1]
    losses = (head or {}).get("loss_decode")
    if losses is None:
        return f"{key}.loss_decode = dict(type='CrossEntropyLoss', class_weight='auto')"
    several = isinstance(losses, list | tuple)
    for i, loss in enumerate(losses if several else [losses]):
        found = MODELS.get(loss.get("type", "CrossEntropyLoss"))
        if found is not None and "class_weight" in inspect.signature(found).parameters:
            return f"{key}.loss_decode{f'.{i}' if several else ''}.class_weight = 'auto'"
    return WEIGHTS


def num_outputs_of(model: Any) -> int | None:
    """Return ``num_classes`` of a model config's decode head, or None."""
    head = model.get("decode_head")
    head = head[-1] if isinstance(head, list) and head else head
    return head.get("num_classes") if head else None


def _describe(split: Split, tally: Tally) -> dict[str, Any]:
    statistics = tally.channel_statistics()
    total = int(tally.pixels.sum()) + tally.ignored
    weights = median_frequency_weights(tally.pixels, tally.area)
    rules = split.rules
    return {
        "name": split.name,
        "key": split.key,
        "where": split.where,
        "num_images": len(split.pairs),
        "num_labels": len(tally.labels),
        "ignored_share": tally.ignored / total if total else None,
        "mean": statistics[0] if statistics else None,
        "std": statistics[1] if statistics else None,
        "scale": None if tally.scale is None else tally.scale.as_dict(),
        "sizes": [[h, w, n] for (h, w), n in tally.sizes.most_common(50)],
        "classes": [
            {
                "name": name,
                "colour": list(rules.palette[i]) if i < len(rules.palette) else None,
                "pixels": int(tally.pixels[i]),
                "share": float(tally.shares[i]),
                "images": int(tally.frames[i]),
                "weight": float(weights[i]),
            }
            for i, name in enumerate(rules.classes)
        ],
        "values": _values(split, tally),
    }


def _values(split: Split, tally: Tally) -> list[dict[str, Any]]:
    """List raw label values in order and what becomes of them: a class, ignored, or None."""
    counter = ValueCounter(split.rules)
    listed = []
    for raw, spread in sorted(tally.values.items(), key=lambda item: float(item[0])):
        new = counter.becomes(raw)
        becomes = "ignored" if new == split.rules.ignore_index else new
        entry = {"value": raw, "pixels": spread.pixels, "files": spread.num_files}
        listed.append({**entry, "becomes": becomes})
    return listed
