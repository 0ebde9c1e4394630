"""What a piece of code asks of the emulated card: launches, and what makes the host wait."""

import collections
import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

_CARD = ctypes.CDLL(None)
CAPABILITY = torch.cuda.get_device_capability()


def asked() -> tuple[int, int, int]:
    """Return how often the host synchronized, copied pageable memory, and launched, so far."""
    return tuple(_CARD.emulated_count(kind) for kind in range(3))


@dataclass
class Asked:
    """What a piece of code asked for.

    Args:
        waits: Synchronizations, and copies between the card and pageable memory.
        places: Where PyTorch says that it synchronized.
    """

    waits: int = 0
    places: list[str] = field(default_factory=list)


@contextmanager
def count_waits() -> Iterator[Asked]:
    """Count what real tensors make the host wait for, as the CUDA runtime is called for it."""
    result = Asked()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        before = asked()
        try:
            yield result
        finally:
            after = asked()
            torch.cuda.set_sync_debug_mode("default")
    result.waits = sum(after[:2]) - sum(before[:2])
    result.places = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


@contextmanager
def fake_card() -> Iterator[None]:
    """Make everything that is built a tensor of shapes only, on the card."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        yield


VIEWS = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty",
    "empty_like", "empty_strided", "expand", "is_pinned", "lift_fresh", "new_empty",
    "new_empty_strided", "permute", "record_stream", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
}  # fmt: skip
"""Operators that launch nothing."""


class Launches(TorchDispatchMode):
    """Counts operators on the card, each taken for one launch; those inside ours, too."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "nlseg":
            self.operators[func._opname] += 0  # it was called
            with self:
                return inside(func)(*args, **kwargs)
        if composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
        on_card = any(isinstance(leaf, torch.Tensor) and leaf.is_cuda for leaf in leaves)
        name = func._schema.name.split("::")[1]
        if on_card and name not in VIEWS and func.namespace != "prim":
            self.operators[name] += 1
        return out

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.operators.values())


def composite(operator: Any) -> bool:
    """Return whether an operator only calls others."""
    key = "CompositeImplicitAutograd"
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return operator.namespace == "aten" and bool(has_kernel(operator.name(), key))


def inside(operator: Any) -> Callable[..., Any]:
    """Return the Python function behind one of our operators."""
    (definition,) = (
        value
        for name, module in list(sys.modules.items())
        if name.startswith("nlseg.ops.")
        for value in vars(module).values()
        if isinstance(value, CustomOpDef) and value._opoverload is operator
        if value._init_fn.__module__ == name
    )
    return definition._init_fn
