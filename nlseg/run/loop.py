"""The training loop: iterations, validations and stops, for a number of iterations or of epochs.

An iteration is: the next batch of the stream, a seed for what the network draws, the hooks around
the training step, and the decisions that all processes take together. Between two iterations the
state is complete: there a run may be saved, stopped, and resumed.
"""

import bisect
import time
from collections.abc import Mapping
from typing import Any

from mmengine.runner import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from nlseg.bounds import Count
from nlseg.errors import CheckpointError
from nlseg.registry import LOOPS
from nlseg.run import processes
from nlseg.run.device import seed_iteration
from nlseg.run.finite import RollBack
from nlseg.run.loaders import BatchStream, batch_size_of, iterations_per_epoch
from nlseg.run.protocol import RunnerProtocol, require_own_runner
from nlseg.run.step import training_step

Intervals = list[tuple[int, int]]


class TrainLoop(BaseLoop):
    """The one loop; its two children say how long to train and what is counted.

    Args:
        runner: The runner.
        dataloader: The training loader or its config.
        val_begin: First epoch or iteration after which to validate.
        val_interval: Epochs or iterations between validations.
        dynamic_intervals: Pairs (from when on, other interval).
    """

    by_epoch: bool
    max_iters: int
    max_epochs: int
    epoch_length: int

    def __init__(
        self,
        runner: RunnerProtocol,
        dataloader: DataLoader | dict,
        val_begin: int,
        val_interval: int,
        dynamic_intervals: Intervals | None,
    ) -> None:
        require_own_runner(runner)
        super().__init__(runner, runner.build_dataloader(dataloader, seed=runner.seed))
        self.state = runner.state
        self.state.batch_total = batch_size_of(self.dataloader) * processes.world_size()
        self.stop_training = False
        self.val_begin, self.val_interval = val_begin, val_interval
        self.intervals = [(0, val_interval), *sorted(dynamic_intervals or [])]
        self.dataloader_iterator = BatchStream(self.dataloader, 0, runner.logger.warning)
        runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, "metainfo", None)

    @property
    def iter(self) -> int:
        """Iterations trained."""
        return self.state.iteration

    @property
    def epoch(self) -> int:
        """Epochs trained; 0 where iterations are counted."""
        return self.state.epoch

    @property
    def progress(self) -> int:
        """What validations and the end of training count: epochs or iterations trained."""
        return self.epoch if self.by_epoch else self.iter

    @property
    def goal(self) -> int:
        """The ``progress`` at which training is done."""
        return self.max_epochs if self.by_epoch else self.max_iters

    def run(self) -> nn.Module:
        """Train to the end, going back to a checkpoint where the policy asks for it."""
        runner = self.runner
        runner.call_hook("before_train")
        self.dataloader_iterator.load_state_dict(self.state.stream())
        if self.validation_is_due() and self.state.validated != self.progress:
            self.validate()  # the checkpoint was written right before it
        while self.progress < self.goal and not self.stop_training:
            try:
                self.run_epoch()
            except RollBack as request:
                runner.control.roll_back(request)
                self.dataloader_iterator.load_state_dict(self.state.stream())
        runner.call_hook("after_train")
        model: nn.Module = runner.model
        return model

    def run_epoch(self) -> None:
        """Train what is left of an epoch; a run that counts iterations is one epoch."""
        runner, state = self.runner, self.state
        runner.call_hook("before_train_epoch")
        runner.model.train()
        first = state.iteration - state.epoch * self.epoch_length
        for batch_idx in range(first, self.epoch_length):
            self.run_iter(batch_idx)
            if not self.by_epoch:
                self.pause()
                if self.stop_training:
                    break
            elif batch_idx + 1 < self.epoch_length:
                runner.control.leave_if_asked()
        runner.call_hook("after_train_epoch")
        if self.by_epoch:
            state.epoch += 1
            self.pause()

    def run_iter(self, batch_idx: int) -> None:
        """Train on the next batch.

        Args:
            batch_idx: What hooks are told: its number in the epoch.
        """
        runner, control, state = self.runner, self.runner.control, self.state
        control.watch("iteration")
        batch = next(self.dataloader_iterator)
        seed_iteration(runner.seed, state.iteration + state.jumped, runner.rank)
        control.guard.before_iteration()
        runner.call_hook("before_train_iter", batch_idx=batch_idx, data_batch=batch)
        outputs = training_step(runner.model, batch, runner.optim_wrapper)
        control.settle(batch, outputs)
        runner.call_hook("after_train_iter", batch_idx=batch_idx, data_batch=batch, outputs=outputs)
        state.iteration += 1

    def pause(self) -> None:
        """Save and stop where that was asked for, else validate where that is due."""
        self.runner.control.leave_if_asked()
        if self.validation_is_due():
            self.validate()
            self.runner.model.train()

    def validate(self) -> None:
        """Validate, and note that these weights have been."""
        begin = time.monotonic()
        self.runner.val_loop.run()
        self.runner.control.requests.note_validation(time.monotonic() - begin)
        self.state.validated = self.progress

    def validation_is_due(self) -> bool:
        """Return whether a validation belongs after what has been trained so far."""
        done = self.progress
        if self.by_epoch and self.iter != self.epoch * self.epoch_length:
            return False
        place = bisect.bisect([begin for begin, _ in self.intervals], done + 1)
        self.val_interval = self.intervals[place - 1][1]
        on_time = done % self.val_interval == 0 or done == self.goal
        return self.runner.val_loop is not None and done >= max(self.val_begin, 1) and on_time

    def load_state_dict(self, meta: Mapping[str, Any], *, validated: bool = False) -> None:
        """Go to where a checkpoint was written.

        Args:
            meta: The ``meta`` of a checkpoint.
            validated: Whether these very weights have been validated.

        Raises:
            CheckpointError: The checkpoint has trained for longer than this loop is to.
        """
        self.state.load_state_dict(meta, epoch_length=self.epoch_length if self.by_epoch else None)
        self.state.validated = self.progress if validated else 0
        if self.progress > self.goal:
            raise CheckpointError(
                f"has trained for {self.progress}, more than the {self.goal} of train_cfg; raise "
                "max_iters (max_epochs), or test this checkpoint"
            )


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

    by_epoch = False

    def __init__(
        self,
        runner: RunnerProtocol,
        dataloader: DataLoader | dict,
        max_iters: Count,
        val_begin: int = 1,
        val_interval: Count = 1000,
        dynamic_intervals: Intervals | None = None,
    ) -> None:
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals)
        self.max_iters, self.max_epochs = max_iters, 1
        self.epoch_length = self.max_iters


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

    by_epoch = True

    def __init__(
        self,
        runner: RunnerProtocol,
        dataloader: DataLoader | dict,
        max_epochs: Count,
        val_begin: int = 1,
        val_interval: Count = 1,
        dynamic_intervals: Intervals | None = None,
    ) -> None:
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals)
        self.max_epochs = max_epochs
        self.epoch_length = iterations_per_epoch(self.dataloader)
        self.max_iters = self.max_epochs * self.epoch_length
