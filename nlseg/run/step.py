"""One training step: optimizer wrappers, what all processes agree on, non-finite numbers."""

import json
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.optim import OptimWrapper as MMOptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from nlseg.bounds import Count
from nlseg.errors import ConfigError
from nlseg.registry import OPTIM_WRAPPERS
from nlseg.run import processes

NON_FINITE, STOP = 0, 1
_LAG_ON_CUDA = 2


@dataclass(frozen=True)
class Verdict:
    """What was agreed on in one iteration.

    Args:
        iteration: Which one, from 0.
        non_finite: A loss or gradient was not finite on some process.
        stop: Some process was asked to stop.
    """

    iteration: int
    non_finite: bool
    stop: bool


class Agreement:
    """Collects this process's flags, reduces them with all others', and reads what was agreed.

    Args:
        device: Where the vector lives.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lag = _LAG_ON_CUDA if device.type == "cuda" else 0
        self.stop_asked = False
        self.reduced: Tensor | None = None
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def ask_to_stop(self) -> None:
        """Ask all processes to stop; they agree on it in the next iteration."""
        self.stop_asked = True

    def reduce(self, non_finite: Tensor | None = None) -> Tensor:
        """Reduce the flags over all processes, at most once an iteration.

        Args:
            non_finite: Bool scalar on the device, whether this process saw a number that is not
                finite.

        Returns:
            The agreed vector (2,), float32 on the device: non-finite, stop.
        """
        if self.reduced is None:
            flags = torch.tensor([0.0, float(self.stop_asked)])
            if self.device.type == "cuda":
                flags = flags.pin_memory().to(self.device, non_blocking=True)
            if non_finite is not None:
                flags[NON_FINITE] = non_finite.to(flags.dtype)
            self.reduced = processes.max_over_ranks(flags)
        return self.reduced

    def close(self, iteration: int) -> list[Verdict]:
        """End an iteration and return what can be read by now.

        Args:
            iteration: Number of the iteration that ends, from 0.
        """
        vector = self.reduce()
        self.reduced = None
        if self.device.type == "cuda":
            host = torch.empty(2, pin_memory=True)
            host.copy_(vector, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._pending.append((iteration, host, event))
        else:
            self._pending.append((iteration, vector, None))
        return self._read(self.lag)

    def drain(self) -> list[Verdict]:
        """Wait for all that has not been read yet; before something is saved."""
        return self._read(0)

    def _read(self, leave: int) -> list[Verdict]:
        verdicts = []
        while len(self._pending) > leave:
            iteration, vector, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            non_finite, stop = vector.tolist()
            verdicts.append(Verdict(iteration, bool(non_finite), bool(stop)))
        return verdicts


POLICIES = ("stop", "skip", "rollback")
_WORST = 10


class NonFiniteError(ArithmeticError):
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
    iteration: int
    images: list[str]
    losses: Mapping[str, Any]
    norms: Tensor | None
    buffers: list[Tensor]


class FiniteGuard:
    """Remember the last iterations until it is known that their numbers were finite.

    Args:
        policy: 'stop' ends the run; 'skip' leaves the iteration out; 'rollback' goes back to the
            newest checkpoint and trains on with the samples that follow.
        limit: How many iterations may be skipped, or times rolled back, before the run ends.
        folder: Where reports go.
        rank: This process's number, part of the report's name.
    """

    def __init__(
        self, model: nn.Module, *, policy: str, limit: int, folder: Path, rank: int, lag: int
    ) -> None:
        if policy not in POLICIES:
            raise ConfigError(f"non_finite.policy: '{policy}' is not one of {', '.join(POLICIES)}")
        self.model = model
        self.policy, self.limit = policy, limit
        self.folder, self.rank = folder, rank
        self.happened = 0
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._traces: deque[_Trace] = deque(maxlen=lag + 1)
        self._kept: deque[list[Tensor]] = deque(maxlen=lag + 1)
        self._before: list[Tensor] = []

    def statistics(self) -> list[Tensor]:
        """Return the buffers that a forward pass in training changes, floats first."""
        buffers = [buffer for buffer in self.model.buffers() if buffer.numel()]
        return sorted(buffers, key=lambda buffer: not buffer.is_floating_point())

    def before_iteration(self) -> None:
        """Keep the running statistics, so that a bad iteration cannot leave its mark on them."""
        buffers = self.statistics()
        if not self._kept:
            self._kept.extend([b.clone() for b in buffers] for _ in range(self._kept.maxlen or 1))
        self._kept.rotate()
        self._before = self._kept[0]
        floats = sum(buffer.is_floating_point() for buffer in buffers)
        for part in (slice(floats), slice(floats, None)):
            if buffers[part]:
                torch._foreach_copy_(self._before[part], buffers[part])

    def after_iteration(
        self, iteration: int, batch: Any, losses: Mapping[str, Any], norms: Tensor | None
    ) -> None:
        """Remember what a report on this iteration would say."""
        detached = {k: v.detach() if isinstance(v, Tensor) else v for k, v in losses.items()}
        trace = _Trace(iteration, image_names(batch), detached, norms, self._before)
        self._traces.append(trace)

    def punish(self, iteration: int) -> str:
        """Deal with an iteration that all processes agree was not finite.

        Returns:
            What was done, for the log.

        Raises:
            NonFiniteError: The policy is to stop, or its limit is used up.
            RollBack: The policy is to roll back.
        """
        self.happened += 1
        trace = next((t for t in self._traces if t.iteration == iteration), None)
        report = self._write_report(iteration, trace)
        self._restore(trace)
        message = (
            f"iteration {iteration + 1}: a loss or gradient is not finite; the step was left out "
            f"on every process; see {report}"
        )
        if self.policy == "stop" or self.happened > self.limit:
            used = (
                "" if self.policy == "stop" else f" ({self.policy} limit {self.limit} is used up)"
            )
            raise NonFiniteError(message + used)
        if self.policy == "rollback":
            raise RollBack(iteration)
        return f"{message} ({self.happened} of {self.limit} that may be skipped)"

    def _restore(self, trace: _Trace | None) -> None:
        if trace is not None and trace.buffers:
            for buffer, before in zip(self.statistics(), trace.buffers, strict=True):
                buffer.copy_(before)

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
        names = (
            self.names if len(self.names) == len(values) else [str(i) for i in range(len(values))]
        )
        named = sorted(zip(names, values, strict=True), key=lambda item: -_rank(item[1]))
        return {
            "norm": _readable(torch.linalg.vector_norm(norms.float())),
            "not finite": [name for name, value in named if not math.isfinite(value)],
            "largest": {name: _readable(value) for name, value in named[:_WORST]},
        }


def _rank(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _readable(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.float().mean().item()
    return value if isinstance(value, (int, str)) or math.isfinite(value) else str(value)


def image_names(batch: Any) -> list[str]:
    """Return the image files of a batch, as far as its data samples know them."""
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else None
    return [str(getattr(sample, "img_path", "?")) for sample in samples or []]


_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_LOWEST_SCALE = 1.0


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(MMOptimWrapper):
    """Scale the loss for accumulation, clip, check that numbers are finite, step.

    Args:
        optimizer: The optimizer.
        accumulative_counts: Iterations whose gradients are added up before a step.
        clip_grad: Arguments of ``clip_grad_norm_``, or of ``clip_grad_value_`` with type 'value'.
    """

    def __init__(
        self, optimizer: Optimizer, accumulative_counts: Count = 1, clip_grad: dict | None = None
    ) -> None:
        super().__init__(optimizer, accumulative_counts, dict(clip_grad) if clip_grad else None)
        self.agreement: Agreement | None = None
        self.gradient_norms: Tensor | None = None

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: dict[str, Any] | None = None,
        zero_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Go backward from a loss () and, when an accumulation is full, take a step."""
        loss = self.scale_loss(loss)
        self.backward(loss)
        stepping = self.should_update()
        if self.agreement is not None:
            self.agreement.reduce(self.is_non_finite(loss, stepping))
        if stepping:
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def is_non_finite(self, loss: Tensor, stepping: bool) -> Tensor:
        """Tell, without waiting for the device, whether the loss or a gradient is not finite.

        Returns:
            Bool scalar on the loss's device.
        """
        bad: Tensor = ~torch.isfinite(loss.detach())
        if stepping:
            bad = bad.logical_or(~torch.isfinite(self._norm_of_gradients()))
        return bad

    def _norm_of_gradients(self) -> Tensor:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        norms = torch.stack(torch._foreach_norm(gradients))
        self.gradient_norms = norms
        norm: Tensor = torch.linalg.vector_norm(norms)
        return norm

    def parameters(self) -> Iterator[nn.Parameter]:
        """Walk over all parameters that the optimizer holds."""
        return (p for group in self.optimizer.param_groups for p in group["params"])

    def step(self, **kwargs: Any) -> None:
        """Clip and step, unless a process saw a number that is not finite."""
        agreed = self.agreement.reduced if self.agreement is not None else None
        if self.clip_grad_kwargs:
            self._clip_grad()
        if agreed is None:
            self.optimizer.step(**kwargs)
        elif self.is_fused():
            self._fused_step(agreed[NON_FINITE], **kwargs)
        elif not agreed[NON_FINITE].item():
            self.optimizer.step(**kwargs)

    def is_fused(self) -> bool:
        """Tell whether the optimizer can leave out a step on the device itself."""
        return all(group.get("fused") for group in self.optimizer.param_groups)

    def _fused_step(self, skip: Tensor, **kwargs: Any) -> None:
        self._prepare_momentum()
        optimizer: Any = self.optimizer
        optimizer.found_inf, optimizer.grad_scale = skip, None
        try:
            optimizer.step(**kwargs)
        finally:
            del optimizer.found_inf, optimizer.grad_scale

    def _prepare_momentum(self) -> None:
        """Start SGD's momentum at 0, as a first fused step that is left out would leave garbage."""
        if not isinstance(self.optimizer, torch.optim.SGD):
            return
        for group in self.optimizer.param_groups:
            if group["momentum"] and not group["dampening"]:
                for parameter in group["params"]:
                    state = self.optimizer.state[parameter]
                    if parameter.grad is not None and state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(parameter)

    def _clip_grad(self) -> None:
        parameters = [p for p in self.parameters() if p.requires_grad and p.grad is not None]
        if parameters:
            norm = self.clip_func(parameters, **self.clip_grad_kwargs)
            if norm is not None:
                self.message_hub.update_scalar(f"train/{self.grad_name}", norm.detach())


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """Train under autocast in float16 or bfloat16, on CUDA or CPU.

    Gradients are scaled for float16 only; bfloat16 has float32's range. A gradient that overflows
    under the scaler is no error: the scaler leaves the step out and lowers its scale. It counts as
    an error once the scale has fallen below 1, or when the loss itself is not finite.

    Args:
        optimizer: The optimizer.
        loss_scale: 'dynamic', a fixed number, or the arguments of ``torch.amp.GradScaler``.
        dtype: 'float16' or 'bfloat16'. When not given: bfloat16 where the device computes in it
            (Ampere and later, CPU), else float16.
        accumulative_counts: Iterations whose gradients are added up before a step.
        clip_grad: Arguments of ``clip_grad_norm_``, or of ``clip_grad_value_`` with type 'value'.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        loss_scale: Literal["dynamic"] | float | dict = "dynamic",
        dtype: Literal["float16", "bfloat16"] | None = None,
        accumulative_counts: Count = 1,
        clip_grad: dict | None = None,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self.device_type = next(self.parameters()).device.type
        self.dtype = self._choose(dtype)
        scaling = self.dtype == torch.float16
        self.fixed_scale = float(loss_scale) if isinstance(loss_scale, (int, float)) else None
        settings = dict(loss_scale) if isinstance(loss_scale, dict) else {}
        if self.fixed_scale is not None:
            settings["init_scale"] = self.fixed_scale
        self.loss_scaler = torch.amp.GradScaler(self.device_type, enabled=scaling, **settings)

    def _choose(self, dtype: str | None) -> torch.dtype:
        if dtype is None:
            ampere = self.device_type == "cpu" or torch.cuda.get_device_capability()[0] >= 8
            return torch.bfloat16 if ampere else torch.float16
        return _DTYPES[dtype]

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast."""
        with super().optim_context(model), torch.autocast(self.device_type, self.dtype):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Go backward from the scaled loss."""
        self.loss_scaler.scale(loss).backward(**kwargs)  # type: ignore[no-untyped-call]
        self._inner_count += 1

    def is_non_finite(self, loss: Tensor, stepping: bool) -> Tensor:
        """Tell whether the loss, or a gradient that no scaler answers for, is not finite."""
        if not self.loss_scaler.is_enabled():
            return super().is_non_finite(loss, stepping)
        bad = ~torch.isfinite(loss.detach())
        scale = self.loss_scaler._scale
        if stepping and scale is not None and self.fixed_scale is None:
            exhausted = scale < _LOWEST_SCALE
            bad = bad | (exhausted.reshape(()) & ~torch.isfinite(self._norm_of_gradients()))
        return bad

    def step(self, **kwargs: Any) -> None:
        """Step through the scaler for float16, else plainly."""
        if not self.loss_scaler.is_enabled():
            super().step(**kwargs)
            return
        if self.is_fused():
            self._prepare_momentum()
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self.fixed_scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state with the scaler's under ``loss_scaler``."""
        state: dict[str, Any] = super().state_dict()
        state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the optimizer and, where the file has it, the scaler."""
        scaler = state_dict.pop("loss_scaler", None)
        if scaler and self.loss_scaler.is_enabled():
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)
