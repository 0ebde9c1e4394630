"""Batch norm over the batches of all processes that waits for nothing and breaks no graph.

PyTorch's layer leaves out the processes whose batch is empty, and so asks the device three times in
each layer which those are; ``torch.compile`` cannot trace it. Here an empty batch is one that adds
nothing to the sums.
"""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.utils.dl_utils import parrots_wrapper
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional
from torch.nn.modules import _functions


class SumOverRanks(torch.autograd.Function):
    """Sums a tensor of any shape over all processes; gradients are summed likewise.

    The compiler keeps the order of these functional collectives, and runs each one, whatever a
    process does with the sum: graphs for maps of other sizes exchange the same sums.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return the sum."""
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """Return the sum of the gradients."""
        return _sum(gradient)


def _sum(x: Tensor) -> Tensor:
    world: Any = dist.group.WORLD
    total: Any = functional.all_reduce(x.contiguous(), "sum", world)
    return total.wait() if isinstance(total, functional.AsyncCollectiveTensor) else total


class SyncBatchNorm(nn.SyncBatchNorm):
    """PyTorch's layer; its running statistics stay as they are where all batches are empty.

    On a GPU it calls the same kernels; in a graph the formula is written out, so that it is fused
    with what surrounds it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, ...) by the statistics of all processes in training."""
        result: Tensor
        if not self._is_ours():
            result = super().forward(x)
            return result
        if self.num_batches_tracked is not None:  # it is where a block is computed again
            self.num_batches_tracked.add_(1)
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
        sum_over_ranks: Any = SumOverRanks.apply
        # one row of each process; mean and variance of an empty batch are NaN
        rows = sum_over_ranks(torch.where(mine & (own_count > 0), own, 0.0))
        means, variances, counts = torch.split(rows, [channels, channels, 1], 1)
        total = counts.sum()
        divisor = total.clamp(min=1)
        mean = (counts * means).sum(0) / divisor
        var = (counts * (variances + (means - mean).square())).sum(0) / divisor
        layer: Any = self  # which keeps running statistics
        with torch.no_grad():
            share = layer.momentum * (total > 0).to(layer.running_mean.dtype)
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
            unbiased = (var * total / (divisor - 1).clamp(min=1)).to(layer.running_var.dtype)
            layer.running_var.lerp_(unbiased, share)
        shape = (1, channels) + (1,) * (x.dim() - 2)
        scale = (var + self.eps).rsqrt()
        result = (wide - mean.view(shape)) * scale.view(shape)
        if self.weight is not None:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(x.dtype)  # type: ignore[no-any-return]


ALMOST_NOTHING = 1e-30
"""The count of an empty batch; the kernel that merges counts divides by the first one."""


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
        channels, empty = x.shape[1], x.numel() == 0
        if empty:
            wide = torch.promote_types(x.dtype, torch.float32)
            mean, inverse = x.new_zeros(channels, dtype=wide), x.new_ones(channels, dtype=wide)
        else:
            mean, inverse = torch.batch_norm_stats(x, eps)
        count = ALMOST_NOTHING if empty else x.numel() // channels
        own = torch.cat([mean, inverse, mean.new_full((1,), count)])
        rows = own.new_empty(world_size, len(own))
        if dist.get_backend(process_group) == "gloo":
            dist.all_gather(list(rows.unbind()), own, process_group)
        else:
            dist.all_gather_into_tensor(rows, own, process_group)
        means, inverses, counts = torch.split(rows, [channels, channels, 1], 1)
        running = [x for x in (running_mean, running_var) if x is not None]
        before = [x.clone() for x in running] if empty else []
        mean, inverse = torch.batch_norm_gather_stats_with_counts(
            x, means, inverses, running_mean, running_var, momentum, eps, counts.reshape(-1)
        )
        ctx.save_for_backward(x, weight, mean, inverse, counts.to(torch.int32))
        ctx.process_group, ctx.empty = process_group, empty
        if empty:
            for statistic, kept in zip(running, before, strict=True):
                statistic.copy_(torch.where(counts.sum() < 1, kept, statistic))
            return torch.empty_like(x)
        result: Tensor = torch.batch_norm_elemt(x, weight, bias, mean, inverse, eps)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of input, weight and bias; an empty batch's share is zero."""
        if not ctx.empty:  # which reads the saved tensors; a checkpoint lets that be done once
            theirs: Any = _functions.SyncBatchNorm.backward
            gradients: tuple[Tensor | None, ...] = theirs(ctx, gradient)
            return gradients
        x, weight, mean, _, _ = ctx.saved_tensors
        if ctx.needs_input_grad[0]:  # the others wait for the sums of this process
            dist.all_reduce(mean.new_zeros(2 * len(mean)), group=ctx.process_group)
        zeros = None if weight is None else torch.zeros_like(weight)
        return torch.empty_like(x), zeros, zeros, None, None, None, None, None, None


def never_wait(module: nn.Module) -> None:
    """Make each synchronized norm below a module one of these."""
    for layer in module.modules():
        if type(layer) in (nn.SyncBatchNorm, parrots_wrapper.SyncBatchNorm):  # the two are alike
            layer.__class__ = SyncBatchNorm
