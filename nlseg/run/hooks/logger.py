"""Log lines, and the run's curves."""

import resource
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import LoggerHook as MMLoggerHook

from nlseg.registry import HOOKS
from nlseg.run import distributed
from nlseg.run.logs.scalars import ScalarLog


@HOOKS.register_module()
class LoggerHook(MMLoggerHook):
    """Write a log line and the scalars every few iterations; never ends training.

    Lines are mmengine's. Scalars go to ``scalars.jsonl`` of the run folder (see ``scalars``), to
    TensorBoard where it is installed, and to the visualizer's back ends.

    Args:
        interval: Iterations between two lines.
        ignore_last: Whether the last iterations of an epoch, fewer than an interval, get no line.
        interval_exp_name: Kept for mmengine's configs; the name is in the log's head.
        log_metric_by_epoch: Whether the back ends get validation scores by epoch.
        tensorboard: Whether to write TensorBoard's files where it is installed.
    """

    def __init__(
        self,
        interval: int = 10,
        ignore_last: bool = True,
        interval_exp_name: int = 1000,
        log_metric_by_epoch: bool = True,
        *,
        tensorboard: bool = True,
    ) -> None:
        super().__init__(
            interval=interval,
            ignore_last=ignore_last,
            interval_exp_name=interval_exp_name,
            log_metric_by_epoch=log_metric_by_epoch,
        )
        self.tensorboard = tensorboard
        self.curves: ScalarLog | None = None
        self._warned = False

    def before_train(self, runner: Any) -> None:
        """Go on with the curves where the run was left."""
        if distributed.is_main():
            folder = Path(runner.work_dir)
            self.curves = ScalarLog(folder, runner.logger.warning, self.tensorboard)
            self.curves.resume(runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write a line where one is due."""
        last = runner.iter + 1 == runner.max_iters
        end = self.end_of_epoch(runner.train_dataloader, batch_idx) and not self.ignore_last
        if self.every_n_inner_iters(batch_idx, self.interval) or last or end:
            if not torch.cuda.is_available():
                runner.message_hub.update_scalar("train/memory", peak_memory_mib())
            tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
            runner.logger.info(line)
            self._write(runner, "train", runner.iter + 1, tag)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the scores of a validation."""
        size = len(runner.val_dataloader)
        tag, line = runner.log_processor.get_log_after_epoch(runner, size, "val")
        runner.logger.info(line)
        training = hasattr(runner.train_loop, "iter")
        step = runner.epoch if self.log_metric_by_epoch else runner.iter
        self._write(runner, "val", runner.iter if training else 0, tag, step if training else 0)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the scores of a test."""
        self._guard(runner, lambda: super(LoggerHook, self).after_test_epoch(runner, metrics))

    def _write(
        self, runner: Any, kind: str, step: int, tag: dict[str, Any], shown: int | None = None
    ) -> None:
        if self.curves is not None:
            self.curves.write(kind, step, {**tag, "step": step})
        position = step if shown is None else shown
        path = self.json_log_path
        self._guard(runner, lambda: runner.visualizer.add_scalars(tag, position, path))

    def _guard(self, runner: Any, action: Any) -> None:
        try:
            action()
        except Exception as error:
            if not self._warned:
                runner.logger.warning(
                    f"a log cannot be written ({error!r}); training goes on without"
                )
            self._warned = True

    def after_run(self, runner: Any) -> None:
        """Close the files."""
        if self.curves is not None:
            self.curves.close()
        self._guard(runner, runner.visualizer.close)


def peak_memory_mib() -> int:
    """Return the most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
