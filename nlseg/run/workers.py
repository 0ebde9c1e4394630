"""Worker processes of data loaders: what they outlive, and what is left when they do not."""

import contextlib
import mmap
import os
import signal
import time
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

_GRACE_S = 60
_STOP_ASKED = mmap.mmap(-1, 1)  # one byte that forked workers share
_GONE_S = 1.0


class WorkerDiedError(RuntimeError):
    """Workers of a loader died again and again."""


def prepare_worker(worker: int) -> None:
    """Let a worker process outlive a signal that asks the whole job to stop.

    The main process then finishes its iteration and saves, and needs its workers for that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_unless_job_stops)


def note_stop(asked: bool) -> None:
    """Tell the workers whether the main process has been asked to stop, too."""
    _STOP_ASKED[0] = int(asked)


def _leave_unless_job_stops(number: int, frame: FrameType | None) -> None:
    for _ in range(10):
        if _STOP_ASKED[0]:
            signal.alarm(_GRACE_S)
            return
        time.sleep(0.05)
    os._exit(0)


def shut_down(loader: DataLoader | None) -> None:
    """End the workers that a loader keeps."""
    iterator = getattr(loader, "_iterator", None)
    if loader is not None and iterator is not None:
        loader._iterator = None
        iterator._shutdown_workers()


def worker_died(error: Exception, batches: Any) -> bool:
    """Tell whether an error while waiting for a batch comes from a dead worker.

    PyTorch mostly notices the death itself. When it strikes while a batch is handed over, the
    connection to the worker breaks instead.

    Args:
        error: What was raised.
        batches: The loader's iterator.
    """
    if "DataLoader worker (pid" in str(error):
        return True
    workers = getattr(batches, "_workers", [])
    end = time.monotonic() + _GONE_S
    while workers and isinstance(error, (ConnectionError, FileNotFoundError, EOFError)):
        if any(not worker.is_alive() for worker in workers):
            return True
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return False


def how_they_died(batches: Any) -> str:
    """Name the signals that ended workers, such as ``(SIGKILL)``, for a message."""
    codes = {worker.exitcode for worker in getattr(batches, "_workers", [])}
    names = [signal.Signals(-code).name for code in codes if code is not None and code < 0]
    return f" ({', '.join(sorted(names))})" if names else ""


def forget_child_handler(handler: Any) -> None:
    """Undo PyTorch's handler for SIGCHLD, which raises anywhere, even amid an optimizer step.

    A dead worker is then noticed when the next batch is waited for.
    """
    with contextlib.suppress(ValueError):  # not the main thread, so there is no handler either
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
