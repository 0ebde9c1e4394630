"""A running average of the weights, evaluated and saved in place of the last ones."""

import torch
from mmengine.hooks import EMAHook as MMEMAHook
from mmengine.model import ExponentialMovingAverage as MMExponentialMovingAverage
from torch import Tensor, nn

from nlseg.registry import HOOKS, MODELS


@MODELS.register_module()
class ExponentialMovingAverage(MMExponentialMovingAverage):
    """Average parameters as ``(1 - momentum) average + momentum source``, all in a few kernels.

    Args:
        model: The network that is averaged.
        momentum: Weight of the newest parameters, in (0, 1).
        interval: Iterations between two updates.
        device: Where the average lives; None is where the network does.
        update_buffers: Whether buffers are averaged, too, instead of copied.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)

    def update_parameters(self, model: nn.Module) -> None:
        """Take one step towards the parameters of ``model``."""
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        pairs = [(average, source[name].detach()) for name, average in self.avg_parameters.items()]
        if int(self.steps) == 0:
            _copy(pairs)
        elif int(self.steps) % self.interval == 0:
            floats = [pair for pair in pairs if pair[0].is_floating_point()]
            averages = [average.data for average, _ in floats]
            news = [new.to(average.device) for average, new in floats]
            torch._foreach_lerp_(averages, news, self.momentum)
        if not self.update_buffers:
            _copy(list(zip(self.module.buffers(), model.buffers(), strict=True)))
        self.steps += 1


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for target, source in pairs:
        target.data.copy_(source)


@HOOKS.register_module()
class EMAHook(MMEMAHook):
    """Keep an average of the weights; validate, test and save with it; resume it exactly.

    Args:
        ema_type: The kind of average.
        strict_load: Whether every averaged weight must be in a checkpoint that is resumed.
        begin_iter: Iteration from which to average; before, the weights are copied.
        begin_epoch: Epoch from which to average, in place of an iteration.
        momentum: Weight of the newest parameters, in (0, 1).
        interval: Iterations between two updates.
        update_buffers: Whether buffers are averaged, too.
    """

    def __init__(
        self,
        ema_type: str = "ExponentialMovingAverage",
        strict_load: bool = False,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        *,
        momentum: float = 0.0002,
        interval: int = 1,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(
            ema_type,
            strict_load,
            begin_iter,
            begin_epoch,
            momentum=momentum,
            interval=interval,
            update_buffers=update_buffers,
        )
        self.swapped = False

    def _swap_ema_parameters(self) -> None:
        super()._swap_ema_parameters()
        self.swapped = not self.swapped

    def put_back(self) -> None:
        """Give the network its own weights back when an evaluation ends early."""
        if self.swapped:
            self._swap_ema_parameters()
