"""Requests to stop: SIGTERM, SIGINT, SIGUSR1 and a limit of time.

A request only sets a flag; all processes agree on it (see ``agreement``), finish the same
iteration, a checkpoint is written and the process leaves with exit code 143, which tells a requeue
wrapper that the run wants to go on.
"""

import os
import re
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from nlseg.errors import ConfigError
from nlseg.run.agreement import Agreement
from nlseg.run.workers import note_stop

EXIT_CODE = 143
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_ONE_EVENT_S = 3.0
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class Preempted(SystemExit):
    """The run was stopped on request after its state was saved; exit code 143.

    Args:
        reason: Who asked, for the log.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_CODE)
        self.reason = reason


def parse_duration(text: str | float) -> float:
    """Return seconds from '3:50:00', '50:00', '1d2h', '90m' or a plain number of seconds."""
    text = str(text).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"(\d+:){1,2}\d+", text):
        return float(sum(int(part) * 60**i for i, part in enumerate(reversed(text.split(":")))))
    if re.fullmatch(r"(\d+[dhms])+", text):
        return float(sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)([dhms])", text)))
    raise ConfigError(f"max_time: '{text}' is no duration; write 3:50:00, 90m, 1d2h or seconds")


class StopRequests:
    """Listens for requests to stop while training runs.

    Args:
        agreement: Where the request is taken to the other processes.
        max_time_s: Seconds after which to stop; saving is to be over by then.
    """

    def __init__(self, agreement: Agreement, max_time_s: float | None = None) -> None:
        self.agreement = agreement
        self.max_time_s = max_time_s
        self.reason = "another process asked"
        self.started = time.monotonic()
        self._first: float | None = None
        self._before: dict[int, Any] = {}
        self._longest = 0.0
        self._last_check = self.started

    def __enter__(self) -> "StopRequests":
        """Take the signals over; only a main thread can."""
        note_stop(False)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        now = time.monotonic()
        if self._first is not None and now - self._first > _ONE_EVENT_S:
            os.write(2, f"\n{name} again: stops at once, without saving\n".encode())
            os._exit(128 + number)
        if self._first is None:  # launchers send one event twice: to the group and to each process
            self._first = now
            note_stop(True)
            os.write(2, f"\n{name}: finishes this iteration, saves and stops\n".encode())
            self.ask(name)

    def ask(self, reason: str) -> None:
        """Ask for a stop."""
        self.reason = reason
        self.agreement.ask_to_stop()

    def check_time(self, reserve_s: float = 0.0) -> None:
        """Ask for a stop when the next stretch of work might end after the limit of time.

        Args:
            reserve_s: Seconds that the work to come may take beyond an ordinary iteration.
        """
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last_check)
        self._last_check = now
        if self.max_time_s is None or self.agreement.stop_asked:
            return
        if now - self.started + self._longest + reserve_s > self.max_time_s:
            self.ask(f"--max-time {self.max_time_s:.0f} s")
