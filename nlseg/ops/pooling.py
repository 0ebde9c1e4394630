"""Pooling that is compiled once for images of any size: in evaluation, and where crops differ."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pool = nn.MaxPool2d | nn.AvgPool2d


class MaxPool2d(nn.MaxPool2d):
    """PyTorch's layer, to the bit, whose graph holds for maps of any size."""

    any_size = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest value of each window, (N, C, h, w) of (N, C, H, W)."""
        if _has_one_size(self):
            pooled: Tensor = super().forward(x)
            return pooled
        return F.max_pool2d(_covered(x, self, float("-inf")), self.kernel_size, self.stride)


class AvgPool2d(nn.AvgPool2d):
    """PyTorch's layer, whose graph holds for maps of any size.

    It has the same bits where windows have a power of two of pixels, and rounds otherwise.
    """

    any_size = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of each window, (N, C, h, w) of (N, C, H, W)."""
        if _has_one_size(self):
            pooled: Tensor = super().forward(x)
            return pooled
        means = F.avg_pool2d(_covered(x, self, 0.0), self.kernel_size, self.stride)
        if not self.ceil_mode:
            return means
        for axis in (0, 1):  # the last window may reach over the end, where it holds fewer pixels
            kernel, stride, _ = _window(self, axis)
            begins = torch.arange(means.shape[2 + axis], device=x.device) * stride
            factors = kernel / (x.shape[2 + axis] - begins).clamp(max=kernel)
            means = means * factors.to(means.dtype).reshape((-1, 1) if axis == 0 else (1, -1))
        return means


def compile_once(module: nn.Module) -> None:
    """Make each pooling below a module, a stranger's too, one that is compiled once.

    Left as they are: subclasses, layers with gaps in their windows or that return places, and
    windows that may lie beyond the map's end, or whose mean leaves out padding.
    """
    for layer in module.modules():
        if type(layer) is nn.MaxPool2d and layer.dilation in (1, (1, 1)):
            if not layer.return_indices and (not layer.ceil_mode or _begins_inside(layer)):
                layer.__class__ = MaxPool2d
        elif type(layer) is nn.AvgPool2d and layer.divisor_override is None:
            padded = layer.padding not in (0, (0, 0))
            ceil_fits = not padded and _begins_inside(layer)
            if ceil_fits if layer.ceil_mode else layer.count_include_pad or not padded:
                layer.__class__ = AvgPool2d


def any_size(module: nn.Module) -> None:
    """Make a graph for training hold for maps of any size, as one for evaluation does."""
    for layer in module.modules():
        if isinstance(layer, (MaxPool2d, AvgPool2d)):
            layer.any_size = True


def _has_one_size(layer: MaxPool2d | AvgPool2d) -> bool:
    """Return whether PyTorch's own pooling does: in no graph, or in one for crops of one size."""
    compiling: bool = torch.compiler.is_dynamo_compiling()  # type: ignore[no-untyped-call]
    return not compiling or (layer.training and not layer.any_size)


def _window(layer: Pool, axis: int) -> tuple[int, int, int]:
    """Return kernel size, stride and padding of a layer along height (0) or width (1)."""
    values = (layer.kernel_size, layer.stride, layer.padding)
    kernel, stride, padding = (v if isinstance(v, int) else v[axis] for v in values)
    return kernel, stride, padding


def _begins_inside(layer: Pool) -> bool:
    """Return whether each window that ``ceil_mode`` adds begins inside the map."""
    windows = [_window(layer, axis) for axis in (0, 1)]
    return all(stride + padding <= kernel for kernel, stride, padding in windows)


def _covered(x: Tensor, layer: Pool, value: float) -> Tensor:
    """Return a map padded with a value, and cut to what the windows cover.

    PyTorch asks whether windows leave a remainder of the map, so that a graph holds either for
    sizes with one or for those without. Here none is left. What is added has always one size, and
    something is always cut off, so that nothing about the size is asked here either.
    """
    margins: list[int] = []
    ends = []
    for axis in (1, 0):
        kernel, stride, padding = _window(layer, axis)
        beyond = stride - 1 if layer.ceil_mode else 0
        windows = (x.shape[2 + axis] + 2 * padding - kernel + beyond) // stride
        ends.append(windows * stride + kernel)
        margins += [padding, padding + beyond + 1]
    return F.pad(x, margins, value=value)[:, :, : ends[1], : ends[0]]
