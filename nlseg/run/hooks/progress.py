"""A bar with the remaining time, where somebody looks at a terminal."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mmengine.hooks import Hook
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nlseg.registry import HOOKS
from nlseg.run import distributed


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show bars for training, validation and test; log lines scroll above them.

    Elsewhere (a file, Slurm) there are the plain log lines only.

    Args:
        enabled: None shows bars where stderr is a terminal.
    """

    priority = "LOWEST"

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = enabled
        self._bars: dict[str, tqdm] = {}
        self._stack = ExitStack()

    def before_run(self, runner: Any) -> None:
        """Decide whether to show bars."""
        wanted = sys.stderr.isatty() if self.enabled is None else self.enabled
        self.enabled = wanted and distributed.is_main()

    def _open(self, runner: Any, name: str, total: int, done: int = 0) -> None:
        if self.enabled:
            if not self._bars:
                self._stack.enter_context(_lines_above_bar(runner.logger))
            self._bars[name] = tqdm(
                total=total, initial=done, desc=name, dynamic_ncols=True, leave=name == "train"
            )

    def _step(self, name: str) -> None:
        if name in self._bars:
            self._bars[name].update()

    def _close(self, name: str) -> None:
        if name in self._bars:
            self._bars.pop(name).close()
            if not self._bars:
                self._stack.close()

    def before_train(self, runner: Any) -> None:
        """Open the bar of the whole training."""
        self._open(runner, "train", runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Move on."""
        self._step("train")

    def after_train(self, runner: Any) -> None:
        """Close the bar."""
        self._close("train")

    def before_val_epoch(self, runner: Any) -> None:
        """Open a bar for one validation."""
        self._open(runner, "val", len(runner.val_dataloader))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Move on."""
        self._step("val")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Close the bar."""
        self._close("val")

    def before_test_epoch(self, runner: Any) -> None:
        """Open a bar for one test."""
        self._open(runner, "test", len(runner.test_dataloader))

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Move on."""
        self._step("test")

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Close the bar."""
        self._close("test")

    def after_run(self, runner: Any) -> None:
        """Close what is open when a run ends early."""
        for name in list(self._bars):
            self._close(name)


@contextmanager
def _lines_above_bar(logger: Any) -> Iterator[None]:
    with logging_redirect_tqdm(loggers=[logger]):
        yield
