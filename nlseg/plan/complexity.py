"""Size of a network: parameters, and multiplications and additions for one image."""

from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from nlseg.config.class_weight import with_class_weights
from nlseg.registry import MODELS


class Complexity(NamedTuple):
    """Counts for one image.

    Args:
        shape: Height and width of the image in px.
        flops: Multiplications and additions, two for each multiply-add.
        parameters: Learned numbers without those of auxiliary heads.
        auxiliary: Learned numbers of auxiliary heads, which only training uses.
        parts: Name of a part -> its flops.
    """

    shape: tuple[int, int]
    flops: int
    parameters: int
    auxiliary: int
    parts: dict[str, int]

    @property
    def multiply_adds(self) -> int:
        """What mmsegmentation's table calls FLOPs: one for each multiply-add."""
        return self.flops // 2


def measure_complexity(config: Config, shape: tuple[int, int]) -> Complexity:
    """Count what a config's network does for one image, up to the logits of its decode head.

    Nothing is computed: tensors have shapes but no values, so it takes hardly any memory.

    Args:
        config: With a ``model``.
        shape: Height and width of the image in px.
    """
    settings: dict[str, Any] = Config(dict(with_class_weights(config.model, None))).to_dict()
    with torch.device("meta"):
        model: Any = MODELS.build(settings)
        image = torch.zeros(1, 3, *shape)
    auxiliary = getattr(model, "auxiliary_head", None)
    num_auxiliary = _num_parameters(auxiliary) if isinstance(auxiliary, nn.Module) else 0
    model.auxiliary_head = None
    model.eval()
    _let_counter_find_own_operators()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(image, mode="tensor")
    name = type(model).__name__
    counts = counter.get_flop_counts()
    parts = {
        key.removeprefix(f"{name}."): sum(value.values())
        for key, value in counts.items()
        if key.startswith(f"{name}.") and key.count(".") == 1
    }
    total = counter.get_total_flops()
    return Complexity(shape, total, _num_parameters(model), num_auxiliary, parts)


def _let_counter_find_own_operators() -> None:
    """PyTorch 2.4 registers formulas by an operator's overload; its counter does not look there."""
    for operator, formula in list(flop_registry.items()):
        if isinstance(operator, torch._ops.OpOverload):
            flop_registry.setdefault(operator.overloadpacket, formula)


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
