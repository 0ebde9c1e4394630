"""What happens when a loss or gradient is not finite: a report, and stop, skip or roll back."""

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nlseg.errors import ConfigError, RunError
from nlseg.run.state import RunState

_WORST = 10

Policy = Literal["stop", "skip", "rollback"]


class NonFiniteError(RunError, ArithmeticError):
    """Training met NaN or infinity and the policy is to stop."""


class RollBack(Exception):  # noqa: N818 - a request, not an error
    """Ask the loop to go back to the newest checkpoint and on with other samples.

    Args:
        iteration: The iteration that met the number, from 0.
    """

    def __init__(self, iteration: int) -> None:
        super().__init__(iteration)
        self.iteration = iteration


@dataclass
class _Trace:
    """What a report on one iteration would say, and the statistics from before it."""

    iteration: int
    images: list[str]
    losses: Mapping[str, Any]
    norms: Tensor | None
    buffers: list[Tensor]


class FiniteGuard:
    """Remembers the last iterations until it is known that their numbers were finite.

    When one was not, the optimizer wrapper has already left the step out on every process. Here
    the running statistics of the normalization are put back, a report is written, and the policy
    is followed.

    Args:
        model: The network.
        state: The run's counters; ``skipped`` is counted here.
        policy: 'stop' ends the run; 'skip' leaves the iteration out; 'rollback' goes back to the
            newest checkpoint and trains on with the samples that follow.
        limit: How many iterations may be skipped, or times rolled back, before the run ends.
        folder: Where reports go.
        rank: This process's number, part of the report's name.
        lag: Iterations after which verdicts are read.
    """

    def __init__(
        self,
        model: nn.Module,
        state: RunState,
        *,
        policy: Policy,
        limit: int,
        folder: Path,
        rank: int,
        lag: int,
    ) -> None:
        if policy not in get_args(Policy):
            names = ", ".join(get_args(Policy))
            raise ConfigError(f"non_finite.policy: '{policy}' is not one of {names}")
        self.model, self.state = model, state
        self.policy, self.limit = policy, limit
        self.folder, self.rank = folder, rank
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._places = [
            (module, name, buffer.is_floating_point())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if buffer.numel()
        ]
        self._places.sort(key=lambda place: not place[2])
        self._floats = sum(floating for _, _, floating in self._places)
        self._traces: deque[_Trace] = deque(maxlen=lag + 1)
        self._kept: deque[list[Tensor]] = deque(maxlen=lag + 1)
        self._before: list[Tensor] = []

    def statistics(self) -> list[Tensor]:
        """Return the buffers that a forward pass in training changes, floats first."""
        return [module._buffers[name] for module, name, _ in self._places]  # type: ignore[misc]

    def before_iteration(self) -> None:
        """Keep the running statistics, so that a bad iteration cannot leave its mark on them."""
        buffers = self.statistics()
        if not self._kept:
            self._kept.extend([b.clone() for b in buffers] for _ in range(self._kept.maxlen or 1))
        self._kept.rotate()
        self._before = self._kept[0]
        for part in (slice(self._floats), slice(self._floats, None)):
            if buffers[part]:
                torch._foreach_copy_(self._before[part], buffers[part])

    def after_iteration(
        self, iteration: int, batch: Any, losses: Mapping[str, Any], norms: Tensor | None
    ) -> None:
        """Remember what a report on this iteration would say."""
        detached = {k: v.detach() if isinstance(v, Tensor) else v for k, v in losses.items()}
        trace = _Trace(iteration, image_names(batch), detached, norms, self._before)
        self._traces.append(trace)

    def handle(self, iteration: int) -> str:
        """Deal with an iteration that all processes agree was not finite.

        Returns:
            What was done, for the log.

        Raises:
            NonFiniteError: The policy is to stop, or its limit is used up.
            RollBack: The policy is to roll back.
        """
        self.state.skipped += 1
        trace = next((t for t in self._traces if t.iteration == iteration), None)
        report = self._write_report(iteration, trace)
        if trace is not None and trace.buffers:
            for buffer, before in zip(self.statistics(), trace.buffers, strict=True):
                buffer.copy_(before)
        message = (
            f"iteration {iteration + 1}: a loss or gradient is not finite; the step was left out "
            f"on every process; see {report}"
        )
        if self.policy == "stop":
            raise NonFiniteError(message)
        if self.state.skipped > self.limit:
            raise NonFiniteError(f"{message} ({self.policy} limit {self.limit} is used up)")
        if self.policy == "rollback":
            raise RollBack(iteration)
        return f"{message} ({self.state.skipped} of {self.limit} that may be skipped)"

    def _write_report(self, iteration: int, trace: _Trace | None) -> Path:
        path = self.folder / f"non_finite_iter_{iteration + 1}_rank_{self.rank}.json"
        report: dict[str, Any] = {"iteration": iteration + 1, "rank": self.rank}
        report["time"] = time.strftime("%Y-%m-%d %H:%M:%S")
        if trace is not None:
            report["images"] = trace.images
            report["losses"] = {key: _readable(value) for key, value in trace.losses.items()}
            report["gradients"] = self._describe(trace.norms)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=1))
        except OSError:
            pass  # the report must not hide what it reports
        return path

    def _describe(self, norms: Tensor | None) -> dict[str, Any]:
        if norms is None:
            return {}
        values = norms.float().tolist()
        known = len(self.names) == len(values)
        names = self.names if known else [str(i) for i in range(len(values))]
        named = sorted(zip(names, values, strict=True), key=lambda item: -_size(item[1]))
        return {
            "norm": _readable(torch.linalg.vector_norm(norms.float())),
            "not finite": [name for name, value in named if not math.isfinite(value)],
            "largest": {name: _readable(value) for name, value in named[:_WORST]},
        }


def _size(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _readable(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.float().mean().item()
    return value if isinstance(value, (int, str)) or math.isfinite(value) else str(value)


def image_names(batch: Any) -> list[str]:
    """Return the image files of a batch, as far as its data samples know them."""
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else None
    return [str(getattr(sample, "img_path", "?")) for sample in samples or []]
