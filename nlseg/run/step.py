"""One training step: forward, backward, agreement of all processes, the optimizer's step.

No step is taken with a number that is not finite. After the backward pass the loss and the norm of
the gradients are looked at, all processes agree in one small vector, and the step is left out on
all of them where any saw NaN or infinity. With a fused optimizer on CUDA the decision stays on the
device; otherwise the host reads one number. What follows is decided in ``finite``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper as MMOptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from nlseg.bounds import Count
from nlseg.registry import OPTIM_WRAPPERS
from nlseg.run.processes import NON_FINITE, Agreement


def training_step(model: nn.Module, batch: Any, wrapper: Any) -> dict[str, Tensor]:
    """Train on one batch.

    Args:
        model: The network, inside DistributedDataParallel with several processes.
        batch: What the training loader yields.
        wrapper: The optimizer wrapper.

    Returns:
        Scalars by name, on the device; the one that was minimized is ``loss``.
    """
    if not _steps_as_usual(model):
        values: dict[str, Tensor] = model.train_step(batch, optim_wrapper=wrapper)  # type: ignore[operator]
        return values
    network: Any = model.module if isinstance(model, MMDistributedDataParallel) else model
    with wrapper.optim_context(model):
        data = network.data_preprocessor(batch, True)
        losses = model(**data, mode="loss") if isinstance(data, dict) else model(*data, mode="loss")
    loss, values = network.parse_losses(losses)
    wrapper.update_params(loss)
    return values


def _steps_as_usual(model: nn.Module) -> bool:
    """Return whether neither the network nor what wraps it has a training step of its own."""
    if type(model) is MMDistributedDataParallel:
        return not model.detect_anomalous_params
    return getattr(type(model), "train_step", None) is BaseModel.train_step


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
        self.accumulative_counts = accumulative_counts
        self.count = 0
        self.last_count: int | None = None
        self.agreement: Agreement | None = None
        self.gradient_norms: Tensor | None = None

    @property
    def inner_count(self) -> int:
        """Iterations trained."""
        return self.count

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set where training is; the last step is taken however few gradients were added up.

        Args:
            model: The network.
            init_counts: Iterations trained.
            max_counts: Iterations to train.
        """
        super().initialize_count_status(model, init_counts, max_counts)  # warns of batch norm
        self.count, self.last_count = init_counts, max_counts

    def should_update(self) -> bool:
        """Return whether, after the iterations counted so far, no gradient waits for a step."""
        return self.count % self.accumulative_counts == 0 or self.count == self.last_count

    def should_sync(self) -> bool:
        """Return whether the processes average gradients in the iteration that begins."""
        count = self.count + 1
        return count % self.accumulative_counts == 0 or count == self.last_count

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Divide a loss () by the number of iterations that share a step."""
        parts = self.accumulative_counts
        if self.last_count is not None:
            rest = self.last_count % parts
            parts = parts if self.count < self.last_count - rest else rest
        return loss / parts if parts > 1 else loss

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

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Add the gradients of a loss () to those of the parameters."""
        loss.backward(**options)  # type: ignore[no-untyped-call]
        self.count += 1

    def is_non_finite(self, loss: Tensor, stepping: bool) -> Tensor:
        """Return, without waiting for the device, whether the loss or a gradient is not finite.

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

    def step(self, **options: Any) -> None:
        """Clip and step, unless a process saw a number that is not finite."""
        agreed = self.agreement.reduced if self.agreement is not None else None
        self.clip_gradients()
        if agreed is None:
            self.optimizer.step(**options)
        elif self.is_fused():
            self._fused_step(agreed[NON_FINITE], **options)
        elif not agreed[NON_FINITE].item():
            self.optimizer.step(**options)

    def is_fused(self) -> bool:
        """Return whether the optimizer can leave out a step on the device itself."""
        return all(group.get("fused") for group in self.optimizer.param_groups)

    def _fused_step(self, skip: Tensor, **options: Any) -> None:
        self._prepare_momentum()
        optimizer: Any = self.optimizer
        optimizer.found_inf, optimizer.grad_scale = skip, None
        try:
            optimizer.step(**options)
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

    def clip_gradients(self) -> None:
        """Clip the gradients where the config asks for it, and log their norm."""
        parameters = [p for p in self.parameters() if p.requires_grad and p.grad is not None]
        if self.clip_grad_kwargs and parameters:
            norm = self.clip_func(parameters, **self.clip_grad_kwargs)
            if norm is not None:
                self.message_hub.update_scalar(f"train/{self.grad_name}", norm.detach())
