"""The confusion matrix of a test, from predicted files, scores that were kept, or weights."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.config import Config
from numpy.typing import NDArray
from PIL import Image

from nlseg.doctor.browsing import only_loading
from nlseg.errors import DataError, UserError
from nlseg.evaluation.iou import IoUMetric
from nlseg.evaluation.prediction_files import image_root, prediction_name
from nlseg.ops.confusion import confusion_matrix
from nlseg.registry import DATASETS
from nlseg.structures import IGNORE_INDEX

if TYPE_CHECKING:
    from nlseg.run.runner import Runner


def count_folder(config: Config, folder: Path, *, progress: Any = iter) -> NDArray[np.int64]:
    """Count predicted label maps against the labels of a config's test set.

    Args:
        config: With a ``test_dataloader``.
        folder: What ``test.py --out`` wrote: PNGs under the images' names, shifted up by one where
            the data set has ``reduce_zero_label``.
        progress: Wraps the images, such as ``tqdm``.

    Returns:
        Counts (K, K), int64, rows true, columns predicted.

    Raises:
        DataError: If a prediction is missing or has another size than its label.
    """
    settings = Config(dict(config.test_dataloader.dataset)).to_dict()
    dataset = DATASETS.build(only_loading(settings))
    num_classes = len(dataset.metainfo["classes"])
    ignore_index = getattr(dataset, "ignore_index", IGNORE_INDEX)
    root = image_root(dataset)
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for i in progress(range(len(dataset))):
        sample = dataset[i]["data_samples"]
        pred = torch.from_numpy(read_prediction(find_prediction(folder, sample.img_path, root)))
        pred -= int(bool(sample.get("reduce_zero_label")))
        label = sample.gt_sem_seg.data[0]
        if pred.shape != label.shape:
            raise DataError(
                f"{sample.img_path}: the prediction in {folder} is {tuple(pred.shape)}, "
                f"the label {tuple(label.shape)} (height, width)"
            )
        counts += confusion_matrix(pred, label, num_classes, ignore_index=ignore_index)
    return counts.numpy()


def find_prediction(folder: Path, img_path: str, root: str | None) -> Path:
    """Return an image's prediction, with sub-folders or without.

    Raises:
        DataError: If it is not there.
    """
    names = [prediction_name(img_path, root), prediction_name(img_path)]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder}: there is no {names[0]} for {img_path}; "
        "make it with tools/test.py <config> <checkpoint> --out <folder>"
    )


def read_prediction(file: Path) -> NDArray[np.int64]:
    """Read a predicted label map (H, W)."""
    with Image.open(file) as image:
        return np.asarray(image).astype(np.int64)


def read_kept_counts(file: Path) -> NDArray[np.int64]:
    """Read the counts (K, K) that ``IoUMetric`` keeps in its ``per_class_file``.

    Raises:
        UserError: If the file holds none.
    """
    try:
        return np.array(json.loads(file.read_text())["confusion"], np.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: holds no confusion matrix of IoUMetric") from error


def counts_of_test(runner: "Runner") -> NDArray[np.int64]:
    """Test with a runner and return the counts (K, K) of its ``IoUMetric``.

    Raises:
        UserError: If the test evaluator has none.
    """
    runner.test()
    for metric in runner.test_evaluator.metrics:
        if isinstance(metric, IoUMetric) and metric.confusion is not None:
            num_classes = len(metric.classes)
            counts: NDArray[np.int64] = metric.confusion[:num_classes, :num_classes].numpy()
            return counts
    raise UserError("test_evaluator: has no IoUMetric that scores, which counts the pairs")


def write_confusion_csv(file: Path, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Write counts (K, K) with names of rows and columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["true \\ predicted", *classes])
        writer.writerows([name, *map(int, row)] for name, row in zip(classes, counts, strict=True))
