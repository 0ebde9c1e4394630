"""Optimizer wrappers that never take a step with a number that is not finite.

They answer to the names that configs use, ``OptimWrapper`` and ``AmpOptimWrapper``, take the same
arguments, and work on the CPU, too. Before a step the gradient norm and the loss are looked at,
all processes agree, and the step is left out on all of them where any saw NaN or infinity. With a
fused optimizer on CUDA the decision stays on the device; otherwise the host reads one number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from mmengine.optim import OptimWrapper as MMOptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from nlseg.errors import ConfigError
from nlseg.registry import OPTIM_WRAPPERS
from nlseg.run.agreement import NON_FINITE, Agreement

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
        self, optimizer: Optimizer, accumulative_counts: int = 1, clip_grad: dict | None = None
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
        accumulative_counts: int = 1,
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
        if dtype not in _DTYPES:
            raise ConfigError(f"optim_wrapper.dtype: '{dtype}' is not one of {', '.join(_DTYPES)}")
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
