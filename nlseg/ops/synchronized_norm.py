"""Batch norm over the batches of all processes that waits for nothing and breaks no graph.

PyTorch's layer leaves out the processes whose batch is empty, and so asks the device three times in
each layer which those are; ``torch.compile`` cannot trace it. Here no batch is empty.
"""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.utils.dl_utils import parrots_wrapper
from torch import Tensor, nn
from torch.nn.modules import _functions


@torch.library.custom_op("nlseg::sum_over_ranks", mutates_args=())
def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor of any shape over all processes; gradients are summed likewise."""
    total = x.contiguous().clone()
    dist.all_reduce(total)
    return total


@sum_over_ranks.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _sum_gradients(_: Any, gradient: Tensor) -> Tensor:
    summed: Tensor = sum_over_ranks(gradient)
    return summed


sum_over_ranks.register_autograd(_sum_gradients)


class SyncBatchNorm(nn.SyncBatchNorm):
    """PyTorch's layer for processes that all have images.

    On a GPU it calls the same kernels; in a graph the formula is written out, so that it is fused
    with what surrounds it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, ...) by the statistics of all processes in training."""
        result: Tensor
        if not self._is_ours():
            result = super().forward(x)
            return result
        layer: Any = self  # which keeps running statistics
        layer.num_batches_tracked.add_(1)
        if not x.is_cuda or torch.compiler.is_compiling():
            return self._written_out(x)
        norm: Any = SynchronizedNorm
        result = norm.apply(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.eps,
            self.momentum, dist.group.WORLD, dist.get_world_size(),
        )  # fmt: skip
        return result

    def _is_ours(self) -> bool:
        """Return whether there are other processes, all of them, and a plain running average."""
        several = self.training and dist.is_initialized() and dist.get_world_size() > 1
        averages = self.track_running_stats and self.momentum is not None
        return several and averages and self.process_group is None

    def _written_out(self, x: Tensor) -> Tensor:
        channels, size, rank = x.shape[1], dist.get_world_size(), dist.get_rank()
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        own_var, own_mean = torch.var_mean(wide, (0, *range(2, x.dim())), correction=0)
        own_count = own_mean.new_full((1,), x.numel() // channels)
        own = torch.cat([own_mean, own_var, own_count])
        mine = torch.arange(size, device=x.device).unsqueeze(1) == rank
        rows = sum_over_ranks(own * mine)  # one row of each process
        means, variances, counts = torch.split(rows, [channels, channels, 1], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (counts * (variances + (means - mean).square())).sum(0) / total
        layer: Any = self  # which keeps running statistics
        with torch.no_grad():
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), layer.momentum)
            unbiased = (var * total / (total - 1)).to(layer.running_var.dtype)
            layer.running_var.lerp_(unbiased, layer.momentum)
        shape = (1, channels) + (1,) * (x.dim() - 2)
        scale = (var + self.eps).rsqrt()
        result = (wide - mean.view(shape)) * scale.view(shape)
        if self.weight is not None:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(x.dtype)  # type: ignore[no-any-return]


class SynchronizedNorm(_functions.SyncBatchNorm):
    """PyTorch's function without the question which processes have a batch."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None,
        running_mean: Tensor | None, running_var: Tensor | None, eps: float, momentum: float,
        process_group: Any, world_size: int,
    ) -> Tensor:  # fmt: skip
        """Normalize (N, C, ...) and update the running statistics; the backward pass is PyTorch's.

        Args:
            ctx: Keeps what the backward pass needs.
            x: The input.
            weight: Factors (C,).
            bias: Summands (C,).
            running_mean: Running mean (C,).
            running_var: Running variance (C,).
            eps: Added to the variance.
            momentum: Share of this batch in the running statistics.
            process_group: The processes.
            world_size: Their number.
        """
        if not x.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous()
        channels = x.shape[1]
        mean, inverse = torch.batch_norm_stats(x, eps)
        own = torch.cat([mean, inverse, mean.new_full((1,), x.numel() // channels)])
        rows = own.new_empty(world_size, len(own))
        if dist.get_backend(process_group) == "gloo":
            dist.all_gather(list(rows.unbind()), own, process_group)
        else:
            dist.all_gather_into_tensor(rows, own, process_group)
        means, inverses, counts = torch.split(rows, [channels, channels, 1], 1)
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            x, means, inverses, running_mean, running_var, momentum, eps, counts.reshape(-1)
        )
        ctx.save_for_backward(x, weight, mean, inverse, counts.to(torch.int32))
        ctx.process_group = process_group
        result: Tensor = torch.batch_norm_elemt(x, weight, bias, mean, inverse, eps)
        return result


def never_wait(module: nn.Module) -> None:
    """Make each synchronized norm below a module one of these."""
    for layer in module.modules():
        if type(layer) in (nn.SyncBatchNorm, parrots_wrapper.SyncBatchNorm):  # the two are alike
            layer.__class__ = SyncBatchNorm
