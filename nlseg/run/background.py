"""Files are written while training continues, from copies that it can no longer change."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from nlseg.run.checkpoint import plain

Job = Callable[[], Any]


class Saver:
    """Runs the jobs that write files, inline or in one thread, in the order they are given.

    Args:
        background: Whether training continues while files are written. The state is first copied to
            memory that is kept for the next time, so a run's state is held twice on the host.
    """

    def __init__(self, background: bool = False) -> None:
        self.background = background
        self._pool = ThreadPoolExecutor(1, "saving") if background else None
        self._jobs: list[Future[Any]] = []
        self._memory: dict[str, Tensor] = {}

    def prepare(self, checkpoint: Mapping[str, Any]) -> None:
        """Allocate the memory for copies during training, so that the first is quick, too.

        Args:
            checkpoint: Of the same form as those that are to be saved.
        """
        if self.background and not self._memory:
            wanted = [(name, v.shape, v.dtype, v.is_cuda) for name, v in _tensors("", checkpoint)]
            self.run(lambda: [self._take(*one) for one in wanted])

    def _take(self, name: str, shape: torch.Size, dtype: torch.dtype, pinned: bool) -> Tensor:
        """Return the memory of a name, which the system gives only when it is written to."""
        kept = self._memory.get(name)
        if kept is None or kept.shape != shape or kept.dtype != dtype:
            kept = torch.empty(shape, dtype=dtype, pin_memory=pinned).zero_()
            self._memory[name] = kept
        return kept

    def freeze(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Return a checkpoint as plain values that training can no longer change.

        Inline nothing is copied that is on the host already, as training waits.
        """
        if not self.background:
            frozen: dict[str, Any] = plain(checkpoint)
            return frozen
        self.wait()
        copy: dict[str, Any] = self._copy("", checkpoint)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return dict(plain(copy))

    def _copy(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            kept = self._take(name, value.shape, value.dtype, value.is_cuda)
            return kept.copy_(value.detach(), non_blocking=True)
        if isinstance(value, Mapping):
            return {key: self._copy(f"{name}/{key}", item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._copy(f"{name}/{i}", item) for i, item in enumerate(value))
        return value

    def run(self, job: Job) -> None:
        """Run a job now, or after those given before."""
        if self._pool is None:
            job()
        else:
            self._jobs.append(self._pool.submit(job))

    def failures(self, *, wait: bool = False) -> list[OSError]:
        """Return why finished jobs could not write, once each.

        Raises:
            BaseException: A job failed for another reason than the file system.
        """
        found = []
        rest = []
        for job in self._jobs:
            if not wait and not job.done():
                rest.append(job)
                continue
            error = job.exception()
            if isinstance(error, OSError):
                found.append(error)
            elif error is not None:
                raise error
        self._jobs = rest
        return found

    def wait(self) -> None:
        """Wait until all files are written; errors stay for ``failures``."""
        for job in self._jobs:
            job.exception()

    def close(self) -> None:
        """Write what is left and end the thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Walk over all tensors in nested containers with the name of their place."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (Mapping, list, tuple)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _tensors(f"{name}/{key}", item)
