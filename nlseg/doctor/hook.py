"""A look at a few labels of a built data set, before the first iteration."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from nlseg.bounds import Natural
from nlseg.doctor.class_causes import class_causes, unexplained
from nlseg.doctor.file_causes import file_causes, same_files, shared_finding
from nlseg.doctor.finding import Finding, by_severity
from nlseg.doctor.label_causes import label_causes, shifted_or_not
from nlseg.doctor.own_steps import first_refused
from nlseg.doctor.probe import Facts, probe, read_header
from nlseg.doctor.scale_causes import measure_scale, scale_causes
from nlseg.doctor.splits import (
    Rules,
    Split,
    equal_sets,
    for_equal_sets,
    heads_of,
    read_rules,
    steps_of,
)
from nlseg.doctor.tally import Tally, make_tally
from nlseg.errors import ConfigError, DataError
from nlseg.registry import HOOKS
from nlseg.run.processes import broadcast_text, is_main
from nlseg.run.protocol import RunnerProtocol

# Errors that a few labels only suspect: all labels are looked at before they stop a run.
_SUSPECTED = frozenset({"binary-masks", "all-ignored", "one-class", "reduce-zero-label-twice"})
_DEEP = ("I", "F")  # how Pillow's modes of more than 8 bits begin


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Stop before training on data that cannot work: stray labels, painted masks, other sizes.

    A test is not stopped: the same is logged.

    What ``nlseg check-data`` calls an error of labels, sizes or classes stops the run; the config's
    ``data_check = 'warn'`` logs it instead. Left out by ``default_hooks = dict(data_check=None)``.

    Args:
        limit: How many pairs of files to look at in each data set, evenly spaced. Where they
            suggest an error that only all labels prove, all are looked at.
    """

    priority = "VERY_HIGH"

    def __init__(self, limit: Natural = 32) -> None:
        self.limit = limit

    def before_train(self, runner: RunnerProtocol) -> None:
        """Check the training and the validation set.

        Raises:
            DataError: Names the cause, the files and the remedy; on every process the same.
            ConfigError: ``data_check`` is neither 'stop' nor 'warn'.
        """
        policy = runner.cfg.get("data_check", "stop")
        if policy not in ("stop", "warn"):
            raise ConfigError(f"data_check: {policy!r} is neither 'stop' nor 'warn'")
        train = runner.train_dataloader.dataset
        found = self._look(runner, train, "train")
        if runner.val_loop is not None:
            val = runner.val_dataloader.dataset
            found += self._look(runner, val, "val")
            found += check_shared(train, val, stop=False, also=equal_sets(runner.cfg))
        found = shifted_or_not(found, len(_splits(train, "train")))
        for finding in _stopping(found) if policy == "stop" else found:
            runner.logger.warning(finding.as_text())

    def before_test(self, runner: RunnerProtocol) -> None:
        """Log what is wrong with the labels of a test, whose scores would say nothing."""
        for finding in self._look(runner, runner.test_dataloader.dataset, "test"):
            runner.logger.warning(finding.as_text())

    def _look(self, runner: RunnerProtocol, dataset: Any, name: str) -> list[Finding]:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        head = getattr(model, "decode_head", None)  # a user's segmentor need not say its classes
        num_classes = getattr(model, "num_classes", getattr(head, "num_classes", None))
        return quick_check(
            dataset, num_classes, limit=self.limit, name=name, stop=False, config=runner.cfg
        )


def quick_check(
    dataset: Any, num_classes: int | None = None, *, limit: int = 32, name: str = "train",
    stop: bool = True, config: Mapping[str, Any] | Config | None = None,
) -> list[Finding]:  # fmt: skip
    """Look at up to ``limit`` labels, evenly spaced over a data set, and at their images' sizes.

    Every process looks at the same files, so all of them reach the same result. A data set whose
    labels are not loaded from local files by ``LoadAnnotations`` is skipped. Where a user's
    transforms may change labels, the samples are loaded by the whole pipeline instead.

    Args:
        dataset: Built; concatenated and repeated ones are searched for the sets inside.
        num_classes: Classes of the network's head, where known.
        limit: How many pairs of files to look at in each data set.
        name: What to call it: ``train``, ``val`` or ``test``.
        stop: Whether errors are raised, or returned too.
        config: What the data set was built of: what its resizing steps and crops make of the sizes
            is looked at, too, and lines that mend name the places in it.

    Returns:
        Problems to be logged.

    Raises:
        DataError: Problems that would stop training or make it useless, with the remedy.
    """
    findings: list[Finding] = []
    config = config or {}
    splits = _splits(dataset, name, heads_of(config.get("model") or {}))
    also, steps = equal_sets(config), steps_of(config)
    for split in splits:
        split.also = also.get(split.key, ())
        split.set_steps(steps.get(split.key, ()), config)
        findings += for_equal_sets(split, _look(split.dataset, split, num_classes, limit))
    findings = shifted_or_not(findings, len(splits) if name == "train" else 0)
    return _stopping(findings) if stop else _of_weight(findings)


def check_shared(
    train: Any, val: Any, *, stop: bool = True, also: Mapping[str, Sequence[str]] | None = None
) -> list[Finding]:
    """Look for files that training and validation share: those of equal bytes, none is decoded.

    The main process looks, the others hear of it.

    Args:
        train: Built; concatenated and repeated ones are searched for the sets inside.
        val: The same, to validate.
        stop: Whether an error is raised, or returned.
        also: Place of a data set in the config -> those of later ones that equal it.

    Raises:
        DataError: They share files.
    """
    findings: list[Finding] = []
    for one, other in product(_splits(train, "train"), _splits(val, "val")):
        pairs = same_files(_images(one.dataset), _images(other.dataset)) if is_main() else []
        pairs = json.loads(broadcast_text(json.dumps(pairs)))
        if pairs:
            other.also = (also or {}).get(other.key, ())
            findings.append(shared_finding(one, other, pairs))
    return _stopping(findings) if stop else findings


def _splits(dataset: Any, name: str, heads: Sequence[str] = ("model.decode_head",)) -> list[Split]:
    """List the parts of a built data set that are local files."""
    found = [
        (key, part, rules_of_built(part))
        for key, part in _leaves(dataset, f"{name}_dataloader.dataset")
    ]
    return [
        Split(name, key, part, rules, heads=heads, pipeline=[
            {"type": type(step).__name__} for step in part.pipeline.transforms])
        for key, part, rules in found if rules is not None
    ]  # fmt: skip


def _images(dataset: Any) -> list[str]:
    return [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]


def _of_weight(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "note"]


def _stopping(findings: list[Finding]) -> list[Finding]:
    """Return what is to be logged.

    Raises:
        DataError: Errors are among it.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        texts = "\n".join(finding.as_text() for finding in by_severity(errors))
        raise DataError(
            f"{texts}\nnlseg check-data <config> looks at every file; "
            "data_check = 'warn' in the config trains all the same"
        )
    return _of_weight(findings)


def _leaves(dataset: Any, key: str) -> Iterator[tuple[str, Any]]:
    if hasattr(dataset, "datasets"):
        for i, part in enumerate(dataset.datasets):
            yield from _leaves(part, f"{key}.datasets.{i}")
    elif hasattr(dataset, "dataset"):
        yield from _leaves(dataset.dataset, f"{key}.dataset")
    else:
        yield key, dataset


def rules_of_built(dataset: Any) -> Rules | None:
    """Read the label rules of a built data set, None where something else reads them."""
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    loading = [step for step in steps if type(step).__name__ == "LoadAnnotations"]
    if not loading or not hasattr(dataset, "get_data_info"):
        return None
    if getattr(dataset, "backend_args", None) or not getattr(dataset, "check_labels", True):
        return None
    names = ("imdecode_backend", "reduce_zero_label", "palette_to_index")
    settings = {name: getattr(loading[0], name, None) for name in names}
    images = [step for step in steps if type(step).__name__ == "LoadImageFromFile"]
    kind = getattr(images[0], "color_type", None) if images else None
    return read_rules(
        dataset,
        [
            {"type": "LoadImageFromFile", "color_type": kind},
            {"type": "LoadAnnotations", **settings},
        ],
    )


def _look(dataset: Any, split: Split, num_classes: int | None, limit: int) -> list[Finding]:
    size = len(dataset)
    indices = sorted({i * size // min(limit, size) for i in range(min(limit, size))})
    if getattr(dataset.pipeline, "has_foreign_steps", False):
        refused = first_refused(dataset, split, indices)
        found = [] if refused is None else [refused]
        return [*found, *_class_causes(split, make_tally(split, {}), num_classes)]
    findings = _examine(dataset, split, num_classes, indices)
    if len(indices) < size and any(f.code in _SUSPECTED for f in findings):
        findings = _examine(dataset, split, num_classes, list(range(size)))
    return findings


def _examine(
    dataset: Any, split: Split, num_classes: int | None, indices: Sequence[int]
) -> list[Finding]:
    """Look at the labels of some images, and at the headers of the images."""
    entries = [dataset.get_data_info(i) for i in indices]
    split.pairs = [
        (entry["img_path"], entry["seg_map_path"]) for entry in entries if "seg_map_path" in entry
    ]
    facts: dict[tuple[str, str], Facts] = {}
    for image, label in split.pairs:
        facts["image", image] = image_size(image)
        facts["label", str(label)] = probe("label", str(label))
    tally = make_tally(split, facts)
    values = label_causes(split, tally)
    classes = unexplained(_class_causes(split, tally, num_classes), values)
    scale = measure_scale(split, tally, looks_at_labels=False)
    return [*file_causes(split, tally), *values, *classes, *scale_causes(split, tally, scale)]


def _class_causes(split: Split, tally: Tally, num_classes: int | None) -> list[Finding]:
    """Return the problems that a few files can prove; the others need all of them."""
    proved = ("no-classes", "num-classes", "all-ignored", "one-class")
    found = class_causes(split, tally, num_classes)
    return [finding for finding in found if finding.code in proved]


def image_size(path: str) -> Facts:
    """Return the facts in an image's header; only one of more than 8 bits is decoded."""
    try:
        with open(path, "rb") as file:
            header = read_header(file)
    except (OSError, SyntaxError, ValueError) as error:
        return {"error": f"cannot be read: {error}"}
    if header.mode.startswith(_DEEP):
        return probe("image", path)
    unknown = {"dtype": "uint8", "sha": path, "mean": [0.0] * 3, "std": [0.0] * 3}
    return {"error": None, "turned": header.turned, **header._asdict(), **unknown}
