"""Go on from a checkpoint: find it, restore the run's state, and tell what has changed since."""

import math
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.optim import _ParamScheduler

from nlseg.errors import CheckpointError, ConfigError
from nlseg.run import changes as settings_of
from nlseg.run import checkpoint_folder, distributed
from nlseg.run.checkpoint import read_record
from nlseg.run.logs.history import restore_values
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import load_strictly, weights_in

_FRESH = ("fused", "foreach", "capturable", "differentiable")


@dataclass
class Resumed:
    """What a run goes on from.

    Args:
        path: The checkpoint; None for a run from the beginning.
        content: What the file holds; emptied once it is restored.
        best: Best scores up to that point, as ``BestScores.kept``.
        scores: Scores of this very checkpoint, where it has been validated.
        progress: What checkpoints count, at that point.
    """

    path: Path | None = None
    content: dict[str, Any] = field(default_factory=dict)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    progress: int = 0


def find(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """Find the newest whole checkpoint of a run folder; all processes get the same one."""
    found = ""
    if distributed.is_main():
        path, skipped = checkpoint_folder.newest(folder)
        for bad, reason in skipped:
            warn(f"{bad}: {reason}; it is passed over")
        found = path.name if path else ""
        if not found and skipped:
            found = "\0"
    found = distributed.broadcast_text(found)
    if found == "\0":
        raise CheckpointError(f"{folder}: no checkpoint is whole; see the warnings above")
    return folder / found if found else None


def check(path: Path) -> None:
    """Refuse a file that differs from the JSON beside it or, without one, from its own checksums.

    Raises:
        CheckpointError: It does.
    """
    reason = None
    if distributed.is_main() and path.is_file():
        if read_record(path) is not None:
            reason = checkpoint_folder.damage(path)
        elif zipfile.is_zipfile(path):
            reason = checkpoint_folder.broken_entry(path)
    if text := distributed.broadcast_text(reason or ""):
        raise CheckpointError(f"{path}: {text}; see what else is in {path.parent}")


def read(path: Path) -> Resumed:
    """Read the checkpoint to go on from.

    Raises:
        CheckpointError: It cannot be read, or holds weights only.
    """
    content = read_checkpoint(path)
    meta = content.get("meta", {})
    if "optimizer" not in content or not isinstance(meta, Mapping) or "iter" not in meta:
        raise CheckpointError(
            f"{path}: holds weights but no optimizer, so no run can go on from it; to start a new "
            "run from these weights use load_from instead of resume"
        )
    record = read_record(path)
    scores = record.scores if record is not None and record.iter == meta["iter"] else {}
    return Resumed(path, content, dict(meta.get("best", {})), scores)


def restore(runner: Any, resumed: Resumed) -> None:
    """Put a run into the state of its checkpoint.

    Settings that have changed since are listed; learning rates are computed anew from the new
    ones, and no sample is left out or seen twice when the batch size has changed.

    Raises:
        CheckpointError: The model, the optimizer or the length of training do not fit.
    """
    content, meta = resumed.content, resumed.content["meta"]
    now = settings_of.describe_settings(runner)
    before = meta.get("settings", {})
    changes = settings_of.changed(before, now) if before else {}
    if changes:
        runner.logger.warning(f"settings that have changed:\n{settings_of.table(changes)}")
    _restore_place(runner.train_loop, meta, before, str(resumed.path))
    runner.call_hook("after_load_checkpoint", checkpoint=content)
    source = str(resumed.path)
    load_strictly(distributed.unwrap(runner.model), weights_in(content, source), source)
    anew = settings_of.schedule_changed(changes) or not before
    _restore_optimizer(runner.optim_wrapper, content["optimizer"], source, anew=anew)
    if runner.param_schedulers is not None:
        states = content.get("param_schedulers")
        if anew or states is None:
            _replay(runner.param_schedulers, runner.train_loop)
        else:
            _load_schedulers(runner.param_schedulers, states)
    for key, value in content.get("message_hub", {}).get("runtime_info", {}).items():
        if isinstance(value, (bool, int, float, str)):
            runner.message_hub.update_info(key, value)
    restore_values(runner.message_hub, meta.get("recent", {}))
    runner.control.guard.happened = int(meta.get("non_finite", 0))
    resumed.progress = runner.train_loop.progress()
    runner.train_loop.validated = resumed.progress if resumed.scores else 0
    resumed.content = {}


def _restore_place(
    loop: Any, meta: Mapping[str, Any], before: Mapping[str, Any], source: str
) -> None:
    """Set the counters; the stream goes on at the first sample not trained on."""
    iteration, epoch = int(meta["iter"]), int(meta.get("epoch", 0))
    batch = loop.batch_total
    batch_before = before.get("batch_size", batch) * before.get("processes", 1) if before else batch
    if hasattr(loop, "epoch_length") and before.get("max_epochs"):
        length = before["max_iters"] // before["max_epochs"]
        samples = (iteration - epoch * length) * batch_before
        iteration = epoch * loop.epoch_length + math.ceil(samples / batch)
    loop._iter, loop._epoch = iteration, epoch
    loop.jumped = int(meta.get("jumped", 0))
    loop.first_sample = 0
    if "samples" in meta and not hasattr(loop, "epoch_length"):
        loop.first_sample = int(meta["samples"]) - (iteration + loop.jumped) * batch
    if loop.progress() > loop.goal():
        raise CheckpointError(
            f"{source}: has trained for {loop.progress()}, more than the {loop.goal()} of "
            "train_cfg; raise max_iters (max_epochs), or test this checkpoint"
        )


def _restore_optimizer(wrapper: Any, state: dict[str, Any], source: str, *, anew: bool) -> None:
    fresh = [
        {key: value for key, value in group.items() if key != "params"}
        for group in wrapper.optimizer.param_groups
    ]
    try:
        wrapper.load_state_dict(dict(state))
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{source}: its optimizer does not fit: {error}") from error
    for group, values in zip(wrapper.optimizer.param_groups, fresh, strict=True):
        group.update({key: v for key, v in values.items() if anew or key in _FRESH})


def _load_schedulers(schedulers: Any, states: Any) -> None:
    if isinstance(schedulers, Mapping):
        for name, items in schedulers.items():
            _load_schedulers(items, states[name])
        return
    for scheduler, state in zip(schedulers, states, strict=True):
        scheduler.load_state_dict(state)


def _replay(schedulers: Any, loop: Any) -> None:
    """Step fresh schedulers to where training is, as if it had run with them from the start."""
    items = [s for group in schedulers.values() for s in group] if isinstance(
        schedulers, Mapping
    ) else schedulers  # fmt: skip
    length = getattr(loop, "epoch_length", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "step before the optimizer's"
        for iteration in range(1, loop.iter + 1):
            _step(items, by_epoch=False)
            if length and iteration % length == 0:
                _step(items, by_epoch=True)


def _step(schedulers: list[_ParamScheduler], *, by_epoch: bool) -> None:
    for scheduler in schedulers:
        if scheduler.by_epoch == by_epoch:
            if getattr(scheduler, "need_val_args", False):
                raise ConfigError(
                    f"{type(scheduler).__name__}: depends on past scores and cannot be computed "
                    "anew; resume with unchanged settings"
                )
            scheduler.step()
