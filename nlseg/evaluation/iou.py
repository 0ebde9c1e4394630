"""The metric of the published tables: IoU, Dice and F-score over a whole data set."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from mmengine import dist
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from nlseg.bounds import Positive
from nlseg.errors import ConfigError, DataError
from nlseg.evaluation.image_counts import ImageCounts
from nlseg.evaluation.prediction_files import PredictionWriter
from nlseg.evaluation.samples import sample_data, sample_value
from nlseg.evaluation.scores import (
    MetricName,
    Scores,
    area_scores,
    check_metric_names,
    summarize,
)
from nlseg.extension import Extensible
from nlseg.ops.confusion import count_pairs
from nlseg.registry import METRICS
from nlseg.structures import IGNORE_INDEX
from nlseg.table import format_table


@METRICS.register_module()
class IoUMetric(Extensible, BaseMetric):
    """Count every image into one confusion matrix and score the sum.

    The matrix stays on the device of the predictions and is summed over the processes once, at the
    end. So the result does not depend on how the images were dealt to them, and no prediction is
    kept or sent.

    A subclass may override ``process`` and append to ``self.results`` what ``intersect_and_union``
    returns, one tuple an image, or override ``intersect_and_union``, ``total_area_to_metrics`` or
    ``compute_metrics``, which is called with a list of such tuples.

    Args:
        ignore_index: Label value that does not count.
        iou_metrics: Any of mIoU, mDice, mFscore.
        nan_to_num: Score of a class that has none (0/0), before averaging. Without it such classes
            do not weigh in.
        beta: Weight of recall against precision in the F-score.
        collect_device: Accepted for the sake of existing configs; there is nothing to collect.
        collect_dir: Accepted for the sake of existing configs, like ``collect_device``.
        output_dir: Folder for the predictions as label PNGs. Labels are shifted back up by one
            where the data set has ``reduce_zero_label``.
        format_only: Only write the predictions; labels are not needed then.
        prefix: Put before the names of the scores, ``<prefix>/mIoU``.
        keep_results: Accepted for the sake of existing configs; what is written always stays.
        img_root: Folder of all images; sub-folders below it are kept in ``output_dir``. A test sets
            it where two images have the same name.
        per_class_file: JSON file for the per-class scores and the confusion matrix of the latest
            evaluation; a test writes one beside its log unless this says where.

    Attributes:
        per_class: Scores of every class in the latest evaluation, as fractions.
        confusion: Counts (K + 1, K + 1) of the latest evaluation; see
            :func:`nlseg.ops.confusion.count_pairs`.
        unscored: Classes without a score in the latest evaluation: neither labels nor predictions
            hold them, so that the means are over fewer classes than there are.
        image_counts: Whoever wants the counts of every single image sets it before the evaluation;
            a subclass that counts in its own way leaves it empty.

    Raises:
        ConfigError: If a metric is unknown, or ``format_only`` comes without ``output_dir``.
    """

    not_called: ClassVar[Mapping[str, str]] = {
        "pre_eval_to_metrics": "write compute_metrics(self, results)"
    }

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        iou_metrics: MetricName | Sequence[MetricName] = ("mIoU",),
        *,
        nan_to_num: float | None = None,
        beta: Positive = 1.0,
        collect_device: Literal["cpu", "gpu"] = "cpu",
        collect_dir: str | None = None,
        output_dir: str | None = None,
        format_only: bool = False,
        prefix: str | None = None,
        keep_results: bool = False,
        img_root: str | None = None,
        per_class_file: str | None = None,
    ) -> None:
        # BaseMetric warns where there is no prefix; the plain names are what is wanted here.
        super().__init__(
            collect_device=collect_device, prefix=prefix or "-", collect_dir=collect_dir
        )
        self.prefix = prefix
        if format_only and output_dir is None:
            raise ConfigError("IoUMetric: format_only=True writes files; say where by output_dir")
        self.ignore_index = ignore_index
        self.iou_metrics = check_metric_names(iou_metrics)
        self.nan_to_num = nan_to_num
        self.beta = beta
        self.output_dir = output_dir
        self.format_only = format_only
        self.img_root = img_root
        self.per_class_file = per_class_file
        self.per_class: Scores = {}
        self.unscored: list[str] = []
        self.confusion: Tensor | None = None
        self.image_counts: ImageCounts | None = None
        self._counts: Tensor | None = None
        self._num_images = 0
        self._writer = None if output_dir is None else PredictionWriter(output_dir)

    @property
    def metrics(self) -> Sequence[str]:
        """The ``iou_metrics``, under mmsegmentation's name."""
        return self.iou_metrics

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, from the data set."""
        meta = self.dataset_meta or {}
        if not meta.get("classes"):
            raise ConfigError(
                "IoUMetric: the data set names no classes; give it metainfo=dict(classes=(...,))"
            )
        classes: Sequence[str] = meta["classes"]
        return classes

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count a batch.

        Args:
            data_batch: Not used.
            data_samples: One element an image, as ``SegDataSample`` or the dict of one, with
                ``pred_sem_seg`` (1, H, W) and, unless ``format_only``, ``gt_sem_seg`` (1, H, W).

        Raises:
            DataError: If an image has no label or one of another size.
        """
        for sample in data_samples:
            pred = sample_data(sample, "pred_sem_seg")
            if self._writer is not None:
                self._write(self._writer, pred, sample)
            if not self.format_only:
                self._count(pred, sample)
            self._num_images += 1

    def _count(self, pred: Tensor, sample: Any) -> None:
        place = sample_value(sample, "img_path", "an image without img_path")
        if sample_value(sample, "gt_sem_seg") is None:
            raise DataError(
                f"{place}: there is no label to compare with; to write predictions only, set "
                "format_only=True and output_dir in the evaluator"
            )
        label = sample_data(sample, "gt_sem_seg").to(pred.device, non_blocking=True)
        if label.shape != pred.shape:
            raise DataError(
                f"{place}: the prediction is {tuple(pred.shape)}, the label {tuple(label.shape)}; "
                "is the label loaded before Resize in the test pipeline?"
            )
        num_classes = len(self.classes)
        if self._counts_itself:
            areas = self.intersect_and_union(pred, label, num_classes, self.ignore_index)
            self.results.append(areas)
            return
        counts = count_pairs(pred, label, num_classes, ignore_index=self.ignore_index)
        self._counts = counts if self._counts is None else self._counts + counts
        if self.image_counts is not None:
            self.image_counts.add(str(place), counts)

    def _write(self, writer: PredictionWriter, pred: Tensor, sample: Any) -> None:
        writer.img_root = self.img_root
        shift = int(bool(sample_value(sample, "reduce_zero_label", False)))
        label = pred.to("cpu", torch.int64).numpy() + shift
        palette = (self.dataset_meta or {}).get("palette")
        if palette is not None and shift:
            palette = [(0, 0, 0), *palette]
        path = str(sample_value(sample, "img_path", f"{self._num_images}.png"))
        writer.write(label, path, palette)

    def evaluate(self, size: int) -> dict[str, float]:
        """Sum over the processes, score, start afresh.

        Args:
            size: Number of images in the data set.

        Returns:
            Scores in percent, on every process the same; nothing with ``format_only``.
        """
        num_images = torch.tensor(max(self._num_images, len(self.results)))
        dist.all_reduce(num_images)
        counts, self._counts, self._num_images = self._counts, None, 0
        if self._writer is not None:
            self._writer.check_processes()
        if self.format_only:
            print_log(f"{int(num_images)} predictions are in {self.output_dir}", logger="current")
            return {}
        results = self._gather() if self._counts_itself else []
        self.confusion = None
        if not results:
            edge = len(self.classes) + 1
            counts = torch.zeros(edge, edge, dtype=torch.int64) if counts is None else counts
            dist.all_reduce(counts)
            self.confusion = counts.cpu()
            results = [areas_of(self.confusion, len(self.classes))]
        self._warn(int(num_images), size)
        return self.compute_metrics(results)

    @property
    def _counts_itself(self) -> bool:
        """Return whether a subclass counts in its own way, so that ``results`` are what it says."""
        own = type(self)
        names = ("process", "intersect_and_union")
        return any(getattr(own, name) is not getattr(IoUMetric, name) for name in names)

    def _gather(self) -> list[Any]:
        gathered = dist.all_gather_object(_to_cpu(self.results))
        self.results.clear()
        return [item for part in gathered for item in part]

    def _warn(self, num_images: int, size: int) -> None:
        if num_images != size:
            print_log(
                f"IoUMetric: {num_images} images were counted but the data set has {size}; a "
                "sampler that fills up with repeated images makes scores inexact",
                logger="current",
                level=logging.WARNING,
            )
        strays = int(self.confusion[-1].sum()) if self.confusion is not None else 0
        if strays:
            print_log(
                f"IoUMetric: {strays} label pixels are neither a class 0..{len(self.classes) - 1} "
                f"nor the ignore index {self.ignore_index}; tools/check_data.py names them",
                logger="current",
                level=logging.WARNING,
            )

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Score the sum of areas, print the table of classes, write the JSON file.

        Args:
            results: What ``intersect_and_union`` returns, of one image or of several together.

        Returns:
            Scores in percent, rounded to two decimals.
        """
        found, union, predicted, labelled = (sum(areas) for areas in zip(*results, strict=True))
        self.per_class = self.total_area_to_metrics(
            found, union, predicted, labelled, list(self.iou_metrics), self.nan_to_num, self.beta
        )
        summary = summarize(self.per_class)
        print_log("per class results, %:\n" + self.table(), logger="current")
        self._name_unscored((union == 0).tolist())
        if self.per_class_file is not None and dist.is_main_process():
            file = Path(self.per_class_file)
            write_scores(file, self.classes, self.per_class, self.confusion)
            print_log(f"scores of every class: {self.per_class_file}", logger="current")
        prefix = f"{self.prefix}/" if self.prefix else ""
        return {prefix + name: value for name, value in summary.items()}

    def _name_unscored(self, absent: Sequence[bool]) -> None:
        """Note the classes that no mean counts, and say so."""
        names = list(self.classes)
        self.unscored = [name for name, gone in zip(names, absent, strict=True) if gone]
        if self.unscored:
            shown = ", ".join(self.unscored[:8])
            more = f" and {len(self.unscored) - 8} more" if len(self.unscored) > 8 else ""
            print_log(
                f"means over {len(names) - len(self.unscored)} of {len(names)} classes: neither "
                f"labels nor predictions hold {shown}{more}",
                logger="current",
                level=logging.WARNING,
            )

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Count the pixels of every class in one image.

        Args:
            pred_label: Predicted classes (H, W).
            label: True classes (H, W).
            num_classes: Number of classes K.
            ignore_index: Label that does not count.

        Returns:
            Pixels (K,) found, in the union, predicted and labelled, on the CPU.
        """
        counts = count_pairs(pred_label, label, num_classes, ignore_index=ignore_index)
        return areas_of(counts, num_classes)

    @staticmethod
    def total_area_to_metrics(
        total_area_intersect: Tensor,
        total_area_union: Tensor,
        total_area_pred_label: Tensor,
        total_area_label: Tensor,
        metrics: str | Sequence[str] = ("mIoU",),
        nan_to_num: float | None = None,
        beta: float = 1.0,
    ) -> Scores:
        """Score every class from areas that are summed over the images.

        Args:
            total_area_intersect: Pixels (K,) found.
            total_area_union: Pixels (K,) in the union.
            total_area_pred_label: Pixels (K,) predicted.
            total_area_label: Pixels (K,) labelled.
            metrics: Any of mIoU, mDice, mFscore.
            nan_to_num: Score of a class that has none (0/0).
            beta: Weight of recall against precision in the F-score.

        Returns:
            ``aAcc`` () and the scores (K,) of the classes, as fractions.
        """
        found, union, predicted, labelled = (
            torch.as_tensor(area).cpu().numpy().astype(np.float64)
            for area in (
                total_area_intersect, total_area_union, total_area_pred_label, total_area_label,
            )
        )  # fmt: skip
        return area_scores(
            (found, union, predicted, labelled), metrics=metrics, beta=beta, nan_to_num=nan_to_num
        )

    def table(self) -> str:
        """Return the scores of every class in percent, as text."""
        columns = {name: values * 100 for name, values in self.per_class.items() if values.ndim}
        rows = [
            [name, *(float(values[i]) for values in columns.values())]
            for i, name in enumerate(self.classes)
        ]
        return format_table(["class", *columns], rows)


def areas_of(counts: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the pixels (K,) found, in the union, predicted and labelled from counted pairs."""
    table = counts.cpu()
    found = table.diagonal()[:num_classes]
    predicted, labelled = table[:, :num_classes].sum(0), table[:num_classes].sum(1)
    return found, predicted + labelled - found, predicted, labelled


def _to_cpu(item: Any) -> Any:
    """Return tensors, also in lists and tuples, on the CPU; everything else as it is."""
    if isinstance(item, Tensor):
        return item.cpu()
    if type(item) in (list, tuple):
        return type(item)(map(_to_cpu, item))
    return item


def write_scores(file: Path, classes: Sequence[str], scores: Scores, counts: Tensor | None) -> None:
    """Write scores of every class in percent and the counts as JSON; a missing score is null."""
    kept = None if counts is None else counts[: len(classes), : len(classes)].tolist()
    columns = {name: values * 100 for name, values in scores.items() if values.ndim}
    content = {
        "summary": {name: _number(value) for name, value in summarize(scores).items()},
        "classes": [
            {"name": name, **{key: _number(values[i]) for key, values in columns.items()}}
            for i, name in enumerate(classes)
        ],
        "confusion": kept,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)
