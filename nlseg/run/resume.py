"""Go on from a checkpoint: find it, restore the run's state, and list what has changed since."""

import math
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any

from mmengine.optim import _ParamScheduler

from nlseg.errors import CheckpointError, ConfigError
from nlseg.run import checkpoint, processes
from nlseg.run.checkpoint import point_to, read_record
from nlseg.run.folder import set_aside
from nlseg.run.logs import restore_values
from nlseg.run.processes import restart_count
from nlseg.run.save import CheckpointHook
from nlseg.run.state import describe_settings
from nlseg.table import format_table
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import load_strictly, load_what_fits, weights_in

SCHEDULE = ("max_iters", "max_epochs", "optimizer", "param_scheduler", "accumulation")


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ: name to (before, now)."""
    before, now = _flat(old), _flat(new)
    names = [*now, *(name for name in before if name not in now)]
    return {
        name: (before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    }


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(_flat(item, f"{name}.{key}" if name else str(key)))
    return flat


def schedule_changed(changes: Mapping[str, Any]) -> bool:
    """Tell whether learning rates have to be computed anew."""
    return any(name.split(".")[0] in SCHEDULE for name in changes)


def table(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Write the changed settings as a table."""
    rows = [(name, str(before), str(now)) for name, (before, now) in changes.items()]
    return indent(format_table(["setting", "in the checkpoint", "now"], rows, rule=False), "  ")


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
    if processes.is_main():
        path, skipped = checkpoint.newest(folder)
        for bad, reason in skipped:
            warn(f"{bad}: {reason}; it is passed over")
        found = path.name if path else ""
        if not found and skipped:
            found = "\0"
    found = processes.broadcast_text(found)
    if found == "\0":
        raise CheckpointError(f"{folder}: no checkpoint is whole; see the warnings above")
    return folder / found if found else None


def check(path: Path) -> None:
    """Refuse a file that differs from the JSON beside it or, without one, from its own checksums.

    Raises:
        CheckpointError: It does.
    """
    reason = None
    if processes.is_main() and path.is_file():
        if read_record(path) is not None:
            reason = checkpoint.damage(path)
        elif zipfile.is_zipfile(path):
            reason = checkpoint.broken_entry(path)
    if text := processes.broadcast_text(reason or ""):
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
    now = describe_settings(runner)
    before = meta.get("settings", {})
    changes = changed(before, now) if before else {}
    if changes:
        runner.logger.warning(f"settings that have changed:\n{table(changes)}")
    _restore_place(runner.train_loop, meta, before, str(resumed.path))
    runner.call_hook("after_load_checkpoint", checkpoint=content)
    source = str(resumed.path)
    load_strictly(processes.unwrap(runner.model), weights_in(content, source), source)
    anew = schedule_changed(changes) or not before
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


def choose_start(runner: Any) -> None:
    """Decide what training goes on from, before anything that depends on the seed is built.

    A run that torchrun or Slurm has started again goes on by itself, from what it has saved since
    rather than from the file that it was first told to go on from.
    """
    folder = checkpoint_place(runner)
    given = Path(runner._load_from) if runner._resume and runner._load_from else None
    path = None
    if restart_count() > 0 or (runner._resume and given is None):
        path = find(folder, runner.logger.warning)
    if path is None and given is None:
        _begin_anew(runner, folder)
        return
    runner._resume = True
    if path is not None:
        runner.resumed = read(path)
    elif given is not None:
        runner.resumed = _branch_off(runner, folder, given)
    seed = runner.resumed.content["meta"].get("seed")
    if runner._randomness_cfg.get("seed") is None and seed is not None:
        runner.set_randomness(**{**runner._randomness_cfg, "seed": int(seed)})


def checkpoint_place(runner: Any) -> Path:
    """Return the folder that a run's checkpoints go to."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            return hook.place(runner)
    return Path(runner.work_dir)


def _branch_off(runner: Any, folder: Path, given: Path) -> Resumed:
    """Read the file that a run was told to go on from, and let nothing else come before it."""
    check(given)
    resumed = read(given)
    if given.parent.resolve() != folder.resolve():
        _make_room(runner, folder)
    elif processes.is_main():
        point_to(given)  # newer ones belong to a branch that is left
    processes.barrier()
    return resumed


def _make_room(runner: Any, folder: Path) -> None:
    if processes.is_main():
        for place in {folder, Path(runner.work_dir)}:
            if aside := set_aside(place):
                runner.logger.warning(f"files of an earlier run were moved to {aside}")
    processes.barrier()


def _begin_anew(runner: Any, folder: Path) -> None:
    if runner._resume:
        runner.logger.warning(f"{folder}: no checkpoint to resume; training begins anew")
    else:
        _make_room(runner, folder)
    runner._resume = False
    processes.barrier()


def load_weights(
    runner: Any, source: str, *, strict: bool, revise_keys: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Load weights into a runner's model and say what was used.

    Args:
        runner: The runner.
        source: File, https address or published name.
        strict: Whether every weight must fit.
        revise_keys: Pairs (pattern, replacement) applied to the file's keys.

    Returns:
        The content of the file.

    Raises:
        CheckpointError: The file cannot be read, or does not fit.
    """
    content = read_checkpoint(source)
    weights = weights_in(content, source)
    for pattern, replacement in revise_keys:
        weights = {re.sub(pattern, replacement, key): w for key, w in weights.items()}
    content["state_dict"] = weights
    runner.call_hook("after_load_checkpoint", checkpoint=content)
    model = processes.unwrap(runner.model)
    finite = bool(runner.cfg.get("load_finite", True))
    if strict:
        load_strictly(model, weights, source, finite=finite)
        runner.logger.info(f"{source}: all {len(weights)} weights were loaded")
    else:
        runner.logger.info(load_what_fits(model, weights, source, finite=finite))
    return content
