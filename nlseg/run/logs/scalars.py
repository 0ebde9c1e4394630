"""The curves of a run: one append-only file of JSON lines, continuous over restarts.

A restart adds a line saying from which step it goes on; whoever reads drops what was written for
later steps before it. Writing never ends training: a full disk costs a warning.
"""

import importlib.util
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

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
