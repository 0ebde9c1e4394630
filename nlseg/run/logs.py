"""The numbers of a run: windows of values, curves over restarts, back ends that may fail."""

import importlib.util
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from numpy.typing import NDArray
from torch import Tensor

_METHODS = ("add_config", "add_graph", "add_image", "add_scalar", "add_scalars", "close")
_PATIENCE = 3


def forgive_back_ends(visualizer: Any, warn: Callable[[str], None]) -> None:
    """Let errors of a visualizer's back ends become one warning each.

    A back end that fails several times in a row is not called again, as each time may take long.

    Args:
        visualizer: mmengine's, or one like it.
        warn: Called with one line when a back end fails for the first time.
    """
    for name, back_end in visualizer._vis_backends.items():
        guard = _Guard(name, warn)
        for method in _METHODS:
            setattr(back_end, method, guard.around(getattr(back_end, method)))


class _Guard:
    def __init__(self, name: str, warn: Callable[[str], None]) -> None:
        self.name, self.warn = name, warn
        self.warned = False
        self.failures = 0

    def around(self, method: Callable[..., Any]) -> Callable[..., None]:
        @wraps(method)
        def call(*arguments: Any, **options: Any) -> None:
            if self.failures == _PATIENCE:
                return
            try:
                method(*arguments, **options)
                self.failures = 0
            except Exception as error:
                self.failures += 1
                self.tell(error)

        return call

    def tell(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            self.warn(
                f"{self.name} fails ({error!r}); the run goes on, and without it after "
                f"{_PATIENCE} failures in a row"
            )


_WINDOW = 1000


class WindowBuffer(HistoryBuffer):
    """The last values of one scalar.

    Args:
        log_history: First values, floats or tensors with one element.
        count_history: How many items each stands for.
        max_length: How many are kept.
    """

    def __init__(
        self, log_history: Any = (), count_history: Any = (), max_length: int = _WINDOW
    ) -> None:
        self._values: deque[float | Tensor] = deque(log_history, max_length)
        self._counts: deque[int] = deque(count_history, max_length)
        self._fresh = len(self._values)
        self.max_length = max_length
        self._set_default_statistics()

    @property
    def _log_history(self) -> NDArray[np.float64]:
        """The values as numbers; fetches those that are still on the device, all at once."""
        if self._fresh:
            recent = [self._values.pop() for _ in range(min(self._fresh, len(self._values)))][::-1]
            self._values.extend(_to_numbers(recent))
            self._fresh = 0
        return np.array(self._values, dtype=np.float64)

    @property
    def _count_history(self) -> NDArray[np.int64]:
        return np.array(self._counts, dtype=np.int64)

    def update(self, log_val: float | Tensor, count: int = 1) -> None:
        """Add a value without looking at it."""
        self._values.append(log_val)
        self._counts.append(count)
        self._fresh += 1

    def last(self, number: int) -> list[float]:
        """Return the last few values."""
        return [float(value) for value in self._log_history[-number:]]

    def current(self) -> Any:
        """Return the last value."""
        if not self._values:
            raise ValueError("no value has been logged yet")
        last = self._values[-1]
        return last.item() if isinstance(last, Tensor) else last


def _to_numbers(values: list[float | Tensor]) -> list[float]:
    tensors = [value.reshape(()).double() for value in values if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(numbers) if isinstance(value, Tensor) else float(value) for value in values]


class WindowedMessageHub(MessageHub):
    """A message hub that keeps windows of scalars and never waits for the device."""

    def update_scalar(self, key: str, value: Any, count: int = 1, resumed: bool = True) -> None:
        """Add a value of a scalar; a tensor is kept as it is."""
        self._set_resumed_keys(key, resumed)
        if isinstance(value, Tensor):
            value = value.detach()
        elif not isinstance(value, (int, float)):
            value = float(value)
        if key not in self._log_scalars:
            self._log_scalars[key] = WindowBuffer()
        self._log_scalars[key].update(value, count)


def recent_values(hub: MessageHub, number: int) -> dict[str, list[float]]:
    """Return the last few values of each training scalar, so that means go on after a resume."""
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


def make_message_hub(name: str) -> MessageHub:
    """Make the hub that ``MessageHub.get_current_instance`` returns from now on."""
    hub = WindowedMessageHub(name)
    MessageHub._instance_dict[name] = hub  # the class that everybody asks keeps its own table
    return hub


FILE = "scalars.jsonl"
_EVENT = "resumed at"


class ScalarLog:
    """Appends scalars to ``scalars.jsonl`` and, where it is installed, to TensorBoard.

    Args:
        folder: The run folder.
        warn: Called once with what is wrong when a file cannot be written.
        tensorboard: Whether to write TensorBoard's files, too.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], tensorboard: bool = True) -> None:
        self.path = folder / FILE
        self.folder, self.warn = folder, warn
        self.tensorboard = tensorboard and importlib.util.find_spec("tensorboard") is not None
        self._writer: Any = None
        self._step = 0
        self._warned: set[str] = set()

    def resume(self, step: int) -> None:
        """Note that training goes on after this step; what lies beyond is dropped by readers."""
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
        numbers = {key: _number(value) for key, value in values.items()}
        numbers = {key: value for key, value in numbers.items() if value is not None}
        self._append({"kind": kind, "step": step, **numbers})
        if self.tensorboard:
            self._guard("TensorBoard", lambda: self._to_tensorboard(kind, step, numbers))

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._guard(str(self.path), lambda: _append_line(self.path, json.dumps(entry)))

    def _to_tensorboard(self, kind: str, step: int, numbers: Mapping[str, Any]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = str(self.folder / "tensorboard")
            self._writer = SummaryWriter(folder, purge_step=self._step + 1)
        for name, value in numbers.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def _guard(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if what not in self._warned:
                self._warned.add(what)
                self.warn(f"{what} cannot be written ({error}); training goes on without")

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._writer is not None:
            self._guard("TensorBoard", self._writer.close)


def _append_line(path: Path, line: str) -> None:
    with open(path, "a+b") as file:
        if file.tell():  # a line that a kill cut short must not swallow this one
            file.seek(-1, 2)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode() + b"\n")


def _number(value: Any) -> float | int | str | None:
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
