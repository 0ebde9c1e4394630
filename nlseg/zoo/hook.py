"""The hook that writes the receipt of a test."""

import datetime
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

import nlseg
from nlseg.errors import UserError
from nlseg.evaluation.image_counts import CountedImages, ImageCounts
from nlseg.evaluation.iou import IoUMetric
from nlseg.evaluation.scores import summarize
from nlseg.files import sha256_of
from nlseg.registry import HOOKS
from nlseg.run import processes
from nlseg.run.protocol import RunnerProtocol
from nlseg.weights.downloads import locate
from nlseg.zoo.data import digest_of_config, file_pairs, hash_files, image_names, is_part
from nlseg.zoo.receipt import (
    NAME,
    digest_of_files,
    digest_of_labels,
    of_classes,
    rounded,
    score_counts,
    write_receipt,
)


@HOOKS.register_module()
class ReceiptHook(Hook):
    """Write ``receipt.json`` and ``receipt.npz`` beside the log of a test, see ``zoo.receipt``.

    Every ``IoUMetric`` that counts by itself gets one, with its prefix in the name where it has
    one; a metric with counts or scores of its own gets none, as they could not be recomputed.
    """

    priority = "LOWEST"

    def before_test_epoch(self, runner: RunnerProtocol) -> None:
        """Ask for the counts of every image."""
        for metric in runner.test_loop.evaluator.metrics:
            if isinstance(metric, IoUMetric) and not metric.format_only:
                metric.image_counts = ImageCounts()

    def after_test_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the receipts."""
        for metric in runner.test_loop.evaluator.metrics:
            if not isinstance(metric, IoUMetric) or metric.image_counts is None:
                continue
            images, metric.image_counts = metric.image_counts.gather(), None
            if processes.is_main():
                self._write(runner, metric, images, metrics or {})

    def _write(
        self,
        runner: RunnerProtocol,
        metric: IoUMetric,
        images: CountedImages,
        printed: dict[str, float],
    ) -> None:
        name = "_".join((Path(NAME).stem, *filter(None, (metric.prefix,)))).replace("/", "_")
        path = Path(runner.log_dir) / f"{name}.json"
        how = {
            "names": list(metric.iou_metrics), "beta": metric.beta, "nan_to_num": metric.nan_to_num,
            "ignore_index": metric.ignore_index, "prefix": metric.prefix,
        }  # fmt: skip
        classes = list(metric.classes)
        counts = torch.from_numpy(images.total(len(classes)))
        scores = score_counts(counts, classes, how)
        prefix = f"{metric.prefix}/" if metric.prefix else ""
        summary = summarize(scores)
        if not images.names or any(
            not np.isclose(printed.get(prefix + key, np.nan), value, equal_nan=True, atol=0)
            for key, value in summary.items()
        ):
            runner.logger.info("no receipt: the metric counts or scores in its own way")
            return
        try:
            facts = {
                **facts_of_run(runner),
                "metric": how,
                "classes": classes,
                "scores": rounded(summary, 2),
                "per_class": of_classes(scores),
            }
            images, files = self._data(runner, images, facts)
            write_receipt(path, facts, images, files)
            runner.logger.info(f"receipt: {path}")
        except OSError as error:  # a full disk must not end a test that has its scores
            runner.logger.warning(f"the receipt cannot be written: {error}")

    def _data(
        self, runner: RunnerProtocol, images: CountedImages, facts: dict[str, Any]
    ) -> tuple[CountedImages, list[str]]:
        """Name the images, hash their files, and add what there is to say about them."""
        dataset = runner.test_loop.dataloader.dataset
        names, hashes = image_names(dataset), hash_files(file_pairs(dataset))
        files = [hashes.get(path, "") for path in images.names]
        images = CountedImages(
            tuple(names.get(path, Path(path).name) for path in images.names), images.pairs
        )
        areas = images.labelled(len(facts["classes"]))
        facts["data"] = {
            "type": type(dataset).__name__,
            "images": len(images.names),
            "files_sha256": digest_of_files(images.names, files),
            "labels_sha256": digest_of_labels(images.names, areas),
        }
        return images, files


def facts_of_run(runner: RunnerProtocol) -> dict[str, Any]:
    """Return what is being tested, and how, without a place on this machine."""
    cfg, loop = runner.cfg, runner.test_loop
    loader = cfg.get("test_dataloader") or {}
    source = cfg.get("load_from")
    device = next(runner.model.parameters()).device
    return {
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "config": {
            "file": Path(cfg.filename or f"{runner.timestamp}.py").name,
            "sha256": digest_of_config(cfg),
        },
        "weights": _weights(source),
        "partial": is_part(loader.get("dataset")),
        "protocol": {
            "multi_scale_and_flip": "module" in cfg.get("model", {}),
            "half": _half(loop),
            "batch_size": loader.get("batch_size", 1),
            "processes": runner.world_size,
        },
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "nlseg": nlseg.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _weights(source: str | None) -> dict[str, str] | None:
    if source is None:
        return None
    try:
        file = locate(source)
        return {"file": file.name, "sha256": sha256_of(file)}
    except (UserError, OSError):  # the file that was loaded is gone by now
        return None


def _half(loop: Any) -> str | None:
    """Return the half precision that a test loop predicts in."""
    if not getattr(loop, "fp16", False):
        return None
    return str(getattr(loop, "dtype", None) or "default")
