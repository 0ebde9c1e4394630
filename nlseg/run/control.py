"""What is decided between iterations: go on, leave out a step, save and stop, go back."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from nlseg.errors import ConfigError
from nlseg.run import distributed, resume
from nlseg.run.agreement import Agreement, Verdict
from nlseg.run.finite import FiniteGuard, RollBack
from nlseg.run.folder import FAULTS
from nlseg.run.hooks.checkpoint import CheckpointHook
from nlseg.run.hooks.ema import EMAHook
from nlseg.run.preemption import Preempted, StopRequests, parse_duration
from nlseg.run.watchdog import Watchdog


class Control:
    """Watches over a run: time limits, requests to stop, numbers that are not finite.

    Args:
        runner: The runner; its config's ``non_finite`` (policy, limit), ``time_limits`` and
            ``max_time`` are read.
    """

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.folder = Path(runner.work_dir)
        self.agreement = Agreement(distributed.device())
        policy = {"policy": "stop", "limit": 3, **runner.cfg.get("non_finite", {})}
        if set(policy) != {"policy", "limit"}:
            raise ConfigError(f"non_finite: takes policy and limit, not {', '.join(policy)}")
        self.guard = FiniteGuard(
            distributed.unwrap(runner.model),
            folder=self.folder / FAULTS,
            rank=runner.rank,
            lag=self.agreement.lag,
            **policy,
        )
        limit = runner.cfg.get("max_time")
        self.requests = StopRequests(
            self.agreement, None if limit is None else parse_duration(limit)
        )
        limits = runner.cfg.get("time_limits", {})
        self.watchdog = Watchdog(limits, self.folder / FAULTS, runner.rank)
        self.stopping = False
        self._validation_s = 0.0

    def __enter__(self) -> "Control":
        """Listen for signals and watch the time."""
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
            if verdict.non_finite:
                self.runner.logger.warning(self.guard.punish(verdict.iteration))

    def is_accumulating(self) -> bool:
        """Tell whether gradients wait for an optimizer step, so that the state is not complete."""
        wrapper = self.runner.optim_wrapper
        count = getattr(wrapper, "_inner_count", 0)
        waiting = count % getattr(wrapper, "_accumulative_counts", 1) != 0
        return waiting and count != getattr(wrapper, "_max_counts", -1)

    def leave_if_asked(self) -> None:
        """Between two iterations: save and stop, when all processes agreed to.

        Raises:
            Preempted: The state is saved.
        """
        self.requests.check_time(self._validation_s)
        if self.stopping and not self.is_accumulating():
            self._leave()

    def leave_validation_if_asked(self) -> None:
        """Between two images of a validation: stop; the validation is repeated after a resume.

        Raises:
            Preempted: The state is saved.
        """
        training = isinstance(getattr(self.runner.train_loop, "iter", None), int)
        if not training or self.is_accumulating():
            return
        if distributed.any_of(self.agreement.stop_asked):
            for hook in self.runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.put_back()
            self._leave()

    def _leave(self) -> None:
        saved = self.checkpoints().save_now(self.runner)
        raise Preempted(f"{self.requests.reason}; saved {saved}")

    def checkpoints(self) -> CheckpointHook:
        """Return the hook that saves; one that saves on request only where the config has none."""
        for hook in self.runner.hooks:
            if isinstance(hook, CheckpointHook):
                return hook
        hook = CheckpointHook(interval=-1, by_epoch=False)
        hook.before_train(self.runner)
        return hook

    def roll_back(self, request: RollBack) -> None:
        """Go back to the newest checkpoint, and on with the samples after the failing iteration.

        Args:
            request: Says which iteration failed.
        """
        runner = self.runner
        loop, happened = runner.train_loop, self.guard.happened
        self.agreement.drain()
        checkpoints = self.checkpoints()
        checkpoints.finish(runner, must=False)
        path = resume.find(checkpoints.keeper.folder, runner.logger.warning)
        target = loop.jumped + request.iteration + 1
        runner.optim_wrapper.zero_grad()
        if path is None:
            raise ConfigError("non_finite.policy: 'rollback' has no checkpoint to go back to yet")
        runner.resumed = resume.read(path)
        resume.restore(runner, runner.resumed)
        loop.jumped = target - loop.iter
        self.guard.happened = happened
        runner.optim_wrapper.initialize_count_status(runner.model, loop.iter, loop.max_iters)
        checkpoints.before_train(runner)
        runner.logger.warning(
            f"rolled back to {path.name}; iteration {loop.iter + 1} goes on with the samples after "
            f"those of iteration {request.iteration + 1}"
        )
