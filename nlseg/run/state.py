"""Where a run is, who owns what of its state, and how that becomes a checkpoint.

Each part owns its own state and offers ``state_dict`` and ``load_state_dict``: the network, the
optimizer wrapper, the schedulers, averages and other hooks, the stream of batches, and ``RunState``
for all counters. A checkpoint is made of these and nothing else, and restored through them.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mmengine
import torch
from mmengine.optim import OptimWrapper

import nlseg
from nlseg.errors import CheckpointError
from nlseg.run import processes
from nlseg.run.checkpoint import plain
from nlseg.run.loaders import batch_size_of
from nlseg.run.logs import recent_values
from nlseg.run.protocol import RunnerProtocol

_MOVING = ("params", "lr", "initial_lr", "foreach", "fused")
_NOT_KEPT = ("cfg", "dataset_meta")


@dataclass
class RunState:
    """The counters of a run; the training loop advances them, everybody else reads.

    Args:
        batch_total: Samples of one iteration over all processes.
        iteration: Iterations trained.
        epoch: Epochs trained; 0 where iterations are counted.
        first_sample: Number of the sample that iteration 0 would begin with; not 0 where the batch
            size has changed on the way.
        jumped: Iterations whose samples were left out by roll backs.
        validated: Iterations or epochs trained at the latest validation.
        skipped: Iterations left out, or gone back from, because a number was not finite.
        best: Best scores so far, as ``BestScores.kept``.
    """

    batch_total: int = 1
    iteration: int = 0
    epoch: int = 0
    first_sample: int = 0
    jumped: int = 0
    validated: int = 0
    skipped: int = 0
    best: dict[str, dict[str, Any]] = field(default_factory=dict)

    def samples_after(self, iteration: int) -> int:
        """Return the number of the first sample that ``iteration`` iterations leave unseen."""
        return self.first_sample + (iteration + self.jumped) * self.batch_total

    def stream(self) -> dict[str, int]:
        """Return where the stream of batches is, as ``BatchStream.state_dict``."""
        return {"iteration": self.iteration + self.jumped, "first_sample": self.first_sample}

    def state_dict(self, iteration: int, epoch: int) -> dict[str, Any]:
        """Return what a checkpoint's ``meta`` says about the place of a run.

        Args:
            iteration: Iterations trained; a hook saves before the loop has counted the present one.
            epoch: Epochs trained.
        """
        return {
            "iter": iteration,
            "epoch": epoch,
            "samples": self.samples_after(iteration),
            "jumped": self.jumped,
            "non_finite": self.skipped,
            "best": self.best,
        }

    def load_state_dict(self, meta: Mapping[str, Any], *, epoch_length: int | None = None) -> None:
        """Go to where a checkpoint was written; the stream continues at its first unseen sample.

        Args:
            meta: The ``meta`` of a checkpoint.
            epoch_length: Iterations of an epoch now; None where iterations are counted.
        """
        self.iteration, self.epoch = int(meta["iter"]), int(meta.get("epoch", 0))
        self.jumped = int(meta.get("jumped", 0))
        self.skipped = int(meta.get("non_finite", 0))
        self.best = dict(meta.get("best", {}))
        self.first_sample = 0
        if epoch_length is not None:
            self.iteration = self._iteration_now(meta.get("settings", {}), epoch_length)
            if not 0 <= self.iteration - self.epoch * epoch_length <= epoch_length:
                raise CheckpointError(
                    f"meta.epoch: {self.epoch} epochs of {epoch_length} iterations do not fit to "
                    f"meta.iter {self.iteration}; the file was changed"
                )
        elif "samples" in meta:
            self.first_sample = int(meta["samples"]) - self.samples_after(self.iteration)

    def _iteration_now(self, before: Mapping[str, Any], epoch_length: int) -> int:
        """Count iterations anew where epochs have another length than before."""
        if not before.get("max_epochs"):
            return self.iteration
        length_before: int = before["max_iters"] // before["max_epochs"]
        batch_before = before.get("batch_size", self.batch_total) * before.get("processes", 1)
        samples = (self.iteration - self.epoch * length_before) * batch_before
        return int(self.epoch * epoch_length + math.ceil(samples / self.batch_total))

    def leave_out(self, iteration: int, before: "RunState") -> None:
        """Continue, after a roll back, with the samples that follow those of a failed iteration.

        Args:
            iteration: The iteration that failed.
            before: The counters as they were then.
        """
        self.jumped = before.jumped + iteration + 1 - self.iteration
        self.skipped = before.skipped


def collect(
    runner: RunnerProtocol,
    *,
    iteration: int,
    epoch: int,
    optimizer: bool = True,
    schedule: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect a run's state under OpenMMLab's keys; tensors are still those of the run.

    Args:
        runner: The runner.
        iteration: Iterations trained.
        epoch: Epochs trained.
        optimizer: Whether to include the optimizer.
        schedule: Whether to include the parameter schedulers.
        extra: More entries of ``meta``.
    """
    place = runner.state.state_dict(iteration, epoch)
    checkpoint: dict[str, Any] = {
        "meta": {**_origin(runner), **(extra or {}), **place},
        "state_dict": dict(processes.unwrap(runner.model).state_dict()),
        "message_hub": _messages(runner.message_hub),
    }
    if optimizer and isinstance(runner.optim_wrapper, OptimWrapper):
        checkpoint["optimizer"] = runner.optim_wrapper.state_dict()
        checkpoint["meta"]["optimizer_entries"] = _entries(checkpoint["optimizer"])
    if schedule and runner.param_schedulers is not None:
        checkpoint["param_schedulers"] = _scheduler_states(runner.param_schedulers)
    if hooks := hook_states(runner):
        checkpoint["hooks"] = hooks
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    return checkpoint


def _entries(state: Mapping[str, Any]) -> int:
    """Count the parameters of which an optimizer, or one of several by name, keeps something."""
    own = state.get("state")
    parts = [own] if own is not None else [part.get("state", {}) for part in state.values()]
    return sum(map(len, parts))


def _origin(runner: RunnerProtocol) -> dict[str, Any]:
    """Return what ``meta`` says about where a checkpoint comes from."""
    dataset = runner.train_dataloader.dataset
    return {
        "seed": runner.seed,
        "cfg": runner.config_text,
        "dataset_meta": plain(dict(getattr(dataset, "metainfo", None) or {})),
        "experiment_name": runner.experiment_name,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "mmengine_version": mmengine.__version__,
        "nlseg_version": nlseg.__version__,
        "torch_version": str(torch.__version__),
        "world_size": processes.world_size(),
        "settings": describe_settings(runner),
        "identity": dict(runner.facts),
        "recent": recent_values(runner.message_hub, int(runner.log_processor.window_size)),
    }


def _messages(hub: Any) -> dict[str, Any]:
    """Keep the message hub's plain facts, in the form that mmengine reads; no history."""
    infos = {
        key: value
        for key, value in hub.runtime_info.items()
        if key not in _NOT_KEPT and isinstance(value, (bool, int, float, str))
    }
    return {"log_scalars": {}, "runtime_info": infos, "resumed_keys": dict.fromkeys(infos, True)}


def _scheduler_states(schedulers: Any) -> Any:
    """Collect the states of a list of schedulers, or of a dict of lists."""
    if isinstance(schedulers, Mapping):
        return {name: _scheduler_states(items) for name, items in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers]


def hook_states(runner: RunnerProtocol) -> dict[str, Any]:
    """Collect the states of hooks that offer ``state_dict``, by class and place among its like."""
    return {name: plain(hook.state_dict()) for name, hook in hooks_with_state(runner).items()}


def hooks_with_state(runner: RunnerProtocol) -> dict[str, Any]:
    """Name the hooks that offer ``state_dict`` and ``load_state_dict``."""
    named: dict[str, Any] = {}
    for hook in runner.hooks:
        if hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict"):
            kind = type(hook).__name__
            number = sum(name.partition(" ")[0] == kind for name in named)
            named[f"{kind} {number}" if number else kind] = hook
    return named


def describe_settings(runner: RunnerProtocol) -> dict[str, Any]:
    """Return the settings that decide how training continues, as plain values."""
    loader: Any = runner.train_dataloader
    return {
        "max_iters": runner.max_iters,
        "max_epochs": runner.max_epochs,
        "optimizer": _of_optimizer(runner.optim_wrapper),
        "param_scheduler": plain(runner.scheduler_config),
        "accumulation": getattr(runner.optim_wrapper, "accumulative_counts", 1),
        "batch_size": batch_size_of(loader),
        "processes": processes.world_size(),
        "images": len(loader.dataset),
        "dataset": type(loader.dataset).__name__,
        "seed": runner.seed,
    }


def _of_optimizer(wrapper: Any) -> dict[str, Any]:
    optimizer = getattr(wrapper, "optimizer", None)
    if optimizer is None:
        return {}
    groups = [
        {
            **{key: plain(value) for key, value in group.items() if key not in _MOVING},
            "lr": group.get("initial_lr", group.get("lr")),
        }
        for group in optimizer.param_groups
    ]
    same = all(group == groups[0] for group in groups)
    return {"type": type(optimizer).__name__, "groups": groups[:1] if same else groups}
