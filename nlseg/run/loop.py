"""The loops: training for iterations or epochs, validation, test."""

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.runner import BaseLoop
from mmengine.runner import TestLoop as MMTestLoop
from mmengine.runner import ValLoop as MMValLoop
from mmengine.runner.loops import _parse_losses
from mmengine.runner.utils import calc_dynamic_intervals
from torch import nn
from torch.utils.data import DataLoader

from nlseg.bounds import Count
from nlseg.errors import ConfigError
from nlseg.evaluation.iou import IoUMetric
from nlseg.evaluation.prediction_files import root_of_shared_names
from nlseg.models import fuse_conv_bn
from nlseg.registry import LOOPS
from nlseg.run import processes
from nlseg.run.device import HalfName, check_half, half_precision, seed_iteration
from nlseg.run.loaders import BatchStream, batch_size_of, iterations_per_epoch
from nlseg.run.step import RollBack


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


Intervals = list[tuple[int, int]]


class TrainLoop(BaseLoop):
    """What both training loops share: counters, the stream of batches, one iteration.

    Args:
        runner: The runner.
        dataloader: The training loader or its config.
        val_begin: First epoch or iteration after which to validate.
        val_interval: Epochs or iterations between validations.
        dynamic_intervals: Pairs (from when on, other interval).
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        val_begin: int,
        val_interval: int,
        dynamic_intervals: Intervals | None,
    ) -> None:
        super().__init__(runner, dataloader)
        self._epoch = self._iter = 0
        self._max_epochs = self._max_iters = 1
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        self.first_sample = 0
        self.jumped = 0
        self.validated = 0
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )
        runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, "metainfo", None)
        self.stream = self.open_stream()

    @property
    def max_epochs(self) -> int:
        """Epochs to train."""
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        """Iterations to train."""
        return self._max_iters

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return self._epoch

    @property
    def iter(self) -> int:
        """Iterations trained."""
        return self._iter

    @property
    def batch_total(self) -> int:
        """Samples of one iteration over all processes."""
        return batch_size_of(self.dataloader) * processes.world_size()

    def samples_after(self, iteration: int) -> int:
        """Return the number of the first sample that ``iteration`` iterations leave unseen."""
        return self.first_sample + (iteration + self.jumped) * self.batch_total

    def open_stream(self) -> BatchStream:
        """Begin reading batches at the present iteration."""
        return BatchStream(
            self.dataloader,
            self._iter + self.jumped,
            self.runner.logger.warning,
            self.first_sample,
        )

    def run(self) -> nn.Module:
        """Train to the end, going back to a checkpoint where the policy asks for it."""
        self.runner.call_hook("before_train")
        self.stream = self.open_stream()
        if self.validation_is_due() and self.validated != self.progress():
            self.runner.val_loop.run()
        while True:
            try:
                self.run_all()
                break
            except RollBack as request:
                self.runner.control.roll_back(request)
                self.stream = self.open_stream()
        self.runner.call_hook("after_train")
        model: nn.Module = self.runner.model
        return model

    def run_all(self) -> None:
        """Run all iterations that are left."""
        raise NotImplementedError

    def progress(self) -> int:
        """Return what validation and checkpoints count: epochs or iterations trained."""
        raise NotImplementedError

    def goal(self) -> int:
        """Return the ``progress`` at which training is done."""
        raise NotImplementedError

    def run_iter(self, batch_idx: int) -> None:
        """Train on the next batch.

        Args:
            batch_idx: What hooks are told: its number in the epoch.
        """
        runner = self.runner
        runner.control.watch("iteration")
        batch = next(self.stream)
        seed_iteration(runner.seed, self._iter + self.jumped, runner.rank)
        runner.control.guard.before_iteration()
        runner.call_hook("before_train_iter", batch_idx=batch_idx, data_batch=batch)
        outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        runner.control.settle(batch, outputs)
        runner.call_hook("after_train_iter", batch_idx=batch_idx, data_batch=batch, outputs=outputs)
        self._iter += 1

    def validation_is_due(self) -> bool:
        """Tell whether a validation belongs after what has been trained so far."""
        done = self.progress()
        step = bisect.bisect(self.dynamic_milestones, done + 1)
        self.val_interval = self.dynamic_intervals[step - 1]
        on_time = done % self.val_interval == 0 or done == self.goal()
        wanted = done >= max(self.val_begin, 1) and on_time
        return self.runner.val_loop is not None and wanted

    def validate_if_due(self) -> None:
        """Validate after what has been trained so far, where that is due."""
        if self.validation_is_due():
            self.runner.val_loop.run()
            self.runner.model.train()


def whole_number(name: str, value: float) -> int:
    """Return a length of training.

    Raises:
        ConfigError: It is no whole number above 0.
    """
    if value != int(value) or value < 1:
        raise ConfigError(f"train_cfg.{name}: {value} is not a whole number above 0")
    return int(value)


@LOOPS.register_module()
class IterBasedTrainLoop(TrainLoop):
    """Train for a number of iterations.

    Args:
        runner: The runner.
        dataloader: The training loader or its config.
        max_iters: Iterations to train.
        val_begin: First iteration after which to validate.
        val_interval: Iterations between validations.
        dynamic_intervals: Pairs (from which iteration on, other interval).
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_iters: Count,
        val_begin: int = 1,
        val_interval: Count = 1000,
        dynamic_intervals: Intervals | None = None,
    ) -> None:
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals)
        self._max_iters = whole_number("max_iters", max_iters)

    def progress(self) -> int:
        """Return the iterations trained."""
        return self._iter

    def goal(self) -> int:
        """Return the iterations to train."""
        return self._max_iters

    def run_all(self) -> None:
        """Run all iterations that are left."""
        runner = self.runner
        runner.call_hook("before_train_epoch")
        runner.model.train()
        while self._iter < self._max_iters and not self.stop_training:
            self.run_iter(self._iter)
            runner.control.leave_if_asked()
            self.validate_if_due()
        runner.call_hook("after_train_epoch")


@LOOPS.register_module()
class EpochBasedTrainLoop(TrainLoop):
    """Train for a number of passes over the images.

    Args:
        runner: The runner.
        dataloader: The training loader or its config.
        max_epochs: Passes to train.
        val_begin: First epoch after which to validate.
        val_interval: Epochs between validations.
        dynamic_intervals: Pairs (from which epoch on, other interval).
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_epochs: Count,
        val_begin: int = 1,
        val_interval: Count = 1,
        dynamic_intervals: Intervals | None = None,
    ) -> None:
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals)
        self._max_epochs = whole_number("max_epochs", max_epochs)
        self.epoch_length = iterations_per_epoch(self.dataloader)
        self._max_iters = self._max_epochs * self.epoch_length

    def progress(self) -> int:
        """Return the epochs trained."""
        return self._epoch

    def goal(self) -> int:
        """Return the epochs to train."""
        return self._max_epochs

    def validation_is_due(self) -> bool:
        """Tell whether a validation belongs here; never within an epoch."""
        return self._iter == self._epoch * self.epoch_length and super().validation_is_due()

    def run_all(self) -> None:
        """Run all epochs that are left, the first one from where it was left."""
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self.runner.control.leave_if_asked()
            self.validate_if_due()

    def run_epoch(self) -> None:
        """Run what is left of this epoch."""
        runner = self.runner
        runner.call_hook("before_train_epoch")
        runner.model.train()
        for batch_idx in range(self._iter - self._epoch * self.epoch_length, self.epoch_length):
            self.run_iter(batch_idx)
            if batch_idx + 1 < self.epoch_length:
                runner.control.leave_if_asked()
        runner.call_hook("after_train_epoch")
        self._epoch += 1


_CHECK_EVERY = 10


@LOOPS.register_module()
class ValLoop(MMValLoop):
    """Validate once over the images; a request to stop is heard between them.

    Args:
        runner: The runner.
        dataloader: The validation loader or its config.
        evaluator: The evaluator or its config.
        fp16: Predict under autocast.
        dtype: 'float16' or 'bfloat16' for it; PyTorch's choice for the device when not given.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        dtype: HalfName | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.dtype = check_half(dtype)

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Predict and score one batch."""
        with half_precision(self.fp16, self.dtype):
            super().run_iter(idx, data_batch)

    def run(self) -> dict[str, float]:
        """Predict all images and return the scores."""
        runner = self.runner
        runner.call_hook("before_val")
        runner.call_hook("before_val_epoch")
        processes.share_buffers(runner.model)
        runner.model.eval()
        self.val_loss.clear()
        common = len(self.dataloader.dataset) // runner.world_size // batch_size_of(self.dataloader)
        for idx, batch in enumerate(self.dataloader):
            runner.control.watch("validation")
            self.run_iter(idx, batch)
            alone = runner.world_size == 1
            if alone or (idx < common and (idx + 1) % _CHECK_EVERY == 0):
                runner.control.leave_validation_if_asked()
        metrics: dict[str, float] = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self.val_loss:
            metrics.update(_parse_losses(self.val_loss, "val"))
        runner.call_hook("after_val_epoch", metrics=metrics)
        runner.call_hook("after_val")
        return metrics


@LOOPS.register_module()
class TestLoop(MMTestLoop):
    """Test once over the images.

    Args:
        runner: The runner.
        dataloader: The test loader or its config.
        evaluator: The evaluator or its config.
        fp16: Predict under autocast.
        dtype: 'float16' or 'bfloat16' for it; PyTorch's choice for the device when not given.
        fold_norms: Fold batch norms into the convolutions in front of them before the test. The
            model cannot train afterwards.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | Sequence,
        fp16: bool = False,
        dtype: HalfName | None = None,
        fold_norms: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.dtype = check_half(dtype)
        self.fold_norms = fold_norms

    def run(self) -> dict[str, float]:
        """Predict all images and return the scores."""
        if self.fold_norms:
            fuse_conv_bn(self.runner.model)
        scores: dict[str, float] = super().run()
        return scores

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Predict and score one batch."""
        with half_precision(self.fp16, self.dtype):
            super().run_iter(idx, data_batch)
