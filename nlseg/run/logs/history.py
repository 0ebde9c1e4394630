"""The message hub without a past: windows of the last values, read from the device only for logs.

mmengine's buffers copy their whole past with every value and wait for the device for each. Here a
value stays a tensor until a log line asks for it, and old ones fall out.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from numpy.typing import NDArray
from torch import Tensor

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
