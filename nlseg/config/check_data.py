"""Do loaders, pipelines and evaluators fit each other and the model's input?"""

from collections.abc import Iterator
from typing import Any

from nlseg.config.families import find_class
from nlseg.config.origin import KeyPath
from nlseg.config.parts import (
    Problem,
    error,
    leaf_datasets,
    parts_below,
    train_transforms,
    warning,
)
from nlseg.config.places import LOADERS, at, walk
from nlseg.config.signatures import default_of
from nlseg.datasets.metainfo import class_map, fit_palette, read_metainfo
from nlseg.errors import ConfigError, nearest
from nlseg.registry import DATASETS

SCORES = {
    "mIoU": ("aAcc", "mIoU", "mAcc"),
    "mDice": ("aAcc", "mDice", "mAcc"),
    "mFscore": ("aAcc", "mFscore", "mPrecision", "mRecall"),
}
TOGETHER = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)
METAINFO_KEYS = ("classes", "palette")
BATCH_NORMS = ("BN", "BN2d", "SyncBN", "MMSyncBN")


def check_data(config: Any) -> Iterator[Problem]:
    """Compare loaders, pipelines, preprocessor and evaluators.

    Args:
        config: A resolved config.

    Yields:
        Errors and warnings.
    """
    yield from _check_groups(config)
    yield from _check_workers(config)
    yield from _check_padding(config)
    yield from _check_classes(config)
    yield from _check_zero_label(config)
    yield from _check_single_image(config)
    yield from _check_best(config)


def _check_groups(config: Any) -> Iterator[Problem]:
    """The three settings of training, of validation and of testing come together."""
    for group in TOGETHER:
        missing = [key for key in group if config.get(key) is None]
        if missing and len(missing) < len(group):
            given = next(key for key in group if key not in missing)
            text = f"is given without {' and '.join(missing)}: all of {', '.join(group)} or none"
            yield error((given,), text)


def _check_workers(config: Any) -> Iterator[Problem]:
    for loader in LOADERS:
        settings = config.get(loader) or {}
        if settings.get("num_workers", 0) == 0 and settings.get("persistent_workers"):
            text = "True, but num_workers is 0: there is no worker process to keep"
            yield error((loader, "persistent_workers"), text)
        if settings.get("num_workers", 0) == 0 and settings.get("prefetch_factor"):
            yield error((loader, "prefetch_factor"), "needs num_workers above 0")


def _check_padding(config: Any) -> Iterator[Problem]:
    """Crops and padded images are not larger than what a batch is padded to."""
    path: KeyPath = ("model", "data_preprocessor")
    preprocessor = at(config, path)
    if not config.get("train_dataloader") or not isinstance(preprocessor, dict):
        return
    size, divisor = preprocessor.get("size"), preprocessor.get("size_divisor")
    if (size is None) == (divisor is None):
        given = "both" if size else "neither"
        yield error(path, f"training pads to size or to size_divisor, given {given}")
    for where, transform in train_transforms(config):
        key = {"RandomCrop": "crop_size", "Pad": "size"}.get(transform.get("type"), "")
        given_size = transform.get(key)
        if not isinstance(given_size, (list, tuple)) or not size:
            continue
        shape = tuple(given_size if key == "crop_size" else given_size[::-1])
        if any(side > limit for side, limit in zip(shape, size, strict=False)):
            text = f"{shape} is larger than data_preprocessor.size {tuple(size)}"
            yield error((*where, key), f"{text} (height, width): batches cannot be stacked")
        elif key == "crop_size" and shape != tuple(size):
            text = f"{shape} is padded to data_preprocessor.size {tuple(size)}"
            yield warning((*where, key), f"{text} in every batch")


def _check_classes(config: Any) -> Iterator[Problem]:
    """Class names are names, there is a colour for each, and no key is misspelt."""
    for path, dataset in leaf_datasets(config, *LOADERS):
        given = dataset.get("metainfo")
        if not isinstance(given, dict):
            continue
        where = (*path, "metainfo")
        for key in given.keys() - set(METAINFO_KEYS):
            if hint := nearest(str(key), METAINFO_KEYS):
                yield error((*where, key), f"class information is not looked up there{hint}")
        classes = given.get("classes")
        if isinstance(classes, str) and (classes.endswith(".txt") or "/" in classes):
            continue  # a file, which may be on another machine
        standard = getattr(find_class(dataset["type"], DATASETS), "METAINFO", {})
        try:
            info = read_metainfo(standard, given, dataset["type"])
            names = info.get("classes") or ()
            subset = class_map(standard.get("classes"), info.get("classes"), dataset["type"])
            fit_palette(info.get("palette"), names, subset, dataset["type"])
        except ConfigError as problem:
            yield error(where, str(problem).partition(": ")[2])


def _check_zero_label(config: Any) -> Iterator[Problem]:
    """Data set and pipeline agree on whether label 0 is dropped."""
    for path, dataset in leaf_datasets(config, *LOADERS):
        found = find_class(dataset["type"], DATASETS)
        own = dataset.get("reduce_zero_label", default_of(found, "reduce_zero_label"))
        for inner, step in walk(dataset.get("pipeline"), (*path, "pipeline")):
            given = step.get("reduce_zero_label") if isinstance(step, dict) else None
            where = (*inner, "reduce_zero_label")
            if given is None or own is None:
                continue
            if given != own:
                text = f"{given}, but {dataset['type']} has reduce_zero_label={own}"
                yield error(where, f"{text}; set it in the data set only")
            elif "reduce_zero_label" in dataset:
                yield warning(where, "set in the data set too; once is enough, in the data set")


def _check_single_image(config: Any) -> Iterator[Problem]:
    """Batch norm in training mode needs more than one image."""
    if at(config, ("train_dataloader", "batch_size")) != 1:
        return
    for path, item in walk(config.get("model"), ("model",)):
        kind = item.get("type") if isinstance(item, dict) and path[-1] == "norm_cfg" else None
        if kind in BATCH_NORMS and not at(config, (*path[:-1], "norm_eval")):
            text = f"{kind} trains on the statistics of one image, as train_dataloader.batch_size"
            alone = " is 1" if kind.startswith("BN") else " is 1, unless several processes share it"
            yield warning((*path, "type"), text + alone)
            return


def _check_best(config: Any) -> Iterator[Problem]:
    """The score that picks the best checkpoint is one that the evaluator computes."""
    path: KeyPath = ("default_hooks", "checkpoint", "save_best")
    wanted = at(config, path)
    evaluators = parts_below(config.get("val_evaluator"), ("val_evaluator",))
    if not isinstance(wanted, str) or wanted == "auto" or not evaluators:
        return
    offered: list[str] = []
    for _, evaluator in evaluators:
        if evaluator.get("type") != "IoUMetric" or evaluator.get("prefix"):
            return
        metrics = evaluator.get("iou_metrics", "mIoU")
        for metric in [metrics] if isinstance(metrics, str) else metrics:
            offered += SCORES.get(metric, ())
    if wanted not in offered:
        text = f"{wanted!r} is not among the scores of val_evaluator: {', '.join(offered)}"
        yield error(path, text)
