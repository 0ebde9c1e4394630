"""PyTorch's kernels for synchronized batch norm, which are for GPUs alone, as formulas.

Source: aten/src/ATen/native/cuda/Normalization.cuh of PyTorch; sums over maps in one piece.
"""

import torch
from torch import Tensor

_OTHERS = (0, 2, 3)


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and inverse deviation (C,) of maps (N, C, H, W), of which there must be some."""
    assert x.numel() > 0
    var, mean = torch.var_mean(x, _OTHERS, correction=0)
    return mean, (var + eps).rsqrt()


def gather_stats_with_counts(
    x: Tensor, means: Tensor, inverses: Tensor, running_mean: Tensor, running_var: Tensor,
    momentum: float, eps: float, counts: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Merge the statistics (R, C) of R processes one after the other; the count is an integer."""
    mean, deviations, number = torch.zeros_like(means[0]), torch.zeros_like(means[0]), 0
    for m, inverse, count in zip(means, inverses, counts.to(means.dtype), strict=True):
        factor = 1 / (number + count)
        squares = (inverse.reciprocal().square() - eps) * count
        deviations = deviations + squares + (mean - m).square() * number * count * factor
        mean = number * factor * mean + count * factor * m
        number = int(number + count)
    running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
    running_var.mul_(1 - momentum).add_(deviations / (number - 1), alpha=momentum)
    return mean, (deviations / torch.tensor(number) + eps).rsqrt()


def elemt(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, eps: float
) -> Tensor:
    """Normalize maps, of which there must be some."""
    assert x.numel() > 0
    return (x - _wide(mean)) * _wide(inverse) * _wide(weight) + _wide(bias)


def backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, *needed: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sums of the gradient and of gradient times centred input, and two gradients."""
    product = (grad * (x - _wide(mean))).sum(_OTHERS)
    return grad.sum(_OTHERS), product, product * inverse, grad.sum(_OTHERS)


def backward_elemt(
    grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor,
    sum_grad: Tensor, sum_product: Tensor, counts: Tensor,
) -> Tensor:  # fmt: skip
    """Return the gradient with respect to the input."""
    assert counts.dtype == torch.int32
    total = counts.sum()
    slope = _wide(inverse.square() * sum_product / total)
    centred = grad - _wide(sum_grad / total) - (x - _wide(mean)) * slope
    return centred * _wide(inverse * weight)


def _wide(x: Tensor) -> Tensor:
    return x.view(1, -1, 1, 1)
