"""The numbers of a run: windows of values, curves that survive restarts, back ends that may fail.

A run writes two files of scalars: ``scalars.jsonl`` in the run folder, one append-only file that is
continuous over restarts, and ``vis_data/scalars.json`` of each start, which OpenMMLab's tools read.
"""

import contextlib
import importlib.util
import json
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from numpy.typing import NDArray
from torch import Tensor

from nlseg.config.text import hide_secrets
from nlseg.datasets.transforms.compose import describe_pipelines
from nlseg.errors import RunError
from nlseg.files import reading_again
from nlseg.run import processes

SCALARS_FILE = "scalars.jsonl"
_EVENT = "resumed at"
_WINDOW = 1000
FILE_ONLY = {"shown": "in the file"}
"""``extra`` of a log line that is for the log file alone, such as the resolved config."""
UNLESS_BAR = {"shown": "where there is no bar"}
"""``extra`` of a log line whose numbers a progress bar shows."""


def for_console(record: logging.LogRecord) -> bool:
    """Return whether a log line goes to the terminal; a filter of its handler."""
    return getattr(record, "shown", "") != FILE_ONLY["shown"]


def beside_bar(record: logging.LogRecord) -> bool:
    """Return whether a log line goes to a terminal that shows a bar; a filter of its handler."""
    return getattr(record, "shown", "") not in (FILE_ONLY["shown"], UNLESS_BAR["shown"])


@contextlib.contextmanager
def telling_why(logger: logging.Logger, where: Callable[[], str]) -> Iterator[None]:
    """Log in one sentence why a run ends, and name a process that does not answer any more.

    The sentence goes to the log file alone, as the command ends with it on the terminal.

    Args:
        logger: That of the run.
        where: Returns what this process was doing.

    Raises:
        LostProcessError: In place of the error of a collective that lost another process.
    """
    try:
        yield
    except RunError as error:
        logger.error(f"ends: {error}", extra=FILE_ONLY)
        raise
    except RuntimeError as error:
        if told := processes.lost(error, where()):
            logger.error(f"ends: {told}", extra=FILE_ONLY)
            logger.error(str(error))  # in the words of gloo or NCCL
            raise told from error
        raise


class LogGuard:
    """Runs what writes logs; a failure costs one warning and never ends a run.

    Args:
        name: What is written, for the warning.
        warn: Called with one line at the first failure.
        patience: Failures in a row after which no further attempt is made, as each may take long;
            None tries for ever.
    """

    def __init__(self, name: str, warn: Callable[[str], None], patience: int | None = None) -> None:
        self.name, self.warn, self.patience = name, warn, patience
        self.failures = 0
        self.warned = False

    def run(self, action: Callable[[], Any]) -> None:
        """Run an action; an exception becomes a warning."""
        if self.failures == self.patience:
            return
        try:
            action()
            self.failures = 0
        except Exception as error:
            self.failures += 1
            if not self.warned:
                self.warned = True
                self.warn(f"{self.name} fails ({error!r}); training goes on without it")


def guard_handlers(logger: logging.Logger) -> None:
    """Let a log that cannot be written cost one line each, and never a traceback for each line."""
    for handler in logger.handlers:
        handler.handleError = _OneLine(handler)  # type: ignore[method-assign]


class _OneLine:
    """Tells once, where it can, that a handler of a log fails."""

    def __init__(self, handler: logging.Handler) -> None:
        self.name = getattr(handler, "baseFilename", "the log on the terminal")
        self.told = False

    def __call__(self, record: logging.LogRecord) -> None:
        if not self.told:
            self.told = True
            with contextlib.suppress(Exception):  # stderr may be what fails
                sys.stderr.write(f"{self.name}: cannot be written ({sys.exc_info()[1]})\n")


def open_again(logger: logging.Logger) -> None:
    """Open a log's files anew, and make their folders, where somebody has taken them away."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler) and not Path(handler.baseFilename).exists():
            with contextlib.suppress(OSError):
                Path(handler.baseFilename).parent.mkdir(parents=True, exist_ok=True)
                handler.close()
                handler.stream = None  # type: ignore[assignment]  # opened with the next line


class WindowBuffer(HistoryBuffer):
    """The last values of one scalar, which stay on the device until somebody asks for them.

    mmengine's buffer copies its whole past with every value, and waits for the device for each.

    Args:
        max_length: How many values are kept.
    """

    def __init__(self, max_length: int = _WINDOW) -> None:
        super().__init__(max_length=max_length)
        self._values: deque[float | Tensor] = deque(maxlen=max_length)
        self._counts: deque[int] = deque(maxlen=max_length)
        self._num_fresh = 0

    def update(self, log_val: float | Tensor, count: int = 1) -> None:
        """Add a value without looking at it."""
        self._values.append(log_val)
        self._counts.append(count)
        self._num_fresh += 1

    @property
    def is_read(self) -> bool:
        """Whether all values are on the host, so that nothing waits for them."""
        return bool(self._values) and not self._num_fresh

    @property
    def data(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Values and counts as numbers; what is still on the device is read all at once."""
        if self._num_fresh:
            recent = [self._values.pop() for _ in range(min(self._num_fresh, len(self._values)))]
            self._values.extend(_to_numbers(recent[::-1]))
            self._num_fresh = 0
        return np.array(self._values, dtype=np.float64), np.array(self._counts, dtype=np.int64)

    def last(self, number: int) -> list[float]:
        """Return the last few values."""
        return [float(value) for value in self.data[0][-number:]]

    def current(self) -> Any:
        """Return the last value."""
        if not self._values:
            raise ValueError("no value has been logged yet")
        last = self._values[-1]
        return last.item() if isinstance(last, Tensor) else last

    def statistics(self, method_name: str, *arg: Any, **kwargs: Any) -> Any:
        """Compute a statistic, one of mmengine's or a registered one, by its name."""
        return HistoryBuffer(*self.data, self.max_length).statistics(method_name, *arg, **kwargs)

    def mean(self, window_size: int | None = None) -> Any:
        """Return the mean of the last ``window_size`` values, of all when not given."""
        return self.statistics("mean", window_size)

    def max(self, window_size: int | None = None) -> Any:
        """Return the largest of the last ``window_size`` values, of all when not given."""
        return self.statistics("max", window_size)

    def min(self, window_size: int | None = None) -> Any:
        """Return the smallest of the last ``window_size`` values, of all when not given."""
        return self.statistics("min", window_size)


def _to_numbers(values: list[float | Tensor]) -> list[float]:
    tensors = [value.reshape(()).double() for value in values if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(numbers) if isinstance(value, Tensor) else float(value) for value in values]


class WindowedMessageHub(MessageHub):
    """A message hub that keeps windows of scalars and never waits for the device."""

    def update_scalar(self, key: str, value: Any, count: int = 1, resumed: bool = True) -> None:
        """Add a value of a scalar; a tensor is kept as it is."""
        if isinstance(value, Tensor):
            value = value.detach()
        elif not isinstance(value, (int, float)):
            value = float(value)
        if key not in self.log_scalars:
            self.log_scalars[key] = WindowBuffer()
        self.log_scalars[key].update(value, count)


def make_message_hub(name: str) -> MessageHub:
    """Make the hub that ``MessageHub.get_current_instance`` returns from now on."""
    hub = MessageHub.get_instance(name)
    # Only hubs that mmengine's own class has made are known to everybody who asks for the current
    # one; the class adds no field, so that an instance may change to it.
    hub.__class__ = WindowedMessageHub
    return hub


def recent_values(hub: MessageHub, number: int) -> dict[str, list[float]]:
    """Return the last few values of each training scalar, so that means continue after a resume."""
    return {
        key: buffer.last(number)
        for key, buffer in hub.log_scalars.items()
        if key.startswith("train/") and isinstance(buffer, WindowBuffer)
    }


def restore_values(hub: MessageHub, values: Mapping[str, Sequence[float]]) -> None:
    """Put back what ``recent_values`` returned."""
    for key, items in values.items():
        hub.log_scalars.pop(key, None)
        for item in items:
            hub.update_scalar(key, float(item))


class ScalarLog:
    """Appends scalars to ``scalars.jsonl`` and, where it is installed, to TensorBoard.

    A restart adds a line that says from which step it continues; readers drop what was written for
    later steps before it.

    Args:
        folder: The run folder.
        warn: Called once with what is wrong when a file cannot be written.
        tensorboard: Whether to write TensorBoard's files, too.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], tensorboard: bool = True) -> None:
        self.folder, self.path = folder, folder / SCALARS_FILE
        self.tensorboard = tensorboard and importlib.util.find_spec("tensorboard") is not None
        self._guard = LogGuard(str(self.path), warn)
        self._tensorboard_guard = LogGuard("TensorBoard", warn)
        self._writer: Any = None
        self._end: Any = None
        self._step = 0

    def resume(self, step: int) -> None:
        """Note that training continues after this step; what lies beyond is dropped by readers."""
        self._step = step
        if self.path.is_file():
            self._append({_EVENT: step, "time_of_day": time.strftime("%Y-%m-%d %H:%M:%S")})

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add the scalars of a step.

        Args:
            kind: 'train', 'val' or 'test'.
            step: Iterations trained.
            values: Numbers by name; what is not a number is left out.
        """
        numbers = {key: as_number(value) for key, value in values.items()}
        numbers = {key: value for key, value in numbers.items() if value is not None}
        self._append({"kind": kind, "step": step, **numbers})
        if self.tensorboard:
            self._tensorboard_guard.run(lambda: self._to_tensorboard(kind, step, numbers))

    def describe(self, settings: Mapping[str, Any], text: str) -> None:
        """Give TensorBoard the hyper-parameters and the config of the run.

        Args:
            settings: Numbers, words and flags by name.
            text: The resolved config.
        """
        if self.tensorboard:
            self._tensorboard_guard.run(lambda: self._describe(settings, text))

    def add_image(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Give TensorBoard an RGB picture (H, W, 3)."""
        if self.tensorboard:
            self._tensorboard_guard.run(
                lambda: self._open().add_image(name, picture, step, dataformats="HWC")
            )

    def note(self, kind: str, step: int, sentences: Sequence[str]) -> None:
        """Add sentences about a step; a resume drops those of later steps like its scalars.

        Args:
            kind: What kind of line this is, other than those of ``write``.
            step: Iterations trained.
            sentences: What there is to say.
        """
        self._append({"kind": kind, "step": step, kind: list(sentences)})

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry)
        self._guard.run(lambda: reading_again(lambda: _append_line(self.path, line)))

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = str(self.folder / "tensorboard")
            self._writer = SummaryWriter(folder, purge_step=self._step + 1)
        return self._writer

    def _to_tensorboard(self, kind: str, step: int, numbers: Mapping[str, Any]) -> None:
        writer = self._open()
        for name, value in numbers.items():
            writer.add_scalar(f"{kind}/{name}", value, step)

    def _describe(self, settings: Mapping[str, Any], text: str) -> None:
        from torch.utils.tensorboard.summary import hparams

        writer = self._open()
        writer.add_text("config", f"    {text}".replace("\n", "\n    "), self._step)
        # SummaryWriter.add_hparams would write them into a folder of their own, without the curves
        found = hparams(dict(settings), {"val/mIoU": 0.0})  # type: ignore[no-untyped-call]
        experiment, begin, self._end = found
        writer.file_writer.add_summary(experiment)
        writer.file_writer.add_summary(begin)

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._writer is not None:
            self._tensorboard_guard.run(self._close)

    def _close(self) -> None:
        if self._end is not None:
            self._writer.file_writer.add_summary(self._end)
        self._writer.close()


def _append_line(path: Path, line: str) -> None:
    with open(path, "a+b") as file:
        if file.tell():  # a line that a kill cut short must not swallow this one
            file.seek(-1, 2)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode() + b"\n")


def as_number(value: Any) -> float | int | None:
    """Return a value where it is one finite number, None for anything else."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.item() if np.prod(value.shape) == 1 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def read_scalars(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's curves as if it had never been interrupted, in order of steps.

    Args:
        path: ``scalars.jsonl`` of a run folder.
    """
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut short by a kill
        if _EVENT in entry:
            last = entry[_EVENT]
            kept = {key: value for key, value in kept.items() if key[1] <= last}
        elif "step" in entry:
            kept[entry.get("kind", "train"), entry["step"]] = entry
    return [kept[key] for key in sorted(kept, key=lambda key: (key[1], key[0] != "train"))]


def tell_pipelines(logger: logging.Logger, **loops: Any) -> None:
    """Log once what happens to the samples of each loop's data, see ``describe_pipelines``.

    Args:
        logger: The run's.
        loops: Loops by their name in the log; one of a user's own may have no loader.
    """
    loaders = {name: getattr(loop, "dataloader", None) for name, loop in loops.items()}
    datasets = {name: getattr(loader, "dataset", None) for name, loader in loaders.items()}
    text = describe_pipelines({name: data for name, data in datasets.items() if data is not None})
    if text:
        logger.info("Data:\n" + hide_secrets(text), extra=FILE_ONLY)
