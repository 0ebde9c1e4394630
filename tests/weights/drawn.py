"""Weights that are drawn the same anywhere, to compare networks without their files."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def drawn(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, Tensor]:
    """Draw a state dict whose activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: Sequence[int]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(1)
        if len(shape) > 1:
            return torch.randn(*shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        if name.endswith(("weight", "running_var")):
            return torch.rand(*shape, generator=generator) + 0.5
        return torch.randn(*shape, generator=generator) / 10

    return {name: draw(name, shape) for name, shape in shapes.items()}
