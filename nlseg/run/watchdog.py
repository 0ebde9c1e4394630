"""Time limits: a run that hangs writes where, and ends so that its launcher can start it again.

The training loop only notes what it is doing. A thread looks at the note once a second. When a
limit is over, the stacks of all threads go to a file and the process ends with code 1. Should the
thread itself be unable to run, because native code holds Python's lock, a timer in C does the same.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from nlseg.errors import ConfigError

DEFAULTS_S = {"start": 3600.0, "iteration": 1800.0, "validation": 3600.0, "saving": 3600.0}
_GRACE_S = 3.0
_BACKUP_S = 120.0


class Watchdog:
    """Ends the process when one section of its work takes longer than its limit.

    Args:
        limits_s: Seconds for 'start' (up to the end of the first iteration), 'iteration',
            'validation' (one batch, or computing the scores) and 'saving'; None is no limit.
        folder: Where stacks are written.
        rank: Number of this process, part of the file's name.
    """

    def __init__(self, limits_s: Mapping[str, float | None], folder: Path, rank: int) -> None:
        unknown = set(limits_s) - set(DEFAULTS_S)
        if unknown:
            raise ConfigError(
                f"time_limits.{sorted(unknown)[0]}: unknown; choose from {', '.join(DEFAULTS_S)}"
            )
        self.limits_s = {**DEFAULTS_S, **limits_s}
        self.path = folder / f"stacks_rank_{rank}.txt"
        self.rank = rank
        self.warmed_up = False
        self._section: tuple[str, float] = ("start", time.monotonic())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Start watching; SIGUSR2 writes the stacks to stderr at any time."""
        self.enter("start")
        faulthandler.register(signal.SIGUSR2, all_threads=True, chain=False)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching."""
        self._done.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGUSR2)

    def enter(self, section: str) -> None:
        """Note that a section begins; the first iterations count as the start."""
        if section == "iteration" and not self.warmed_up:
            self.warmed_up = self._section[0] == "iteration"
        self._section = (section, time.monotonic())

    def limit_s(self) -> float | None:
        """Return the limit of the present section."""
        name = self._section[0]
        return self.limits_s["start" if name == "iteration" and not self.warmed_up else name]

    def _watch(self) -> None:
        while not self._done.wait(1.0):
            section, since = self._section
            limit = self.limit_s()
            if limit is None:
                faulthandler.cancel_dump_traceback_later()
                continue
            faulthandler.dump_traceback_later(limit + _BACKUP_S, exit=True)
            if time.monotonic() - since > limit and self._section == (section, since):
                self._bark(section, limit)

    def _bark(self, section: str, limit: float) -> None:
        text = f"rank {self.rank}: {section} took longer than {limit:.0f} s; stacks: {self.path}\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        os.write(2, text.encode())
        time.sleep(_GRACE_S)  # so that other processes, which wait for this one, write theirs
        os._exit(1)
