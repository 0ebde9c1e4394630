"""Half precision: autocast for evaluation, and the optimizer wrapper that trains under it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nlseg.bounds import Count
from nlseg.errors import ConfigError
from nlseg.registry import OPTIM_WRAPPERS
from nlseg.run import processes
from nlseg.run.step import OptimWrapper

HalfName = Literal["float16", "bfloat16"]
_LOWEST_SCALE = 1.0


def check_half(name: HalfName | None) -> HalfName | None:
    """Return the name if there is such a type.

    Raises:
        ConfigError: There is none, or the GPU has no kernels for it.
    """
    if name is not None and name not in get_args(HalfName):
        raise ConfigError(f"dtype: {name!r} is not one of {', '.join(get_args(HalfName))}")
    if name == "bfloat16" and not computes_in_bfloat16(processes.device()):
        raise ConfigError(
            f"dtype: 'bfloat16', but {torch.cuda.get_device_name()} has no kernels for it, as no "
            "GPU before Ampere has; use 'float16'"
        )
    return name


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether PyTorch has kernels in bfloat16 for a device: a CPU, or a GPU from Ampere."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 8


def half_precision(enabled: bool, name: HalfName | None) -> AbstractContextManager[object]:
    """Return a context in which networks compute in half precision; one inside it keeps the type.

    Args:
        enabled: Whether they do.
        name: Which type; PyTorch's choice for the device where None.
    """
    dtype = None if name is None else getattr(torch, name)
    return torch.autocast(processes.device().type, dtype, enabled=enabled)


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
        dtype: HalfName | None = None,
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

    def _choose(self, dtype: HalfName | None) -> torch.dtype:
        if dtype is None:
            device = torch.device(self.device_type)
            return torch.bfloat16 if computes_in_bfloat16(device) else torch.float16
        if self.device_type == "cuda":
            check_half(dtype)
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast."""
        with super().optim_context(model), torch.autocast(self.device_type, self.dtype):
            yield

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Add the gradients of a loss (), scaled for float16."""
        super().backward(self.loss_scaler.scale(loss), **options)

    def is_non_finite(self, loss: Tensor, stepping: bool) -> Tensor:
        """Return whether the loss, or a gradient that no scaler answers for, is not finite."""
        if not self.loss_scaler.is_enabled():
            return super().is_non_finite(loss, stepping)
        bad = ~torch.isfinite(loss.detach())
        scale = self.loss_scaler._scale
        if stepping and scale is not None and self.fixed_scale is None:
            exhausted = scale < _LOWEST_SCALE
            bad = bad | (exhausted.reshape(()) & ~torch.isfinite(self._norm_of_gradients()))
        return bad

    def step(self, **options: Any) -> None:
        """Step through the scaler for float16, else plainly."""
        if not self.loss_scaler.is_enabled():
            super().step(**options)
            return
        if self.is_fused():
            self._prepare_momentum()
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self.clip_gradients()
        self.loss_scaler.step(self.optimizer, **options)
        self.loss_scaler.update(self.fixed_scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state with the scaler's under ``loss_scaler``."""
        state: dict[str, Any] = super().state_dict()
        state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the optimizer and, where the file has it, the scaler."""
        rest = dict(state_dict)
        scaler = rest.pop("loss_scaler", None)
        if scaler and self.loss_scaler.is_enabled():
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(rest)
