"""Max pooling that is compiled once for images of any size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaxPool2d(nn.MaxPool2d):
    """PyTorch's layer, to the bit, whose graph for evaluation holds for maps of any size.

    PyTorch asks whether the windows leave a remainder of the map, so that a compiled graph holds
    either for sizes with one or for those without. In a graph for evaluation the map is therefore
    padded, or cut, to what the windows cover. (PyTorch 2.4 asks for the sign of that padding, and
    still compiles once for each kind.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest value of each window, (N, C, h, w) of (N, C, H, W)."""
        if self.training or not torch.compiler.is_dynamo_compiling():
            pooled: Tensor = super().forward(x)
            return pooled
        margins = []
        for axis in (1, 0):
            kernel, stride, padding = (
                value if isinstance(value, int) else value[axis]
                for value in (self.kernel_size, self.stride, self.padding)
            )
            side = x.shape[2 + axis]
            covered = (side + 2 * padding - kernel) // stride * stride + kernel
            margins += [padding, covered - padding - side]
        return F.max_pool2d(F.pad(x, margins, value=float("-inf")), self.kernel_size, self.stride)


def compile_once(module: nn.Module) -> None:
    """Make each max pooling below a module, a stranger's too, one that is compiled once.

    Left as they are: subclasses, and layers with gaps in their windows, with windows that reach
    over the map's end, or that return places.
    """
    for layer in module.modules():
        plain = type(layer) is nn.MaxPool2d and layer.dilation in (1, (1, 1))
        if plain and not layer.ceil_mode and not layer.return_indices:
            layer.__class__ = MaxPool2d
