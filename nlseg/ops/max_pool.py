"""Max pooling that is compiled once for images of any size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaxPool2d(nn.MaxPool2d):
    """Pool squares, with windows that start at each ``stride`` px; the same bits as PyTorch's.

    PyTorch asks whether the windows leave a remainder of the map, so that a compiled graph holds
    either for sizes with one or for those without. In a graph for evaluation the map is therefore
    padded, or cut, to what the windows cover. (PyTorch 2.4 asks for the sign of that padding, and
    still compiles once for each kind.)

    Args:
        kernel_size: Side of a window in px.
        stride: Step of the windows in px.
        padding: Rows and columns around the map that never are the largest.
    """

    def __init__(self, kernel_size: int, stride: int, padding: int = 0) -> None:
        super().__init__(kernel_size, stride, padding)
        self.window = (kernel_size, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest value of each window, (N, C, h, w) of (N, C, H, W)."""
        if self.training or not torch.compiler.is_dynamo_compiling():
            pooled: Tensor = super().forward(x)
            return pooled
        kernel, stride, padding = self.window
        margins = []
        for side in (x.shape[3], x.shape[2]):
            covered = (side + 2 * padding - kernel) // stride * stride + kernel
            margins += [padding, covered - padding - side]
        return F.max_pool2d(F.pad(x, margins, value=float("-inf")), kernel, stride)
