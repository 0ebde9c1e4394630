"""How often each class occurs in a data set, and the loss weights that follow from it."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nlseg.datasets.transforms.labels import LoadAnnotations
from nlseg.errors import ConfigError, DataError

_THREADS = 8
Counts = NDArray[np.int64]


class ClassCounts(NamedTuple):
    """Pixels of the classes of a data set.

    Args:
        pixels: Pixels of each class (K,).
        area: Labelled pixels of the images that hold the class, together (K,).
        images: Images that were counted.
    """

    pixels: Counts
    area: Counts
    images: int


def median_frequency_weights(
    pixels: Counts, area: Counts, limits: tuple[float, float] = (0.1, 10.0)
) -> NDArray[np.float64]:
    """Return a loss weight for every class (K,): median frequency balancing.

    The frequency of a class is its share of the labelled pixels in the images that hold it; its
    weight is the median of all frequencies over its own. A class that never occurs weighs 1.

    Source: Eigen and Fergus, "Predicting depth, surface normals and semantic labels", 2015. Unlike
    there, weights are kept within ``limits``, so that no class drowns the others.

    Args:
        pixels: Pixels of each class (K,).
        area: Labelled pixels of the images that hold the class, together (K,).
        limits: Smallest and largest weight.
    """
    there = pixels > 0
    frequency = np.where(there, pixels / np.maximum(area, 1), 1.0)
    median = float(np.median(frequency[there])) if there.any() else 1.0
    weights = np.where(there, median / frequency, 1.0)
    return np.asarray(np.clip(weights, *limits).round(3))


def count_classes(dataset: Any, *, progress: bool = False) -> ClassCounts:
    """Count the pixels of each class in all images of a data set, each image once.

    Label files are read by the pipeline's own ``LoadAnnotations``. Where a user's data set or
    transforms may make other labels, sample n of the training stream is taken for image n instead.

    Args:
        dataset: Built; joined and repeated ones are searched for the sets inside.
        progress: Show a bar.

    Raises:
        ConfigError: The data set names no classes.
        DataError: A label cannot be used, unless the data set's ``bad_samples`` passes it over; or
            there is no labelled pixel.
    """
    leaves = list(_leaves(dataset))
    num_classes = len(leaves[0].metainfo.get("classes") or ())
    if num_classes == 0:
        raise ConfigError("class_weight: 'auto' needs metainfo.classes of the training data")
    pixels, area = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    images = 0
    with tqdm(
        total=sum(map(len, leaves)), desc="counting classes", unit="image", disable=not progress
    ) as bar:
        for leaf in leaves:
            for counts in _counts_of_images(leaf, num_classes):
                bar.update()
                if counts is not None:
                    pixels += counts
                    area += counts.sum() * (counts > 0)
                    images += 1
    if not pixels.any():
        raise DataError("class_weight: 'auto' finds no labelled pixel in the training data")
    return ClassCounts(pixels, area, images)


def _leaves(dataset: Any) -> Iterator[Any]:
    if hasattr(dataset, "datasets"):
        for part in dataset.datasets:
            yield from _leaves(part)
    elif hasattr(dataset, "dataset"):
        yield from _leaves(dataset.dataset)
    else:
        yield dataset


def _counts_of_images(dataset: Any, num_classes: int) -> Iterator[Counts | None]:
    pipeline = getattr(dataset, "pipeline", None)
    steps = [s for s in getattr(pipeline, "transforms", ()) if isinstance(s, LoadAnnotations)]
    plain = hasattr(dataset, "get_data_info") and not getattr(pipeline, "has_foreign_steps", True)
    if not (plain and steps):
        for i in range(len(dataset)):
            sample = dataset[i]
            label = None if sample is None else sample["data_samples"].gt_sem_seg.data.numpy()
            yield None if label is None else _histogram(label, num_classes, dataset)
        return
    count = partial(_count_file, dataset, steps[0], num_classes)
    with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as pool:
        yield from pool.map(count, range(len(dataset)))


def _count_file(dataset: Any, load: LoadAnnotations, num_classes: int, index: int) -> Counts | None:
    """Count one label file; None for a bad one that the data set passes over."""
    try:
        label = load.transform(dataset.get_data_info(index))["gt_seg_map"]
    except DataError:
        if getattr(getattr(dataset, "bad_samples", None), "policy", "raise") == "raise":
            raise
        return None
    return _histogram(label, num_classes, dataset)


def _histogram(label: NDArray[Any], num_classes: int, dataset: Any) -> Counts:
    counts = np.bincount(label.ravel(), minlength=num_classes)[:num_classes]
    ignored = getattr(dataset, "ignore_index", None)
    if ignored is not None and 0 <= ignored < num_classes:
        counts[ignored] = 0
    return counts
