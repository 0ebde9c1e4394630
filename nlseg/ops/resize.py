"""Bilinear resizing, at once, row by row, and as the matrices that it multiplies with."""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""(height, width) in px."""


def resize(x: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Resize maps (N, C, h, w) bilinearly to (N, C, H, W); maps of that size come back as they are.

    Args:
        x: The maps.
        size: Height H and width W.
        align_corners: The centres of the corner pixels keep their place, not their outer corners.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)


class AxisMatrix(NamedTuple):
    """Bilinear resizing of one axis from n to m positions.

    ``weight`` (m, n) has at most two neighbouring entries in a row; output i depends on the inputs
    ``first[i]`` to ``last[i]``, both included.
    """

    weight: Tensor
    first: tuple[int, ...]
    last: tuple[int, ...]


@lru_cache(maxsize=64)
def axis_matrix(n: int, m: int, align_corners: bool, device: torch.device) -> AxisMatrix:
    """Return what ``torch.nn.functional.interpolate`` multiplies an axis of n positions with.

    Its own float32 weights are read off the resized identity.
    """
    with torch.inference_mode(False), torch.no_grad():
        identity = torch.eye(n)[None, None]
        size = (m, n)
        weight = F.interpolate(identity, size, mode="bilinear", align_corners=align_corners)[0, 0]
    held = weight != 0
    first = held.float().argmax(dim=1)
    last = n - 1 - held.flip(1).float().argmax(dim=1)
    return AxisMatrix(sent(weight, device), tuple(first.tolist()), tuple(last.tolist()))


class AxisTaps(NamedTuple):
    """The same as two inputs for each output, on the device: ``AxisMatrix`` without its zeros.

    Output i is ``of_first[i] * input[first[i]] + of_last[i] * input[last[i]]``; where both are the
    same input, ``of_last[i]`` is 0. All are (m,), the indices int64.
    """

    first: Tensor
    last: Tensor
    of_first: Tensor
    of_last: Tensor


@lru_cache(maxsize=64)
def axis_taps(n: int, m: int, align_corners: bool, device: torch.device) -> AxisTaps:
    """Return the taps of one axis from n to m positions."""
    axis = axis_matrix(n, m, align_corners, torch.device("cpu"))
    with torch.inference_mode(False), torch.no_grad():
        first, last = torch.tensor(axis.first), torch.tensor(axis.last)
        of_first = axis.weight.gather(1, first[:, None])[:, 0]
        of_last = axis.weight.gather(1, last[:, None])[:, 0] * (last > first)
        return AxisTaps(*(sent(tap, device) for tap in (first, last, of_first, of_last)))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, without waiting until it is there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
