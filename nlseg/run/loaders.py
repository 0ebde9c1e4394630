"""Data loaders that start at any sample and replace a dead worker."""

import contextlib
import errno
import math
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from multiprocessing.queues import Queue
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from mmengine.dataset import DefaultSampler as MMDefaultSampler
from mmengine.dataset import InfiniteSampler as MMInfiniteSampler
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from torch.utils.data._utils import signal_handling

from nlseg.datasets.stream import DefaultSampler, InfiniteSampler
from nlseg.errors import DataError, RunError, UserError
from nlseg.memory import free_memory, shown_bytes
from nlseg.registry import FUNCTIONS
from nlseg.run import processes

_GRACE_S = 60
_STOP_ASKED = mmap.mmap(-1, 1)  # one byte that forked workers share
_GONE_S = 1.0
_MAX_RESTARTS = 3
SAME_EACH_TIME = (DefaultSampler, MMDefaultSampler, SequentialSampler)
"""Samplers that give the same order when they are walked again."""


class WorkerDiedError(RunError, RuntimeError):
    """Workers of a loader died again and again."""


def prepare_worker(worker: int) -> None:
    """Let a worker process outlive a signal that asks the whole job to stop.

    The main process then finishes its iteration and saves, and needs its workers for that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_unless_job_stops)
    # Batches are handed over by threads, which would lose one, or try again without an end.
    sys.excepthook = _leave_if_short
    Queue._on_queue_feeder_error = staticmethod(_leave_with_cause)  # type: ignore[attr-defined]


def _leave_if_short(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """End a worker that cannot hand over a batch as something has run short."""
    if _advice_on(str(error)):
        _leave_with_cause(error)
    sys.__excepthook__(kind, error, trace)


def _leave_with_cause(error: BaseException, batch: Any = None) -> None:
    """End a worker that has lost a batch; its exit code tells why, see ``_SHORT``."""
    advice = _advice_on(str(error))
    with contextlib.suppress(OSError):
        os.write(2, f"worker {os.getpid()} of a loader ends: {error}\n".encode())
    os._exit(next((code for code, text in _SHORT.items() if text == advice), 1))


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
    """Return whether an error while waiting for a batch comes from a dead worker.

    PyTorch mostly notices the death itself. When it strikes while a batch is handed over, the
    connection to the worker breaks instead.

    Args:
        error: What was raised.
        batches: The loader's iterator.
    """
    if "DataLoader worker (pid" in str(error) or _advice_on(str(error)):
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


_FULL_SHARED_MEMORY = (
    "/dev/shm is too small for the batches that workers hand over: start the container with a "
    "larger --shm-size (8g), or lower num_workers"
)
_MANY_FILES = "too many files are open: raise the limit (ulimit -n 65536), or lower num_workers"
_FULL_MEMORY = "the memory is full: lower num_workers"
_ADVICE = {  # words of an error, in lower case
    "too many open files": _MANY_FILES,
    "ancdata": _MANY_FILES,
    "bus error": _FULL_SHARED_MEMORY,
    "unable to write to file </torch": _FULL_SHARED_MEMORY,
    "unable to allocate shared memory": _FULL_SHARED_MEMORY,
    "unable to open shared memory": _FULL_SHARED_MEMORY,
    "cannot allocate memory": _FULL_MEMORY,
    "caught memoryerror": _FULL_MEMORY,
}
_SHORT = {
    errno.EMFILE: _MANY_FILES,
    errno.ENOSPC: _FULL_SHARED_MEMORY,
    errno.ENOMEM: _FULL_MEMORY,
}
"""Exit codes of workers that something ran short for."""


def _advice_on(text: str) -> str:
    """Say what to do about an error that comes from a limit of the machine."""
    return next((advice for words, advice in _ADVICE.items() if words in text.lower()), "")


def why_they_died(error: Exception, batches: Any) -> tuple[str, str]:
    """Say what ended workers, and what helps.

    Args:
        error: What was raised while waiting for a batch.
        batches: The loader's iterator.

    Returns:
        The cause with the signals, such as ``(SIGKILL)``, and advice that begins with a semicolon,
        or is empty.
    """
    codes = {worker.exitcode for worker in getattr(batches, "_workers", [])}
    names = {signal.Signals(-code).name for code in codes if code is not None and code < 0}
    text = (original_message(error) or repr(error)).splitlines()[0]
    shown = f"{text} ({', '.join(sorted(names))})" if names else text
    advice = _advice_on(text) or next((_SHORT[code] for code in codes if code in _SHORT), "")
    if not advice and "SIGBUS" in names:
        advice = _FULL_SHARED_MEMORY
    elif not advice and "SIGKILL" in names:
        free = free_memory()
        now = f", of which {shown_bytes(free)} are free now" if free is not None else ""
        advice = f"often the machine's memory{now}, is full and the system kills: lower num_workers"
    return shown, f"; {advice}" if advice else ""


def forget_child_handler(handler: Any) -> None:
    """Undo PyTorch's handler for SIGCHLD, which raises anywhere, even amid an optimizer step.

    A dead worker is then noticed when the next batch is waited for.

    Args:
        handler: The one before the loader was opened; PyTorch's own, which a loader of somebody
            else in this process may have left, is not put back.
    """
    if getattr(handler, "__module__", "") == signal_handling.__name__:
        handler = None
    with contextlib.suppress(ValueError):  # not the main thread, so there is no handler either
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def clean_loader_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what PyTorch refuses without worker processes, and let workers outlive a signal.

    Images of one size leave the workers as one uint8 tensor, in pinned memory where there is CUDA.

    Args:
        config: A loader's config, such as ``train_dataloader``.
    """
    cleaned = dict(config)
    if not cleaned.get("num_workers", 0):
        for name in ("persistent_workers", "prefetch_factor"):
            cleaned.pop(name, None)
    cleaned.setdefault("worker_init_fn", {"type": prepare_worker})
    cleaned.setdefault("collate_fn", {"type": "stack_collate"})
    for name in ("worker_init_fn", "collate_fn"):
        part = cleaned[name]
        own = FUNCTIONS.module_dict.get(part.get("type")) if isinstance(part, Mapping) else None
        if own is not None:  # mmengine looks the name up in its own registry alone
            cleaned[name] = {**part, "type": own}
    cleaned.setdefault("pin_memory", torch.cuda.is_available())
    return cleaned


def log_bad_samples(dataset: Any, file: Path) -> None:
    """Name the file in which a data set, or each one inside it, writes down bad samples.

    Args:
        dataset: A data set; one that has a log of its own keeps it.
        file: JSON-lines file.
    """
    policy = getattr(dataset, "bad_samples", None)
    if policy is not None and policy.log is None:
        policy.log = str(file)
    inner = getattr(dataset, "dataset", None)
    for part in [*getattr(dataset, "datasets", []), *([] if inner is None else [inner])]:
        log_bad_samples(part, file)


def sampler_of(loader: DataLoader) -> Sampler | Any:
    """Return the sampler that yields single samples."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    return loader.sampler if inner is None else inner


class _SkipOnce:
    """A batch sampler whose next walk leaves out the first batches without loading them."""

    def __init__(self, batch_sampler: Any, count: int) -> None:
        self.batch_sampler, self.count = batch_sampler, count

    def __iter__(self) -> Iterator[Any]:
        """Walk; a loader makes two walks and uses the second, so the first may do nothing."""
        count, self.count = self.count, 0
        yield from islice(iter(self.batch_sampler), count, None)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch_sampler, name)


class BatchStream:
    """Batches of a training loader from any iteration on; a worker that dies is replaced.

    No earlier sample is loaded to get there. A loader that ends is walked again as its next epoch.

    Args:
        loader: The loader.
        iteration: Number of the next batch, in iterations of this loader.
        first_sample: Number of the sample that iteration 0 would begin with; not 0 where the batch
            size has changed on the way.
        warn: Called with one line when workers had to be started again.
    """

    def __init__(
        self,
        loader: DataLoader,
        iteration: int,
        warn: Callable[[str], None],
        first_sample: int = 0,
    ) -> None:
        self.loader, self.warn = loader, warn
        self.iteration, self.first_sample = iteration, first_sample
        self.infinite = is_infinite(loader)
        self.restarts = 0
        self._batches: Iterator[Any] | None = None

    def state_dict(self) -> dict[str, int]:
        """Return which batch comes next, and where the samples begin."""
        return {"iteration": self.iteration, "first_sample": self.first_sample}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with another batch; what was loaded ahead is dropped."""
        self.iteration, self.first_sample = state["iteration"], state["first_sample"]
        self._batches = None

    def __iter__(self) -> "BatchStream":
        """Return itself, being read from where it is."""
        return self

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            UserError: A sample cannot be used.
            WorkerDiedError: Workers died several times at one batch.
        """
        while True:
            try:
                if self._batches is None:
                    self._batches = self._open()
                batch = next(self._batches)
            except StopIteration:
                self._batches = None
                continue
            except UserError as error:
                raise type(error)(original_message(error)) from None
            except (RuntimeError, OSError, EOFError, MemoryError) as error:
                self._prepare_restart(error)
                continue
            self.iteration += 1
            self.restarts = 0
            if not self.infinite and self.iteration % len(self.loader) == 0:
                self._batches = None
            return batch

    def _open(self) -> Iterator[Any]:
        self._seek()
        return opened(self.loader)

    def _seek(self) -> None:
        sampler: Any = sampler_of(self.loader)
        size = batch_size_of(self.loader)
        dataset: Any = self.loader.dataset
        if len(self.loader) == 0:
            raise DataError(
                f"train_dataloader: {len(dataset)} images make no whole batch of {size} "
                "on each process; lower batch_size or leave drop_last out"
            )
        epoch, batch = divmod(self.iteration, len(self.loader))
        batch = self.iteration if self.infinite else batch
        if not self.infinite and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        if hasattr(sampler, "set_batch"):
            sampler.set_batch(size, batch)
            if self.infinite:
                sampler.start += self.first_sample
        elif batch:
            skipping: Any = _SkipOnce(self.loader.batch_sampler, batch)
            object.__setattr__(self.loader, "batch_sampler", skipping)

    def _prepare_restart(self, error: Exception) -> None:
        self.restarts += 1
        survive(error, self._batches, self.loader, self.restarts, self.iteration, self.warn)
        self._batches = None


def opened(loader: DataLoader) -> Iterator[Any]:
    """Walk over a loader's batches; the death of a worker is noticed at the next one only."""
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    forget_child_handler(handler)
    return batches


def survive(
    error: Exception,
    batches: Any,
    loader: DataLoader,
    restarts: int,
    batch: int,
    warn: Callable[[str], None],
) -> None:
    """End what is left of a loader's workers after one has died, so that they can start again.

    Args:
        error: What was raised while waiting for a batch.
        batches: The loader's iterator.
        loader: The loader.
        restarts: How often this batch has been tried, this time included.
        batch: Its number.
        warn: Called with one line on the cause.

    Raises:
        Exception: The error itself, where it is not the death of a worker.
        WorkerDiedError: The batch has been tried too often.
    """
    if not worker_died(error, batches):
        raise error
    cause, advice = why_they_died(error, batches)
    if restarts > _MAX_RESTARTS:
        raise WorkerDiedError(
            f"loader workers died {restarts} times at or soon after batch {batch}: {cause}{advice}"
        ) from error
    warn(f"{cause}; workers are started again at batch {batch}{advice}")
    shut_down(loader)


def every_batch(loader: DataLoader, warn: Callable[[str], None]) -> Iterator[Any]:
    """Yield each batch of a walk over a validation's or a test's images once.

    A worker that dies is replaced, and its batch is loaded again.

    Args:
        loader: The loader; it is walked again where its order is the same each time.
        warn: Called with one line when workers had to be started again.

    Raises:
        UserError: A sample cannot be used.
        WorkerDiedError: Workers died several times at one batch.
    """
    done = restarts = 0
    batches: Iterator[Any] | None = None
    while True:
        try:
            if batches is None:
                batches = opened(loader)
            batch = next(batches)
        except StopIteration:
            return
        except UserError as error:
            raise type(error)(original_message(error)) from None
        except (RuntimeError, OSError, EOFError, MemoryError) as error:
            restarts += 1
            if not isinstance(sampler_of(loader), SAME_EACH_TIME):
                raise
            survive(error, batches, loader, restarts, done, warn)
            skipping: Any = _SkipOnce(loader.batch_sampler, done)
            object.__setattr__(loader, "batch_sampler", skipping)
            batches = None
            continue
        done, restarts = done + 1, 0
        yield batch


def is_infinite(loader: DataLoader) -> bool:
    """Return whether a loader never ends."""
    return isinstance(sampler_of(loader), InfiniteSampler | MMInfiniteSampler)


def batch_size_of(loader: DataLoader) -> int:
    """Return the samples that this process takes in one batch."""
    size: int = getattr(loader.batch_sampler, "batch_size", None) or loader.batch_size or 1
    return size


def original_message(error: BaseException) -> str:
    """Return an error's own text without the traceback that PyTorch adds to a worker's error."""
    text = str(error)
    marker = f"{type(error).__name__}: "
    return text.rsplit(marker, 1)[-1].strip() if text.startswith("Caught ") else text


def iterations_per_epoch(loader: DataLoader) -> int:
    """Return how many batches of all processes together show every image once."""
    if not is_infinite(loader):
        return len(loader)
    sampler: Any = sampler_of(loader)
    return math.ceil(len(sampler) / (batch_size_of(loader) * processes.world_size()))


def every_image_once(dataset: Any) -> None:
    """Set ``test_mode`` on a data set and on those inside, whether or not the config says so.

    Else a bad file of a data set that replaces bad samples would count another image twice.

    Args:
        dataset: Of a validation or a test; one without ``test_mode`` is left as it is.
    """
    for part in [*getattr(dataset, "datasets", ()), getattr(dataset, "dataset", None)]:
        if part is not None:
            every_image_once(part)
    if hasattr(dataset, "test_mode"):
        dataset.test_mode = True
