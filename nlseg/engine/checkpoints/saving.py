"""Write checkpoints at once or behind training's back, always one after the other."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlseg.engine.checkpoints.checkpoint import plain

Job = Callable[[], None]


class Saver:
    """Runs the jobs that write files, inline or in one thread, in the order they are given.

    Args:
        background: Whether training goes on while files are written. The state is first copied to
            memory that is kept for the next time, so a run's state is held twice on the host.
    """

    def __init__(self, background: bool = False) -> None:
        self.background = background
        self._pool = ThreadPoolExecutor(1, "saving") if background else None
        self._jobs: list[Future[None]] = []
        self._memory: dict[str, Tensor] = {}

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
            kept = self._memory.get(name)
            if kept is None or kept.shape != value.shape or kept.dtype != value.dtype:
                pinned = value.is_cuda
                kept = torch.empty(value.shape, dtype=value.dtype, pin_memory=pinned)
                self._memory[name] = kept
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


def write_all(*steps: Callable[[Path], Any], path: Path) -> Job:
    """Make one job of several steps on a file; a step that fails leaves out those after it."""

    def job() -> None:
        for step in steps:
            step(path)

    return job
