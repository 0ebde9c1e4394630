"""Train in forked processes that can be killed for good, without importing PyTorch each time."""

import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from nlseg.errors import RunError, UserError
from nlseg.registry import HOOKS
from nlseg.run.runner import Runner

PATIENCE_S = 300
_BEATS = 180  # the file that a child writes its beats to


@dataclass
class Outcome:
    """How often a run was harmed, and how it took that.

    Args:
        name: What was done.
        injected: Faults.
        survived: Faults after which the run had lost nothing.
        notes: What is worth telling.
    """

    name: str
    injected: int = 0
    survived: int = 0
    notes: list[str] = field(default_factory=list)

    def fail(self, error: AssertionError) -> None:
        """Note what an assertion has found; its line where it says nothing itself."""
        line = traceback.extract_tb(error.__traceback__)[-1]
        self.notes.append(str(error) or f"{line.name}: {line.line}")

    @property
    def lost(self) -> int:
        """Count the faults that cost something."""
        return self.injected - self.survived


@HOOKS.register_module(force=True)
class Beat(Hook):
    """Write a byte to a pipe whenever the run has moved on."""

    priority = "VERY_HIGH"
    hold_at: int | None = None

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.count = 0

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self._beat(runner, b"t")

    def after_val_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self._beat(runner, b"v")

    def _beat(self, runner: Any, mark: bytes) -> None:
        os.write(self.pipe, mark)
        self.count += 1
        if self.count == Beat.hold_at:
            hold_until_asked(runner)


def hold_until_asked(runner: Any) -> None:
    """Wait until this process was asked to stop: on a busy machine it might have ended before."""
    end = time.monotonic() + PATIENCE_S
    while not runner.control.agreement.stop_asked and time.monotonic() < end:
        time.sleep(0.01)


class Child:
    """A forked training.

    Args:
        config: What to train.
        prepare: Called in the child before training, to set limits and the like.
        log_dir: Where its output goes; its run folder when not given.
        task: 'train' or 'test'.
        hold_at: Number of the beat at which it waits for a signal to stop.
    """

    def __init__(
        self,
        config: Config,
        prepare: Callable[[], None] | None = None,
        log_dir: Path | None = None,
        task: str = "train",
        hold_at: int | None = None,
    ) -> None:
        config = config.copy()
        log = log_dir or Path(config.work_dir)
        log.mkdir(parents=True, exist_ok=True)
        self.reader, writer = os.pipe()
        self._code: int | None = None
        config.custom_hooks = [*config.get("custom_hooks", []), {"type": "Beat", "pipe": _BEATS}]
        self.log = log / "child.log"
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.reader)
            Beat.hold_at = hold_at
            os.dup2(writer, _BEATS)  # one number, so that the configs of all processes are equal
            os.close(writer)
            _run_and_leave(config, self.log, prepare, task)
        os.close(writer)

    def wait_for_beats(self, count: int) -> bool:
        """Wait until the run has moved on ``count`` times; False when it ended before."""
        end = time.monotonic() + PATIENCE_S
        while count > 0:
            ready, _, _ = select.select([self.reader], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise TimeoutError(f"no beat for {PATIENCE_S} s; see {self.log}")
            data = os.read(self.reader, count)
            if not data:
                return False
            count -= len(data)
        return True

    def wait_for_words(self, words: str) -> None:
        """Wait until the run has said something."""
        end = time.monotonic() + PATIENCE_S
        while not self.log.exists() or words not in self.log.read_text():
            assert time.monotonic() < end, f"never said: {words}"
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send the child a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return the exit code; minus the signal's number for a child that was killed."""
        if self._code is None:
            while os.read(self.reader, 4096):
                pass
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.reader)
        return self._code

    def has_ended(self) -> bool:
        """Return whether the child has left."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is not None


def _run_and_leave(
    config: Config, log: Path, prepare: Callable[[], None] | None, task: str
) -> None:
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        torch.set_num_threads(1)
        if prepare is not None:
            prepare()
        getattr(Runner.from_cfg(config), task)()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except (UserError, RunError) as error:
        os.write(2, f"error: {error}\n".encode())
        code = 2 if isinstance(error, UserError) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def train_forked(config: Config, prepare: Callable[[], None] | None = None) -> int:
    """Train in a forked process and return its exit code."""
    return Child(config, prepare).wait()


def resumed(config: Config) -> Config:
    """Return the config that goes on."""
    config = config.copy()
    config.resume = True
    return config


def kill_at_random(child: Child, dice: random.Random, most_beats: int, most_s: float) -> int:
    """Kill a child at a random moment of its run and return its exit code."""
    if child.wait_for_beats(dice.randint(0, most_beats)):
        time.sleep(dice.uniform(0, most_s))
    child.signal(signal.SIGKILL)
    return child.wait()
