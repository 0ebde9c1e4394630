"""Memory: how much is free, and how much a piece of code holds at most."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nlseg.memory import free_memory


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free for tensors.

    Args:
        device: A CUDA device is asked itself; for the CPU it is what the system or the container
            still gives, whichever is less.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return free_memory() or 0


class TensorMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made while it is active, and their peak.

    On CUDA it asks the allocator instead.

    Args:
        device: Where the tensors are.
        held: Bytes that tensors hold before.
    """

    def __init__(self, device: torch.device, held: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cuda = device if device.type == "cuda" else None
        self.now = self.peak = held
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.cuda)

    def take_peak(self) -> int:
        """Return the most bytes that were held since the last call, and reset the peak."""
        if self.cuda:
            peak = int(torch.cuda.max_memory_allocated(self.cuda))
            torch.cuda.reset_peak_memory_stats(self.cuda)
            return peak
        peak, self.peak = self.peak, self.now
        return peak

    @contextmanager
    def without_gradients(self, model: nn.Module) -> Iterator[None]:
        """Do not count the gradients of the parameters while the backward pass makes them."""
        made = [0]

        def leave_out(parameter: Tensor) -> None:
            if parameter.grad is not None:
                made[0] += parameter.grad.nbytes
                self.now -= parameter.grad.nbytes

        hooks = [
            parameter.register_post_accumulate_grad_hook(leave_out)  # type: ignore[no-untyped-call]
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        yield
        for hook in hooks:
            hook.remove()
        self.now += made[0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and note the storages that it made."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.now -= size
