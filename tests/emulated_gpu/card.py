"""What a piece of code asks of the emulated card: launches, and what makes the host wait."""

import collections
import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
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
    "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "lift_fresh",
    "new_empty", "new_empty_strided", "permute", "select", "slice", "split", "split_with_sizes",
    "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "device",
    "_reshape_alias", "diagonal", "unfold", "is_pinned", "prim::device",
}  # fmt: skip
"""Operators that launch nothing."""


class Launches(TorchDispatchMode):
    """Counts operators on the card, each taken for one launch."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
        name = func._schema.name.split("::")[1]
        if name not in VIEWS and any(
            isinstance(leaf, torch.Tensor) and leaf.is_cuda for leaf in leaves
        ):
            self.operators[name] += 1
        return out

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.operators.values())
