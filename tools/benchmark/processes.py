"""Work in processes of its own: nothing that ran before counts, and nothing that dies takes others.

A server process imports PyTorch once and is copied for each piece of work, before it has computed
anything.
"""

import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from benchmark.machine import available_memory
from nlseg.errors import UserError

_PRELOADED = ["benchmark.measure", "benchmark.networks"]
_SHARE = 0.9


@dataclass
class Outcome:
    """What became of a piece of work.

    Args:
        value: What it returned.
        failure: Why it did not, in a line.
    """

    value: Any = None
    failure: str | None = None


def in_new_process(work: Callable[[], Any], device: str) -> Outcome:
    """Run picklable work in a new process.

    Args:
        work: What to run; its result must be picklable.
        device: 'cpu' or 'cuda'. On the CPU it may not take more memory than is free.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(_PRELOADED)
        with _path_of_this_process():
            forkserver.ensure_running()
    receiver, sender = context.Pipe(duplex=False)
    limit = int(available_memory() * _SHARE) if device == "cpu" else None
    process = context.Process(target=_serve, args=(sender, work, limit))
    process.start()
    sender.close()
    try:
        outcome: Outcome = receiver.recv()
    except EOFError:
        process.join()
        outcome = Outcome(failure=_how_it_died(process.exitcode))
    process.join()
    return outcome


@contextmanager
def _path_of_this_process() -> Iterator[None]:
    """Let a process that is started look for modules where this one does.

    The server of Python 3.11 does not, and what it cannot find it leaves to each of its copies.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _serve(sender: Connection, work: Callable[[], Any], limit: int | None) -> None:
    if limit is not None:
        _limit_memory(limit)
    try:
        outcome = Outcome(work())
    except (RuntimeError, MemoryError, NotImplementedError, UserError) as error:
        outcome = Outcome(failure=_why(error))
    except Exception:
        outcome = Outcome(failure=traceback.format_exc())
    sender.send(outcome)


def _limit_memory(limit: int) -> None:
    with open("/proc/self/statm") as file:
        reserved = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (reserved + limit, reserved + limit))


def _why(error: BaseException) -> str:
    text = str(error).strip()
    full = isinstance(error, MemoryError) or "memory" in text.lower()
    if full:
        return "out of memory"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"[:200]


def _how_it_died(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed ({name})" + (", out of memory" if name == "SIGKILL" else "")
    return f"ended with code {code}"
