"""Cityscapes' own evaluation, and label PNGs for its test server."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine import dist
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor

from nlseg.errors import ConfigError, DataError, UserError
from nlseg.evaluation.prediction_files import PredictionWriter
from nlseg.evaluation.samples import sample_data, sample_value
from nlseg.registry import METRICS
from nlseg.structures import IGNORE_INDEX

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of every train id 0..18."""

AVERAGES = (
    "averageScoreClasses",
    "averageScoreInstClasses",
    "averageScoreCategories",
    "averageScoreInstCategories",
)

_OFFICIAL = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"


def to_label_ids(train_ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Map train ids 0..18 to the ids that the server knows; everything else to 0, unlabelled."""
    table = np.zeros(256, np.uint8)
    table[: len(LABEL_IDS)] = LABEL_IDS
    inside = (train_ids >= 0) & (train_ids < 256)
    return np.asarray(table[np.where(inside, train_ids, 255)])


@METRICS.register_module()
class CityscapesMetric(BaseMetric):
    """Write predictions as label ids and score them with ``cityscapesscripts``.

    It scores classes and categories, both per pixel and weighted by instance, from the label id and
    instance id files beside the train id files. ``cityscapesscripts`` is imported only for that:
    ``format_only`` does without.

    Args:
        output_dir: Folder for the label PNGs.
        ignore_index: Accepted for the sake of existing configs; the official evaluation has its
            own rule.
        format_only: Only write the files, for the server.
        keep_results: Leave the files there after scoring.
        collect_device: Accepted for the sake of existing configs; only names are exchanged.
        prefix: Put before the names of the scores.

    Raises:
        ConfigError: If ``format_only`` comes without ``keep_results``.
    """

    def __init__(
        self,
        output_dir: str,
        ignore_index: int = IGNORE_INDEX,
        *,
        format_only: bool = False,
        keep_results: bool = False,
        collect_device: Literal["cpu", "gpu"] = "cpu",
        prefix: str | None = None,
    ) -> None:
        # BaseMetric warns where there is no prefix; the plain names are what is wanted here.
        super().__init__(collect_device=collect_device, prefix=prefix or "-")
        self.prefix = prefix
        if format_only and not keep_results:
            raise ConfigError(
                "CityscapesMetric: format_only=True writes files for the server; keep_results must "
                "be True or they would be deleted again"
            )
        self.output_dir = Path(output_dir)
        self.ignore_index = ignore_index
        self.format_only = format_only
        self.keep_results = keep_results
        self._writer = PredictionWriter(self.output_dir)

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Write the predictions of a batch.

        Args:
            data_batch: Not used.
            data_samples: One element an image, as ``SegDataSample`` or the dict of one, with
                ``pred_sem_seg`` (1, H, W), ``img_path`` and, unless ``format_only``,
                ``seg_map_path``.
        """
        for sample in data_samples:
            pred: Tensor = sample_data(sample, "pred_sem_seg")
            label_ids = to_label_ids(pred.to("cpu", torch.int64).numpy())
            file = self._writer.write(label_ids, sample_value(sample, "img_path"))
            truth = "" if self.format_only else label_id_file(sample_value(sample, "seg_map_path"))
            self.results.append((str(file), truth))

    def evaluate(self, size: int) -> dict[str, float]:
        """Score the files of all processes.

        Args:
            size: Number of images in the data set; a repeated image counts once.

        Returns:
            The four averages of the official evaluation, as fractions, on every process the same;
            nothing with ``format_only``.
        """
        self._writer.check_processes()
        gathered = dist.all_gather_object(list(self.results))
        self.results.clear()
        pairs = sorted({pair for part in gathered for pair in part})
        scores: list[Any] = [None]
        if dist.is_main_process():
            scores = [self.compute_metrics(pairs)]
        dist.broadcast_object_list(scores)
        result: dict[str, float] = scores[0]
        return result

    def compute_metrics(self, results: list[tuple[str, str]]) -> dict[str, float]:
        """Score pairs of files: prediction and truth, both in label ids."""
        if self.format_only:
            print_log(f"{len(results)} predictions are in {self.output_dir}", logger="current")
            return {}
        try:
            scores = _official_scores([pair[0] for pair in results], [pair[1] for pair in results])
        finally:
            if not self.keep_results:
                for file, _ in results:
                    Path(file).unlink(missing_ok=True)
        prefix = f"{self.prefix}/" if self.prefix else ""
        return {prefix + name: float(scores[name]) for name in AVERAGES}


def label_id_file(seg_map_path: str | None) -> str:
    """Return the label id file beside a train id file.

    Raises:
        DataError: If the name is not Cityscapes'.
    """
    if not str(seg_map_path).endswith("_labelTrainIds.png"):
        raise DataError(
            f"{seg_map_path}: CityscapesMetric looks for <name>_labelIds.png beside "
            "<name>_labelTrainIds.png; for other data sets use IoUMetric"
        )
    return str(seg_map_path).replace("_labelTrainIds.png", "_labelIds.png")


def _official_scores(predictions: list[str], truths: list[str]) -> dict[str, float]:
    try:
        official = importlib.import_module(_OFFICIAL)
    except ImportError as error:
        raise UserError(
            "CityscapesMetric: the official evaluation is not installed; "
            "pip install cityscapesscripts (or 'nlseg[optional]'), or use IoUMetric"
        ) from error
    if not predictions:
        raise DataError("CityscapesMetric: there are no predictions to score")
    official.args.quiet = True
    try:
        with _older_numpy(official):
            scores: dict[str, float] = official.evaluateImgLists(predictions, truths, official.args)
    except SystemExit as error:  # how it reports a file that it cannot use
        raise DataError(
            f"CityscapesMetric: cityscapesscripts stopped: {error}; its message is above"
        ) from error
    return scores


class _OlderNumpy:
    """numpy with the name ``in1d``, which the official scripts call and numpy 2.4 dropped."""

    in1d = staticmethod(np.isin)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextlib.contextmanager
def _older_numpy(scripts: Any) -> Iterator[None]:
    """Hand a module an older numpy while it runs; numpy itself stays as it is."""
    own = scripts.np
    scripts.np = own if hasattr(own, "in1d") else _OlderNumpy()
    try:
        yield
    finally:
        scripts.np = own
