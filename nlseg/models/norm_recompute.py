"""Training without the results of norm + ReLU: the backward pass computes them again.

Between two convolutions lie the first one's result y and x = relu(norm(y)). The norm keeps y for
its gradient, ReLU and the second convolution keep x. But x is quickly made of y: here only y is
kept, a third less in a bottleneck's inner layers, and x has the same bits when it is made again.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm


def instead_of(z: Tensor, y: Tensor, norm: nn.Module) -> AbstractContextManager[Any]:
    """Let autograd keep y where it would keep relu(z), z = norm(y), computed in place.

    Norms other than batch norm, synchronized ones (whose statistics other processes share) and
    graphs that are compiled (which choose themselves what to keep) keep relu(z).
    """
    plain = isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm)
    if not plain or not z.requires_grad or torch.compiler.is_compiling():
        return nullcontext()
    again = _Again(z, y, norm)
    return saved_tensors_hooks(again.pack, again.unpack)


class _Again:
    """Puts None in place of relu(z) and makes it again where it is asked for.

    Used only while that tensor is alive, so that nothing else can lie at its address.
    """

    def __init__(self, z: Tensor, y: Tensor, norm: Any) -> None:
        self._place, self._shape = z.data_ptr(), z.shape
        self._y = y.detach()
        self._norm = norm
        self._result: Tensor | None = None

    def pack(self, tensor: Tensor) -> Tensor | None:
        """Return what autograd keeps for a tensor."""
        if tensor.data_ptr() != self._place or tensor.shape != self._shape:
            return tensor
        return None

    def unpack(self, packed: Tensor | None) -> Tensor:
        """Return the tensor for what was kept."""
        if packed is not None:
            return packed
        if self._result is None:
            self._result = self._make()  # goes with the graph, as soon as both have read it
        return self._result

    def _make(self) -> Tensor:
        norm = self._norm
        batch = norm.training or norm.running_mean is None
        mean, var = (None, None) if batch else (norm.running_mean, norm.running_var)
        with torch.no_grad():
            z = F.batch_norm(self._y, mean, var, norm.weight, norm.bias, batch, 0.0, norm.eps)
            return z.relu_()
