"""``torch.compile`` for the parts of a network that tensors flow through, and nothing else.

Backbone, neck and heads are compiled, each as one graph; what comes before and after them looks at
data samples and stays Python. Parameter names and copies of the network do not change. In
evaluation height and width are declared free, so that a new image size compiles nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nlseg.errors import ConfigError

PARTS = ("backbone", "neck", "decode_head", "auxiliary_head")
_OPTIONS = ("fullgraph", "dynamic", "backend", "mode", "options", "disable")


class CompiledCall:
    """What calling a compiled module runs.

    Args:
        module: The module.
        options: Arguments of ``torch.compile``.
    """

    def __init__(self, module: nn.Module, options: Mapping[str, Any]) -> None:
        self.module = module
        self.call: Callable[..., Any] = torch.compile(module._call_impl, **options)

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """Run the module on maps (N, C, H, W), in any nesting."""
        if not self.module.training:
            for leaf in tree_leaves(inputs):
                if isinstance(leaf, Tensor) and leaf.dim() == 4:
                    torch._dynamo.maybe_mark_dynamic(leaf, [2, 3])
        return self.call(*inputs, **settings)


def compile_network(model: nn.Module, setting: bool | Mapping[str, Any] | None) -> int:
    """Compile a segmentor's parts in place; a second call changes nothing.

    Args:
        model: The segmentor, or a test-time wrapper around it.
        setting: The config's ``compile``: True, or arguments of ``torch.compile``. ``fullgraph`` is
            on unless it says otherwise.

    Returns:
        Number of parts that are compiled.

    Raises:
        ConfigError: For an unknown argument, or a network without such parts.
    """
    options = _options(setting)
    if options is None:
        return 0
    parts = list(parts_of(model))
    if not parts:
        raise ConfigError(f"compile: {type(model).__name__} has none of {', '.join(PARTS)}")
    for part in parts:
        if not isinstance(part._compiled_call_impl, CompiledCall):
            part._compiled_call_impl = CompiledCall(part, options)
    return len(parts)


def _options(setting: bool | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not setting and not isinstance(setting, Mapping):
        return None
    given = {} if isinstance(setting, bool) else dict(setting or {})
    for name in given:
        if name not in _OPTIONS:
            raise ConfigError(f"compile.{name}: not one of {', '.join(_OPTIONS)}")
    return {"fullgraph": True, **given}


def parts_of(model: nn.Module) -> Iterator[nn.Module]:
    """Walk over the modules that are compiled."""
    inner = getattr(model, "module", None)
    while isinstance(inner, nn.Module):
        model, inner = inner, getattr(inner, "module", None)
    for name in PARTS:
        part = getattr(model, name, None)
        if isinstance(part, nn.ModuleList):
            yield from part
        elif isinstance(part, nn.Module):
            yield part
