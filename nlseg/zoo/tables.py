"""What is written from a zoo file: the tables of the docs, and the index of OpenMMLab's kind."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from nlseg.compare.sweep_scores import SettingScores
from nlseg.errors import ConfigError, nearest
from nlseg.zoo.catalogue import Model, Zoo
from nlseg.zoo.receipt import Receipt, problems, read_receipt

NOT_RUN = "not run"
_CLASSES = "-classes"  # at the end of a mark: the IoU of each class, in place of the models
_BLOCK = re.compile(r"(<!-- zoo: (\S+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def fill(text: str, zoo: Zoo, folder: Path) -> str:
    """Write the tables of a page between ``<!-- zoo: KEY -->`` and ``<!-- end of KEY -->``.

    Args:
        text: The page; what is outside the marks stays. ``KEY`` is a group of the zoo, or one with
            ``-classes`` behind it.
        zoo: The models.
        folder: Folder of the page, which links start from.

    Raises:
        ConfigError: A mark names no table, or a receipt is not sound.
    """

    def table(match: re.Match[str]) -> str:
        key = match.group(2)
        if key.endswith(_CLASSES) and key.removesuffix(_CLASSES) in zoo.groups:
            text = class_table(zoo, key.removesuffix(_CLASSES))
            return f"{match.group(1)}\n{text}\n\n{match.group(3)}"
        if key not in zoo.groups:
            raise ConfigError(
                f"<!-- zoo: {key} -->: there is no such group{nearest(key, zoo.groups)}"
            )
        return f"{match.group(1)}\n{group_table(zoo, key, folder)}\n\n{match.group(3)}"

    return _BLOCK.sub(table, text)


def group_table(zoo: Zoo, key: str, folder: Path) -> str:
    """Write the models of a group as a Markdown table; columns that nobody fills are left out."""
    models = [model for model in zoo.models.values() if model.group == key]
    columns: dict[str, Callable[[Model], str]] = {
        "config": lambda m: _link(m.name, m.config_file, folder),
        "split": lambda m: zoo.data[m.data].title,
        "published mIoU": lambda m: _figure(m, "miou"),
        "ms+flip": lambda m: _figure(m, "ms_flip"),
        "training memory, GB": lambda m: _number(m.memory_gb, 1),
        "images/s": lambda m: _number(m.fps, 2),
        "weights": _weights,
        "reproduced here": lambda m: reproduced(m, folder),
        "note": lambda m: m.note,
    }
    rows = {title: [cell(model) for model in models] for title, cell in columns.items()}
    shown = {title: cells for title, cells in rows.items() if any(c != "-" and c for c in cells)}
    return _markdown(shown)


def class_table(zoo: Zoo, key: str) -> str:
    """Write the IoU of each class, in percent: the mean over the receipts of each model."""
    columns: dict[str, list[str]] = {}
    for model in zoo.models.values():
        receipts = receipts_of(model) if model.group == key else []
        if receipts:
            columns.setdefault("class", receipts[0].classes)
            runs = [receipt.facts["per_class"]["IoU"] for receipt in receipts]
            columns[model.name] = [_mean(values) for values in zip(*runs, strict=True)]
    return _markdown(columns)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _number(fmean(known) if known else None, 2)


def _markdown(columns: Mapping[str, Sequence[str]]) -> str:
    rows = list(map(list, zip(*columns.values(), strict=True)))
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _figure(model: Model, key: str) -> str:
    """Return a published figure, and the one that was published before it."""
    now = _number(getattr(model, key), 2)
    before = (model.earlier or {}).get(key)
    return now if before is None else f"{now} (before {model.earlier['until']}: {before:.2f})"  # type: ignore[index]


def _link(text: str, path: Path, folder: Path) -> str:
    return f"[{text}]({os.path.relpath(path.resolve(), folder.resolve())})"


def _weights(model: Model) -> str:
    if "://" not in model.weights:
        return "-"
    return f"[{model.sha256 or 'file'}]({model.weights})"


def reproduced(model: Model, folder: Path) -> str:
    """Write what the receipts of a model say: mean and 95 % confidence of several, with links."""
    receipts = receipts_of(model)
    if not receipts:
        return NOT_RUN
    links = ", ".join(_link(f"{i}", receipt.path, folder) for i, receipt in enumerate(receipts, 1))
    scores = [receipt.scores["mIoU"] for receipt in receipts]
    if len(scores) == 1:
        return f"{scores[0]:.2f} ({_link('receipt', receipts[0].path, folder)})"
    return f"{mean_and_interval(scores)} (receipts {links})"


def mean_and_interval(scores: Sequence[float]) -> str:
    """Write mean and half the 95 % confidence interval of the mean, after Student."""
    row = SettingScores((), tuple(scores), 0)
    return f"{row.mean:.2f} ± {row.confidence:.2f}"


def receipts_of(model: Model) -> list[Receipt]:
    """Read the receipts that a model names.

    Raises:
        ConfigError: One is not sound, or only of a part of the images.
    """
    receipts = []
    for name in model.receipts:
        receipt = read_receipt(model.zoo.parent / name)
        found = problems(receipt)
        if receipt.is_partial:
            found.append("it is of a part of the images, which fills no row")
        if found:
            raise ConfigError(f"{model.zoo}: models.{model.name}: {name}: {found[0]}")
        receipts.append(receipt)
    return receipts


def model_index(zoo: Zoo, root: Path) -> str:
    """Write ``model-index.yml``: collections and models as OpenMMLab's tools read them."""
    content: dict[str, Any] = {
        "Collections": [
            {"Name": group.title, "Paper": {"URL": group.paper}, "Source": group.source}
            for group in zoo.groups.values()
        ],
        "Models": [_indexed(zoo, model, root) for model in zoo.models.values()],
    }
    head = "# Written from configs/zoo.yml by tools/misc/write_zoo.py; change that file.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _indexed(zoo: Zoo, model: Model, root: Path) -> dict[str, Any]:
    metrics = {"mIoU": model.miou, "mIoU(ms+flip)": model.ms_flip}
    measured = [receipt.scores["mIoU"] for receipt in receipts_of(model)]
    if measured:
        metrics = {"mIoU": round(fmean(measured), 2)}
        if len(measured) > 1:
            metrics["spread of runs"] = round(stdev(measured), 2)
    facts = {"Memory (GB)": model.memory_gb, "Images a second": model.fps, "SHA256": model.sha256}
    entry: dict[str, Any] = {
        "Name": model.name,
        "In Collection": zoo.groups[model.group].title,
        "Config": model.config_file.resolve().relative_to(root.resolve()).as_posix(),
        "Results": [
            {
                "Task": "Semantic Segmentation",
                "Dataset": zoo.data[model.data].title,
                "Metrics": {name: value for name, value in metrics.items() if value is not None},
            }
        ],
        "Metadata": {name: value for name, value in facts.items() if value},
        "Weights": model.weights,
    }
    return {name: value for name, value in entry.items() if value}
