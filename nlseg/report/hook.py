"""Gathers facts while a test, or the last validation of a training, runs; writes the report."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import EarlyStoppingHook, Hook
from numpy.typing import NDArray

from nlseg.bounds import Natural
from nlseg.config.show import as_python
from nlseg.config.text import hide_secrets
from nlseg.evaluation.iou import IoUMetric
from nlseg.registry import HOOKS
from nlseg.report.examples import FILE as EXAMPLES
from nlseg.report.examples import Examples
from nlseg.report.facts import FILE as FACTS
from nlseg.report.facts import ImageFacts, gather, read_facts, write_facts
from nlseg.run import processes
from nlseg.run.console import this_command
from nlseg.run.protocol import RunnerProtocol
from nlseg.structures import IGNORE_INDEX

PAGE = "report.html"
_SHARE = 0.05
_WAITING = 2
_MOST_LOGITS = 1 << 26  # 256 MiB
_ROWS = 64


@HOOKS.register_module()
class ReportHook(Hook):
    """Write ``report.html``: scores with intervals, per class, by size, and where the points went.

    Pairs of classes are counted of every image, in a thread beside the network. What takes longer
    is counted of as many images as cost at most 5 % of the evaluation's time in that thread (on a
    GPU, where the thread takes nothing from the network, of as many as it keeps up with), and
    confidence, which needs the logits at full size, at most 5 % in the main thread. The page says
    of how many images these are. Whatever fails costs one warning and never the run.

    Args:
        examples: How many of the worst and of the best images the page shows.
        training: Whether the last validation of a training is reported on.
        testing: Whether a test is reported on.
    """

    priority = "LOWEST"

    def __init__(self, examples: Natural = 6, training: bool = True, testing: bool = True) -> None:
        self.examples, self.training, self.testing = examples, training, testing
        self._in_training = self._stops_early = False
        self._reset()

    def _reset(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: list[Future[ImageFacts]] = []
        self._examples = Examples(self.examples)
        self._begin = time.perf_counter()
        self._evaluation_s: float | None = None
        self._confidence_s = self._details_s = 0.0
        self._mode: str | None = None
        self._usable = True

    def before_train(self, runner: RunnerProtocol) -> None:
        """Note that validations belong to a training, and whether their last one is known."""
        self._in_training = True
        self._stops_early = any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks)

    def before_test_epoch(self, runner: RunnerProtocol) -> None:
        """Begin anew."""
        self._start("test" if self.testing else None)

    def before_val_epoch(self, runner: RunnerProtocol) -> None:
        """Begin anew where this is, or may be, the last validation."""
        if self._in_training:
            last = self._stops_early or runner.iter >= runner.max_iters
            self._start("val" if last and self.training else None)
        else:
            self._start("val" if self.testing else None)

    def _start(self, mode: str | None) -> None:
        self._drop()
        self._mode = mode

    def _drop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._reset()

    def after_test_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take the images of a batch."""
        self._guarded(runner, lambda: self._take(runner, outputs))

    def after_val_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take the images of a batch."""
        self._guarded(runner, lambda: self._take(runner, outputs))

    def _guarded(self, runner: RunnerProtocol, action: Callable[[], None]) -> None:
        """Do a part of the work; after a failure there is no report, and a run goes on."""
        if self._mode is None or not self._usable:
            return
        try:
            action()
        except Exception as error:
            self._usable = False
            runner.logger.warning(f"the report cannot be written: {error!r}")

    def _take(self, runner: RunnerProtocol, outputs: Sequence[Any] | None) -> None:
        classes = self._meta(runner).get("classes")
        for sample in outputs or ():
            if classes is None or "gt_sem_seg" not in sample:
                self._usable = False  # without labels there is nothing to report
                return
            label = sample.gt_sem_seg.data[0].cpu().numpy()
            pred = sample.pred_sem_seg.data[0].cpu().numpy()
            if label.shape != pred.shape:
                continue
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "report")
            detailed = self._has_time()
            confidence = self._confidence(sample, len(classes)) if detailed else None
            image = str(sample.get("img_path", "?"))
            job = (image, label, pred, len(classes), self._ignored(runner), confidence, detailed)
            self._jobs.append(self._pool.submit(self._gather, *job))

    def _has_time(self) -> bool:
        """Return whether the thread may count more than pairs of classes of the next image."""
        if not self._jobs:
            return True
        if sum(not job.done() for job in self._jobs[-_WAITING:]) >= _WAITING:
            return False
        if torch.cuda.is_available() and (os.cpu_count() or 1) > 1:
            return True
        return self._details_s <= _SHARE * (time.perf_counter() - self._begin)

    def _ignored(self, runner: RunnerProtocol) -> int:
        """Return the label value that the metric leaves out."""
        metrics = getattr(runner, f"{self._mode}_evaluator").metrics
        values = [metric.ignore_index for metric in metrics if isinstance(metric, IoUMetric)]
        return values[0] if values else IGNORE_INDEX

    def _gather(
        self, image: str, label: Any, pred: Any, num_classes: int, ignored: int, confidence: Any,
        detailed: bool,
    ) -> ImageFacts:  # fmt: skip
        begin = time.thread_time()
        facts = gather(image, label, pred, num_classes, ignored, confidence, detailed=detailed)
        self._examples.offer(facts, label, pred, confidence)
        if detailed:
            self._details_s += time.thread_time() - begin
        return facts

    def _confidence(self, sample: Any, num_classes: int) -> NDArray[np.float32] | None:
        """Return the largest probability of each pixel, while that is cheap enough."""
        if self._confidence_s > _SHARE * (time.perf_counter() - self._begin):
            return None
        if num_classes * sample.pred_sem_seg.data.numel() > _MOST_LOGITS:
            return None
        begin, was_held = time.perf_counter(), "seg_logits" in sample
        logits = getattr(sample, "seg_logits", None)
        if logits is None:
            return None
        found = confidence_of(logits.data)
        if not was_held:
            del sample.seg_logits
        self._confidence_s += time.perf_counter() - begin
        return found

    def _meta(self, runner: RunnerProtocol) -> dict[str, Any]:
        loader = getattr(runner, f"{self._mode}_dataloader")
        return dict(getattr(loader.dataset, "metainfo", None) or {})

    def after_test_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the report of a test."""
        self._write(runner, Path(runner.log_dir))

    def after_val_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the report of a validation by itself; that of a training follows at its end."""
        self._evaluation_s = time.perf_counter() - self._begin
        if not self._in_training:
            self._write(runner, Path(runner.work_dir))

    def after_train(self, runner: RunnerProtocol) -> None:
        """Write the report of the last validation."""
        self._in_training = False
        if self._mode == "val":
            self._write(runner, Path(runner.work_dir))

    def after_val_interrupted(self, runner: RunnerProtocol) -> None:
        """Drop what was gathered of a validation that ends early."""
        self._drop()

    def _write(self, runner: RunnerProtocol, folder: Path) -> None:
        """Write facts and page; the same steps on all processes, whatever fails on one of them."""
        if self._mode is None:
            return
        evaluation_s = self._evaluation_s or time.perf_counter() - self._begin
        begin = time.perf_counter()
        facts: list[ImageFacts] = []
        self._guarded(runner, lambda: facts.extend(job.result() for job in self._jobs))
        if processes.world_size() > 1:
            self._guarded(runner, lambda: self._leave_for_main(folder, facts))
            processes.barrier()
        if processes.is_main():
            self._guarded(runner, lambda: facts.extend(self._gather_left(folder)))
            self._guarded(runner, lambda: self._write_page(runner, folder, facts))
            if self._usable and (folder / PAGE).is_file() and facts:
                cost = time.perf_counter() - begin + self._confidence_s
                runner.logger.info(
                    f"report: {folder / PAGE} ({cost:.1f} s beside an evaluation of "
                    f"{evaluation_s:.1f} s)"
                )
        self._drop()

    def _write_page(
        self, runner: RunnerProtocol, folder: Path, facts: Sequence[ImageFacts]
    ) -> None:
        from nlseg.report.page import environment, write_report

        if not facts:
            return
        meta = self._meta(runner)
        plain = {
            "classes": list(meta["classes"]),
            "palette": [list(map(int, c)) for c in meta.get("palette") or []] or None,
            "config": Path(runner.cfg.filename or "config").name,
            "command": this_command(runner),
            "config_text": hide_secrets(as_python(runner.cfg)) if len(runner.cfg) else "",
            "environment": environment(),
        }
        write_facts(folder / FACTS, facts, plain)
        self._examples.save(folder / EXAMPLES)
        write_report(
            folder / PAGE, facts, plain, examples=self._examples.chosen(),
            run_folder=Path(runner.work_dir),
        )  # fmt: skip

    def _leave_for_main(self, folder: Path, facts: Sequence[ImageFacts]) -> None:
        """Write what another process than the first has to where the first one finds it."""
        if facts and not processes.is_main():
            write_facts(folder / f".{FACTS}.{processes.rank()}", facts, {})
            self._examples.save(folder / f".{EXAMPLES}.{processes.rank()}")

    def _gather_left(self, folder: Path) -> list[ImageFacts]:
        """Read what the other processes have left, and remove it."""
        files = sorted(folder.glob(f".{FACTS}.*"))
        examples = sorted(folder.glob(f".{EXAMPLES}.*"))
        try:
            for one in (one for file in examples for one in Examples.read(file)):
                self._examples.add(one)
            return [one for file in files for one in read_facts(file)[1]]
        finally:
            for file in files + examples:
                file.unlink()


def confidence_of(logits: torch.Tensor) -> NDArray[np.float32]:
    """Return the largest probability of each pixel (H, W).

    Args:
        logits: Logits (K, H, W); with one channel (1, H, W) the probability of the second class.
    """
    with torch.inference_mode():
        if logits.shape[0] == 1:
            found = torch.maximum(logits[0], 1 - logits[0]).float()
        else:
            rows = (part.float() for part in torch.split(logits, _ROWS, 1))
            found = torch.cat([torch.exp(part.amax(0) - part.logsumexp(0)) for part in rows])
        confidence: NDArray[np.float32] = found.cpu().numpy()
    return confidence
