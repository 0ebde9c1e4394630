"""Training for a number of iterations, or of passes over the images."""

from typing import Any

from torch.utils.data import DataLoader

from nlseg.registry import LOOPS
from nlseg.run.loaders import iterations_per_epoch
from nlseg.run.train_loop import Intervals, TrainLoop, whole_number


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
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
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
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
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
