"""What is decided between iterations: train on, leave out a step, save and stop, roll back.

A request to stop only sets a flag. All processes agree on it (see ``step.Agreement``), finish the
same iteration, a checkpoint is written, and the process exits with code 143, which tells a requeue
wrapper that the run is to be resumed. The training loop notes for ``Watchdog`` what it is doing.
"""

import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper as MMOptimWrapper
from mmengine.optim import OptimWrapperDict
from torch import Tensor

from nlseg.errors import ConfigError
from nlseg.run import processes, resume
from nlseg.run.device import seed_iteration
from nlseg.run.finite import FiniteGuard, RollBack
from nlseg.run.folder import FAULTS
from nlseg.run.loaders import note_stop
from nlseg.run.processes import Agreement, Verdict
from nlseg.run.protocol import RunnerProtocol

EXIT_CODE = 143
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
DEFAULTS_S = {"start": 3600.0, "iteration": 1800.0, "validation": 3600.0, "saving": 3600.0}
_ONE_EVENT_S = 3.0
_GRACE_S = 3.0
_BACKUP_S = 120.0
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
    """Listens for signals that ask for a stop, and watches the limit of time, during training.

    SIGHUP, which says that the terminal is gone, is left alone where ``nohup`` has turned it off.

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
        self.validation_s: float | None = None

    def __enter__(self) -> "StopRequests":
        """Take the signals over; only a main thread can."""
        note_stop(False)
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            for number in SIGNALS[: len(SIGNALS) - ignored]:
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
            _say(f"\n{name} again: stops at once, without saving\n")
            os._exit(128 + number)
        if self._first is None:  # launchers send one event twice: to the group and to each process
            self._first = now
            note_stop(True)
            _say(f"\n{name}: finishes this iteration, saves and stops\n")
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

    def validation_takes(self, batches: int) -> float:
        """Return the seconds that the next validation will take.

        Args:
            batches: Its batches; before the first validation each counts as one iteration.
        """
        return self._longest * batches if self.validation_s is None else self.validation_s

    def note_validation(self, seconds: float) -> None:
        """Note how long a validation took; it is no part of an ordinary stretch of work."""
        self.validation_s = seconds
        self._last_check = time.monotonic()


def _say(text: str) -> None:
    """Write to stderr from a signal handler, or not at all where the terminal is gone."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


class Watchdog:
    """Ends the process when one section of its work takes longer than its limit.

    A thread looks once a second at what the training loop has noted. When a limit is over, the
    stacks of all threads go to a file and the process ends with code 1, so that its launcher can
    start it again. Should the thread itself be unable to run, because native code holds Python's
    lock, a timer in C does the same.

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
        _say(text)
        time.sleep(_GRACE_S)  # so that other processes, which wait for this one, write theirs
        os._exit(1)


class Control:
    """Watches over a run: time limits, requests to stop, numbers that are not finite.

    Args:
        runner: The runner; its config's ``non_finite`` (policy, limit), ``time_limits`` and
            ``max_time`` are read.
    """

    def __init__(self, runner: RunnerProtocol) -> None:
        self.runner = runner
        self.agreement = Agreement(processes.device())
        faults = Path(runner.work_dir) / FAULTS
        policy = {"policy": "stop", "limit": 3, **runner.cfg.get("non_finite", {})}
        if set(policy) != {"policy", "limit"}:
            raise ConfigError(f"non_finite: takes policy and limit, not {', '.join(policy)}")
        self.guard = FiniteGuard(
            processes.unwrap(runner.model), runner.state,
            folder=faults, rank=runner.rank, lag=self.agreement.lag, **policy,
        )  # fmt: skip
        limit = runner.cfg.get("max_time")
        self.requests = StopRequests(
            self.agreement, None if limit is None else parse_duration(limit)
        )
        self.watchdog = Watchdog(runner.cfg.get("time_limits", {}), faults, runner.rank)
        self.training = self.stopping = self.saving = False

    def __enter__(self) -> "Control":
        """Listen for signals and watch the time of a training."""
        self.training = True
        self.requests.__enter__()
        self.watchdog.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop both."""
        self.watchdog.__exit__(kind, error, trace)
        self.requests.__exit__(kind, error, trace)
        self.training = False

    def watch(self, section: str) -> None:
        """Note what the run does from now on; see ``Watchdog``."""
        self.watchdog.enter(section)

    def settle(self, batch: Any, outputs: Mapping[str, Any] | None) -> None:
        """End the work of an iteration: report and agree.

        Args:
            batch: What was trained on.
            outputs: Losses by name.

        Raises:
            NonFiniteError: A number was not finite and the policy is to stop.
            RollBack: ... and the policy is to roll back.
        """
        outputs = outputs or {}
        runner = self.runner
        if self.agreement.reduced is None:  # an optimizer wrapper that knows nothing of agreements
            loss = outputs.get("loss")
            bad = ~torch.isfinite(loss.detach()).all() if isinstance(loss, Tensor) else None
            self.agreement.reduce(bad)
        norms = getattr(runner.optim_wrapper, "gradient_norms", None)
        self.guard.after_iteration(runner.iter, batch, outputs, norms)
        self._act(self.agreement.close(runner.iter))

    def settle_all(self) -> None:
        """Wait for the decisions that are still on their way; before something is saved."""
        self._act(self.agreement.drain())

    def _act(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            self.stopping = self.stopping or verdict.stop
            self.saving = self.saving or verdict.save
            if verdict.non_finite:
                self.runner.logger.warning(self.guard.handle(verdict.iteration))

    def is_accumulating(self) -> bool:
        """Return whether gradients wait for an optimizer step, so that the state is incomplete."""
        wrapper = self.runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            return not all(part.should_update() for part in wrapper.values())
        return isinstance(wrapper, MMOptimWrapper) and not wrapper.should_update()

    def leave_if_asked(self, iteration: int | None = None) -> None:
        """Between two iterations: save and stop, when all processes agreed to.

        Args:
            iteration: Iterations trained, where the loop has not counted the present one yet.

        Raises:
            Preempted: The state is saved.
        """
        if self.requests.max_time_s is not None:
            self.requests.check_time(self._reserve_s())
        if self.saving and not self.is_accumulating():
            self.saving = False
            self.runner.checkpoints.save_again(self.runner, iteration)
        if self.stopping and not self.is_accumulating():
            self._leave(iteration)

    def _reserve_s(self) -> float:
        """Return the seconds that a validation will take before time is looked at again."""
        loop, loader = self.runner.train_loop, getattr(self.runner.val_loop, "dataloader", None)
        due = getattr(loop, "validation_is_due", None)
        if due is None or loader is None or not due():
            return 0.0
        return self.requests.validation_takes(len(loader))

    def leave_validation_if_asked(self) -> None:
        """Between two images of a validation: stop; the validation is repeated after a resume.

        Raises:
            Preempted: The state is saved.
        """
        if not self.training or self.is_accumulating():
            return
        self.requests.check_time()
        if processes.any_of(self.agreement.stop_asked):
            self.runner.call_hook("after_val_interrupted")
            self._leave()

    def _leave(self, iteration: int | None = None) -> None:
        saved = self.runner.checkpoints.save_now(self.runner, iteration)
        if not self.agreement.stop_asked:
            processes.tell_launcher()
        raise Preempted(f"{self.requests.reason}; saved {saved}")

    def roll_back(self, request: RollBack) -> None:
        """Go back to the newest checkpoint, and on with the samples after the failing iteration.

        Args:
            request: Says which iteration failed.
        """
        runner, state = self.runner, self.runner.state
        before = replace(state)
        self.agreement.drain()
        runner.checkpoints.finish(runner, must=False)
        places = runner.checkpoints.keeper.places
        path = resume.find(places.folder, runner.logger.warning, places.fallbacks)
        runner.optim_wrapper.zero_grad()
        if path is None:  # the one of iteration 0 was taken away
            raise ConfigError("non_finite.policy: 'rollback' has no checkpoint to go back to")
        runner.restore(resume.read(path))
        state.leave_out(request.iteration, before)
        runner.optim_wrapper.initialize_count_status(
            runner.model, state.iteration, runner.max_iters
        )
        runner.checkpoints.before_train(runner)
        runner.logger.warning(
            f"rolled back to {path.name}; iteration {state.iteration + 1} goes on with the samples "
            f"after those of iteration {request.iteration + 1}"
        )


class OpenUserLoop(Hook):
    """Does around an iteration of a user's own training loop what nlseg's loop does itself."""

    priority = "HIGHEST"

    def before_train_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Watch the time, seed what the network draws, keep the running statistics."""
        runner.control.watch("iteration")
        seed_iteration(runner.seed, runner.iter, runner.rank)
        runner.control.guard.before_iteration()

    def after_train_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Agree with the other processes."""
        runner.control.settle(data_batch, outputs)


class CloseUserLoop(Hook):
    """Stops a user's own training loop between two iterations, or epochs, where that was asked."""

    priority = "LOWEST"

    def after_train_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save and stop a loop that counts iterations."""
        if runner.max_epochs <= 1:
            runner.control.leave_if_asked(runner.iter + 1)

    def after_train_epoch(self, runner: RunnerProtocol) -> None:
        """Save and stop a loop that counts epochs."""
        if runner.max_epochs > 1:
            runner.control.leave_if_asked(runner.iter)
