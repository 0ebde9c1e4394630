"""What a receipt says about a data set, and the part of a config that decides a score."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from nlseg.datasets.transforms import LoadAnnotations
from nlseg.evaluation.prediction_files import image_root
from nlseg.zoo.receipt import digest_of

_READERS = 4
_ELSEWHERE = {"data_root", "cache", "cache_dir", "pretrained", "init_cfg", "indices", "_scope_"}
"""Where things lie on one machine, what begins a training, and what makes a test partial."""
_FILES_OF_METRIC = {"output_dir", "per_class_file", "img_root", "keep_results", "collect_dir"}
_SETTINGS = ("channels_last", "tf32", "compile", "load_strict", "load_finite")


def image_names(dataset: Any) -> dict[str, str]:
    """Return a name for each image that is the same on every machine, by the image's path.

    Args:
        dataset: A data set that tells its files.

    Returns:
        Paths below the folder of all images, in the order of the data set.
    """
    root = image_root(dataset)
    return {path: name_below(path, root) for path, _ in file_pairs(dataset)}


def name_below(path: str, root: str | None) -> str:
    """Return a path below a folder with forward slashes; its last part where it lies elsewhere."""
    if root and Path(path).is_relative_to(root):
        return Path(path).relative_to(root).as_posix()
    return os.path.basename(path)


def file_pairs(dataset: Any) -> list[tuple[str, str | None]]:
    """Return image and label file of every sample; nothing for a data set that does not tell."""
    if not hasattr(dataset, "get_data_info"):
        return []
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return [(str(info["img_path"]), info.get("seg_map_path")) for info in infos]


def hash_files(pairs: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """Return the SHA-256 of image and label together, by the image's path.

    Args:
        pairs: Image and label files; the text is empty where one is no local file.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        digests = list(pool.map(_hash_pair, pairs))
    return dict(zip((image for image, _ in pairs), digests, strict=True))


def _hash_pair(pair: tuple[str, str | None]) -> str:
    digest = hashlib.sha256()
    try:
        for path in filter(None, pair):
            content = Path(path).read_bytes()
            digest.update(len(content).to_bytes(8, "little") + content)
    except OSError:
        return ""
    return digest.hexdigest()


def label_areas(dataset: Any, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """Count the pixels (N, K + 1) of every class in every label file, without a network.

    Labels go through the rules of the data set (label map, zero label), as in a test.

    Args:
        dataset: A data set that tells its files.
        num_classes: Number of classes K; other values are counted as strays.
        ignore_index: Label that does not count.
    """
    load = LoadAnnotations()
    areas = np.zeros((len(dataset), num_classes + 1), np.int64)
    for index in range(len(dataset)):
        label = load(dataset.get_data_info(index))["gt_seg_map"]
        values, counts = np.unique(label[label != ignore_index], return_counts=True)
        inside = (values >= 0) & (values < num_classes)
        areas[index, values[inside].astype(np.int64)] = counts[inside]
        areas[index, num_classes] = counts[~inside].sum()
    return areas


def digest_of_config(cfg: Config) -> str:
    """Return the SHA-256 of what decides a score in the config of a test.

    That is the network, the data set and its pipeline, the batch, the metric, the loop, and the
    settings of the arithmetic. Where files lie, what begins a training, logs, hooks and workers
    decide nothing.
    """
    loader = cfg.get("test_dataloader") or {}
    return digest_of(
        {
            "model": _decisive(cfg.get("model"), _ELSEWHERE),
            "dataset": _decisive(loader.get("dataset"), _ELSEWHERE),
            "batch_size": loader.get("batch_size"),
            "metric": _decisive(cfg.get("test_evaluator"), _FILES_OF_METRIC),
            "loop": _decisive(cfg.get("test_cfg"), set()),
            **{name: cfg.get(name) for name in _SETTINGS},
        }
    )


def _decisive(value: Any, without: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _decisive(v, without) for k, v in value.items() if k not in without}
    if isinstance(value, (list, tuple)):
        return [_decisive(item, without) for item in value]
    if isinstance(value, str) and os.path.isabs(value):
        return os.path.basename(value)
    return value


def is_part(dataset: Any) -> bool:
    """Return whether the config of a data set takes only some of its images."""
    if isinstance(dataset, Mapping):
        return dataset.get("indices") is not None or any(map(is_part, dataset.values()))
    return isinstance(dataset, (list, tuple)) and any(map(is_part, dataset))
