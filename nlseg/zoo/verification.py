"""Evaluate a model of the zoo and compare with what is published."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from nlseg.errors import CheckpointError, ConfigError, DataError, UserError
from nlseg.files import sha256_of
from nlseg.registry import DATASETS
from nlseg.run.checkpoint import plain, save
from nlseg.run.command import evaluation_config
from nlseg.run.runner import Runner
from nlseg.structures import IGNORE_INDEX
from nlseg.table import format_table
from nlseg.weights.downloads import cached_file, locate
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import weights_in
from nlseg.weights.hub import is_on_the_hub
from nlseg.weights.sssegmentation import rename
from nlseg.zoo.catalogue import Data, Model, Zoo
from nlseg.zoo.data import digest_of_config, image_names, label_areas
from nlseg.zoo.receipt import NAME, Receipt, digest_of_labels, problems, read_receipt
from nlseg.zoo.rerun import use_data_root

TOLERANCE = 0.10
"""Points of mIoU that a score may be off and pass."""
_ELSEWHERE_FROM = 0.5  # share of a class's pixels that go to another one before it is named


class MissingError(UserError):
    """Weights or data are not here; says exactly what to put where."""


@dataclass(frozen=True)
class Task:
    """What is to be verified.

    Args:
        model: The model.
        data: Its images.
        tta: Several scales and flips.
        data_root: Folder of the data; None for the config's.
        checkpoint: Weights; None for the published ones.
        limit: Evaluate this many images only, evenly spread; None for all.
        folder: Run folders go here.
    """

    model: Model
    data: Data
    tta: bool
    data_root: str | None
    checkpoint: str | None
    limit: int | None
    folder: Path

    @property
    def work_dir(self) -> Path:
        """Run folder of the model with this protocol."""
        return self.folder / (f"{self.model.name}-tta" if self.tta else self.model.name)


@dataclass(frozen=True)
class Outcome:
    """What a verification found.

    Args:
        model: Name of the model.
        published: mIoU in percent.
        receipt: What was measured; None where weights or data are not here.
        message: What is missing.
    """

    model: str
    published: float | None
    receipt: Receipt | None
    message: str = ""

    @property
    def score(self) -> float:
        """Measured mIoU in percent, NaN without a receipt."""
        return float("nan") if self.receipt is None else float(self.receipt.scores["mIoU"] or "nan")

    @property
    def result(self) -> str:
        """``pass``, ``fail``, ``partial`` or ``missing``."""
        if self.receipt is None:
            return "missing"
        if self.receipt.is_partial or self.published is None:
            return "partial"
        return "pass" if abs(round(self.score - self.published, 2)) <= TOLERANCE else "fail"

    def row(self) -> list[object]:
        """Return the cells of its line in the table."""
        published = float("nan") if self.published is None else self.published
        return [self.model, published, self.score, self.score - published, self.result]


HEADER = ["model", "published", "here", "difference", "result"]


def tasks_of(zoo: Zoo, names: list[str] | None, **settings: Any) -> list[Task]:
    """Return the tasks of the named models, or of all that have a figure for the protocol.

    Args:
        zoo: The models.
        names: Their names; None for all.
        settings: The other arguments of ``Task``.

    Raises:
        ConfigError: A name is unknown, or nothing is published for the protocol.
    """
    tta = settings["tta"]
    if names is None:
        models = [m for m in zoo.models.values() if m.weights and m.published(tta=tta) is not None]
    else:
        models = [zoo.find(name) for name in names]
    for model in models:
        if model.published(tta=tta) is None:
            protocol = "several scales and flips" if tta else "a single scale"
            raise ConfigError(f"{model.name}: nothing is published for {protocol}")
    return [Task(model=model, data=zoo.data[model.data], **settings) for model in models]


def verify_model(task: Task, say: Callable[[str], None]) -> Outcome:
    """Check weights and data, evaluate, and leave a receipt.

    Args:
        task: What to verify.
        say: Is told what is going on.

    Raises:
        MissingError: Weights or data are not here; nothing was written.
        UserError: They are here, but not what is published.
    """
    cfg = config_of(task, "")
    dataset, lacking = _find_data(task, cfg)
    weights = _find_weights(task, lacking)
    if dataset is None or weights is None:
        raise MissingError(
            "\n".join([f"{task.model.name}: cannot be verified yet; put in place:", *lacking])
        )
    _check_weights(task, weights)
    say(f"{task.model.name}: weights {weights}")
    _check_data(task, cfg, dataset)
    say(f"{task.model.name}: {len(dataset)} images, as many as {task.data.title} has")
    cfg = config_of(task, str(_in_our_names(task, weights)))
    if task.limit is not None:
        _limit(cfg, len(dataset), task.limit)
    cfg.default_hooks = {**cfg.get("default_hooks", {}), "receipt": {"type": "ReceiptHook"}}
    runner = Runner.build(cfg)
    runner.test()
    receipt = read_receipt(Path(runner.log_dir) / NAME)
    return Outcome(task.model.name, task.model.published(tta=task.tta), receipt)


def config_of(task: Task, weights: str) -> Config:
    """Return the config of a task's test."""
    cfg = evaluation_config(
        str(task.model.config_file), weights, work_dir=str(task.work_dir), tta=task.tta
    )
    if task.data_root is not None:
        use_data_root(cfg.test_dataloader.dataset, task.data_root)
    return cfg


def _find_data(task: Task, cfg: Config) -> tuple[Any, list[str]]:
    """Return the data set, or None and what to put where."""
    settings = cfg.test_dataloader.dataset.to_dict()
    try:
        dataset = DATASETS.build({**settings, "pipeline": []})
    except DataError as error:
        folders = ", ".join(_folders(settings))
        return None, [
            f"  data: {task.data.title}, {task.data.images} images, from {task.data.obtain}\n"
            f"    into {folders}; or give --data-root DIR in place of "
            f"{settings.get('data_root')}\n    ({error})"
        ]
    return dataset, []


def _folders(settings: dict[str, Any]) -> Iterator[str]:
    root = Path(settings.get("data_root") or "")
    parts = [*(settings.get("data_prefix") or {}).values(), settings.get("ann_file")]
    return (str(root / part) for part in parts if part)


def _find_weights(task: Task, lacking: list[str]) -> Path | None:
    """Return the weights; where they are not here, and no data lack, they are fetched."""
    source = task.checkpoint or task.model.weights_source
    if not source:
        lacking.append("  weights: none are published; give --checkpoint FILE")
        return None
    local = Path(source)
    if "://" in source:
        local = locate(source) if is_on_the_hub(source) else cached_file(source)
    if local.is_file():
        return local
    if not lacking and "://" in source:
        try:
            return locate(source)
        except CheckpointError as error:
            if not isinstance(error.__cause__, OSError):  # what arrived was not what it should be
                raise
    begins = f" (SHA-256 begins {task.model.sha256})" if task.model.sha256 else ""
    lacking.append(f"  weights: {source}{begins}\n    as {local}; or give --checkpoint FILE")
    return None


def _check_weights(task: Task, weights: Path) -> None:
    digits = task.model.sha256
    if digits and not (found := sha256_of(weights)).startswith(digits):
        raise CheckpointError(
            f"{weights}: is not the published file: its SHA-256 begins {found[:16]}, that of "
            f"{task.model.name} {digits}"
        )


def _in_our_names(task: Task, weights: Path) -> Path:
    """Return the weights, or a copy of SSSegmentation's under the names that they have here."""
    content = weights_in(read_checkpoint(weights), str(weights))
    if not any(key.startswith("backbone_net.") for key in content):
        return weights
    renamed = task.work_dir / f"renamed_{weights.name}"
    renamed.parent.mkdir(parents=True, exist_ok=True)
    save(plain({"meta": {}, "state_dict": rename(content, str(weights))}), renamed)
    return renamed


def _check_data(task: Task, cfg: Config, dataset: Any) -> None:
    if len(dataset) != task.data.images:
        raise DataError(
            f"{task.data.title}: {len(dataset)} images are there, of {task.data.images}"
        )
    if not task.data.labels_sha256:
        return
    classes = dataset.metainfo["classes"]
    ignored = cfg.test_evaluator.get("ignore_index", IGNORE_INDEX)
    areas = label_areas(dataset, len(classes), ignored)
    found = digest_of_labels(list(image_names(dataset).values()), areas)
    if not found.startswith(task.data.labels_sha256):
        raise DataError(
            f"{task.data.title}: the labels are not those that the score is of: their digest "
            f'begins {found[:16]}, that of the zoo {task.data.labels_sha256[:16]}; see "label ids" '
            "in docs/datasets.md"
        )


def _limit(cfg: Config, total: int, limit: int) -> None:
    """Take evenly spread images of the data set."""
    if not 0 < limit <= total:
        raise ConfigError(f"--limit {limit}: a number from 1 to {total}")
    chosen = sorted({int(i) for i in np.linspace(0, total - 1, limit).round()})
    cfg.test_dataloader.dataset.indices = chosen


def finished(task: Task) -> Outcome | None:
    """Return the outcome of an earlier verification that came to its end; None without one.

    A receipt counts that is sound and whole, and of the config and the weights of the zoo.
    """
    digest = digest_of_config(config_of(task, ""))
    for path in sorted(task.work_dir.glob(f"*/{NAME}"), reverse=True):
        receipt = read_receipt(path)
        facts = receipt.facts
        sound = not problems(receipt) and not receipt.is_partial
        weights = (facts["weights"] or {}).get("sha256", "")
        if sound and facts["config"]["sha256"] == digest and weights.startswith(task.model.sha256):
            return Outcome(task.model.name, task.model.published(tta=task.tta), receipt)
    return None


def explain(task: Task, receipt: Receipt) -> str:
    """Write the scores of every class, the published ones where they are known, and what it is for.

    Args:
        task: What was verified.
        receipt: What was measured.

    Returns:
        A table, and a line for classes most of whose pixels are called another class.
    """
    counts = receipt.images.total(len(receipt.classes))[:-1, :-1]
    known = task.model.classes or {}
    rows: list[list[object]] = []
    for i, name in enumerate(receipt.classes):
        found = receipt.facts["per_class"]["IoU"][i]
        value = float("nan") if found is None else found
        published = known.get(name, float("nan"))
        rows.append(
            [name, published, value, value - published, _mostly(counts, i, receipt.classes)]
        )
    header = ["class", "published IoU", "here", "difference", "most of its pixels are called"]
    text = format_table(header, rows)
    moved = [(row[0], row[4]) for row in rows if row[4] and row[4] != row[0]]
    if len(moved) > 1:
        pairs = ", ".join(f"{name} -> {other}" for name, other in moved)
        text += f"\nclasses in another order would look like this: {pairs}"
    return text


def _mostly(counts: NDArray[np.int64], i: int, classes: list[str]) -> str:
    """Return the class that more than half of a class's pixels are called; empty without one."""
    total = counts[i].sum()
    best = int(counts[i].argmax())
    return classes[best] if total and counts[i, best] > _ELSEWHERE_FROM * total else ""
