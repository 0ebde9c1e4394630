"""Gathers facts while a test, or the last validation of a training, runs; writes the report."""

import heapq
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.hooks import Hook
from numpy.typing import NDArray

from nlseg.bounds import Natural
from nlseg.registry import HOOKS
from nlseg.report.facts import FILE as FACTS
from nlseg.report.facts import ImageFacts, gather, read_facts, write_facts
from nlseg.run import processes
from nlseg.run.hooks import read_rgb
from nlseg.run.protocol import RunnerProtocol
from nlseg.structures import IGNORE_INDEX

PAGE = "report.html"
_SHARE = 0.05
_SHOWN_PX = 560


@dataclass(order=True)
class _Kept:
    """An image for the page, ordered by how much it is wanted."""

    wanted: float
    number: int
    facts: ImageFacts = field(compare=False)
    label: NDArray[Any] = field(compare=False)
    pred: NDArray[Any] = field(compare=False)


@HOOKS.register_module()
class ReportHook(Hook):
    """Write ``report.html``: scores with intervals, per class, by size, and where the points went.

    Counting runs in a thread beside the network. Confidence needs the logits of an image at full
    size, so it is taken of as many images as cost at most 5 % of the time.

    Args:
        examples: How many of the worst and of the best images the page shows.
        training: Whether the last validation of a training is reported on, too.
    """

    priority = "LOWEST"

    def __init__(self, examples: Natural = 6, training: bool = True) -> None:
        self.examples, self.training = examples, training
        self._reset()

    def _reset(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: list[Future[ImageFacts]] = []
        self._worst: list[_Kept] = []
        self._best: list[_Kept] = []
        self._begin = time.perf_counter()
        self._spent = 0.0
        self._mode: str | None = None

    def before_test_epoch(self, runner: RunnerProtocol) -> None:
        """Begin anew."""
        self._reset()
        self._mode = "test"

    def before_val_epoch(self, runner: RunnerProtocol) -> None:
        """Begin anew where this is the last validation."""
        self._reset()
        last = runner.train_loop is None or runner.iter >= runner.max_iters
        self._mode = "val" if last and self.training else None

    def after_test_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take the images of a batch."""
        self._take(runner, outputs)

    def after_val_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take the images of a batch."""
        self._take(runner, outputs)

    def _take(self, runner: RunnerProtocol, outputs: Sequence[Any] | None) -> None:
        if self._mode is None:
            return
        classes = self._classes(runner)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "report")
        for sample in outputs or ():
            if classes is None or "gt_sem_seg" not in sample:
                self._mode = None  # a test without labels has nothing to report
                return
            label = sample.gt_sem_seg.data[0].cpu().numpy()
            pred = sample.pred_sem_seg.data[0].cpu().numpy()
            if label.shape != pred.shape:
                continue
            confidence = self._confidence(sample)
            self._jobs.append(
                self._pool.submit(
                    self._gather, len(self._jobs), str(sample.get("img_path", "?")), label, pred,
                    len(classes), confidence,
                )
            )  # fmt: skip

    def _gather(
        self, number: int, image: str, label: Any, pred: Any, num_classes: int, confidence: Any
    ) -> ImageFacts:
        ignore = IGNORE_INDEX
        facts = gather(image, label, pred, num_classes, ignore, confidence)
        right = sum(n for true, predicted, n in facts.pairs if true == predicted)
        share = right / max(1, sum(n for _, _, n in facts.pairs))
        for kept, wanted in ((self._worst, -share), (self._best, share)):
            one = _Kept(wanted, number, facts, _small(label), _small(pred))
            if len(kept) < self.examples:
                heapq.heappush(kept, one)
            elif kept and one > kept[0]:
                heapq.heapreplace(kept, one)
        return facts

    def _confidence(self, sample: Any) -> NDArray[np.float32] | None:
        """Return the largest probability of each pixel, while that is cheap enough."""
        if self._spent > _SHARE * (time.perf_counter() - self._begin):
            return None
        begin = time.perf_counter()
        logits = getattr(sample, "seg_logits", None)
        if logits is None:
            return None
        with torch.inference_mode():
            scores = logits.data.float()
            if scores.shape[0] == 1:
                found = torch.maximum(scores[0], 1 - scores[0])
            else:
                found = torch.exp(scores.amax(0) - scores.logsumexp(0))
            confidence: NDArray[np.float32] = found.cpu().numpy()
        self._spent += time.perf_counter() - begin
        return confidence

    def _classes(self, runner: RunnerProtocol) -> Sequence[str] | None:
        meta = self._meta(runner)
        classes = meta.get("classes")
        return None if classes is None else list(classes)

    def _meta(self, runner: RunnerProtocol) -> dict[str, Any]:
        loader = getattr(runner, f"{self._mode or 'test'}_dataloader")
        return dict(getattr(loader.dataset, "metainfo", None) or {})

    def after_test_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the report of a test."""
        self._write(runner, Path(runner.log_dir))

    def after_val_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the report of the last validation."""
        self._write(runner, Path(runner.work_dir))

    def _write(self, runner: RunnerProtocol, folder: Path) -> None:
        if self._mode is None:
            return
        meta = self._meta(runner)
        facts = [job.result() for job in self._jobs]
        if self._pool is not None:
            self._pool.shutdown()
        plain = {
            "classes": list(meta.get("classes") or []),
            "palette": [list(map(int, c)) for c in meta.get("palette") or []] or None,
            "config": Path(runner.cfg.filename or "config").name,
        }
        from nlseg.report.page import write_report

        try:
            facts = self._of_all_processes(folder, facts, plain)
            if facts and processes.is_main():
                write_facts(folder / FACTS, facts, plain)
                write_report(
                    folder / PAGE, facts, plain, examples=self._examples(),
                    config_text=getattr(runner, "config_text", ""),
                    run_folder=Path(runner.work_dir),
                )  # fmt: skip
                runner.logger.info(f"report: {folder / PAGE}")
        except OSError as error:  # a full disk must not end a run that has its scores
            runner.logger.warning(f"the report cannot be written: {error}")
        finally:
            self._reset()

    def _of_all_processes(
        self, folder: Path, facts: list[ImageFacts], meta: dict[str, Any]
    ) -> list[ImageFacts]:
        """Bring the facts of all processes together, by way of files in the run folder."""
        if processes.world_size() == 1:
            return facts
        part = folder / f".{FACTS}.{processes.rank()}"
        if facts:
            write_facts(part, facts, meta)
        processes.barrier()
        if not processes.is_main():
            return []
        parts = sorted(folder.glob(f".{FACTS}.*"))
        every = [one for file in parts for one in read_facts(file)[1]]
        for file in parts:
            file.unlink()
        return every

    def _examples(self) -> dict[str, Any]:
        from nlseg.report.page import Example

        return {
            name: [
                Example(kept.facts, _small(read_rgb(kept.facts.image)), kept.label, kept.pred)
                for kept in sorted(chosen, reverse=True)
                if Path(kept.facts.image).is_file()
            ]
            for name, chosen in (("worst", self._worst), ("best", self._best))
        }


def _small(picture: NDArray[Any]) -> NDArray[Any]:
    """Shrink a picture (H, W, 3) or a label map (H, W) to what the page shows."""
    scale = _SHOWN_PX / max(picture.shape[:2])
    if scale >= 1:
        return picture.astype(np.uint8) if picture.ndim == 3 else picture.astype(np.int16)
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    if picture.ndim == 3:
        return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(picture.astype(np.int16), size, interpolation=cv2.INTER_NEAREST))
