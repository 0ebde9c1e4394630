"""What all training loops share: one iteration, and what lies between two of them.

An iteration is: the next batch of the stream, a seed for what the network draws, mmengine's hooks
around ``train_step``, and the decisions that all processes take together. Between two iterations
the state is complete: there a run may be saved, stopped, and gone on with.
"""

import bisect
from typing import Any

from mmengine.runner import BaseLoop
from mmengine.runner.utils import calc_dynamic_intervals
from torch import nn
from torch.utils.data import DataLoader

from nlseg.errors import ConfigError
from nlseg.run import distributed
from nlseg.run.finite import RollBack
from nlseg.run.loaders import BatchStream, batch_size_of
from nlseg.run.randomness import seed_iteration

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
        return batch_size_of(self.dataloader) * distributed.world_size()

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
