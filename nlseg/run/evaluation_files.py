"""The files that a test leaves: scores of every class, and predictions under names of their own."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlseg.evaluation.iou import IoUMetric
from nlseg.run.hooks.visualization import image_root


def choose_files(metrics: Sequence[Any], dataset: Any, folder: Path) -> None:
    """Tell the metrics where their files go, as far as the config has not told them.

    Args:
        metrics: Those of the test; each ``IoUMetric`` gets ``per_class.json`` in the folder, with
            its prefix in the name where it has one, and, for data sets with images of one name in
            several folders, the folder above them, so that predictions keep the sub-folders.
        dataset: The data set that is tested on.
        folder: Where the log and the scores of this test lie.
    """
    for metric in metrics:
        if not isinstance(metric, IoUMetric):
            continue
        if metric.per_class_file is None:
            name = "_".join(("per_class", *filter(None, (metric.prefix,))))
            metric.per_class_file = str(folder / f"{name.replace('/', '_')}.json")
        if metric.output_dir is not None and metric.img_root is None:
            metric.img_root = root_of_shared_names(dataset)


def root_of_shared_names(dataset: Any) -> str | None:
    """Return the folder above all images if two of them have the same name, else None."""
    if not hasattr(dataset, "get_data_info"):
        return None
    paths = (Path(dataset.get_data_info(index)["img_path"]) for index in range(len(dataset)))
    shared = any(number > 1 for number in Counter(path.stem for path in paths).values())
    return image_root(dataset) if shared else None
