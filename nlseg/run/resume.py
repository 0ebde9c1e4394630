"""Resume a run: choose a checkpoint, restore each part's state, list what has changed since."""

import os
import re
import socket
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import torch
from mmengine.optim import OptimWrapperDict

from nlseg.errors import CheckpointError, ConfigError
from nlseg.files import link_or_copy, reading_again, write_file
from nlseg.run import checkpoint, processes
from nlseg.run.checkpoint import point_to, read_record
from nlseg.run.content import (
    check_average,
    check_meta,
    check_optimizers,
    check_schedulers,
    restoring,
)
from nlseg.run.folder import set_aside
from nlseg.run.identity import describe_changes
from nlseg.run.logs import restore_values
from nlseg.run.loop import TrainLoop
from nlseg.run.places import Places
from nlseg.run.processes import restart_count
from nlseg.run.protocol import RunnerProtocol
from nlseg.run.state import describe_settings, hooks_with_state
from nlseg.table import format_table
from nlseg.weights.fields import mapping
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import load_strictly, load_what_fits, weights_in

LAUNCHES = ".launches"
_SEEN_WITHIN_S = 90.0
"""Longer than the 60 s for which NFS may believe its own memory of a folder."""
SCHEDULE = ("max_iters", "max_epochs", "optimizer", "param_scheduler", "accumulation")
_FRESH = ("fused", "foreach", "capturable", "differentiable")


@dataclass
class Resumed:
    """What a run is resumed from.

    Args:
        path: The checkpoint; None for a run from the beginning.
        content: What the file holds; emptied once it is restored.
        scores: Scores of this very checkpoint, where it has been validated.
    """

    path: Path | None = None
    content: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """The seed of the run that wrote the checkpoint, until it is restored."""
        seed = self.content.get("meta", {}).get("seed")
        return None if seed is None else int(seed)


class Wanted(NamedTuple):
    """What a config says about where training starts.

    Args:
        work_dir: The run folder.
        resume: Whether to resume.
        load_from: Weights to begin with; with ``resume`` the checkpoint to resume from.
    """

    work_dir: Path
    resume: bool
    load_from: str | None

    @property
    def given(self) -> Path | None:
        """The checkpoint to resume from; None is the newest of the run."""
        return Path(self.load_from) if self.resume and self.load_from else None


def choose_start(places: Places, wanted: Wanted, warn: Callable[[str], None]) -> Resumed:
    """Decide what training is resumed from, before anything that depends on the seed is built.

    A run that torchrun or Slurm has started again resumes by itself, from what it has saved since
    rather than from the file that it was first told to resume from. Files of an earlier run are
    moved aside where a new one begins.

    Args:
        places: Where the run's checkpoints lie.
        wanted: What the config asks for.
        warn: Called with one line about what a user should know.
    """
    path, work_dir, given = None, wanted.work_dir, wanted.given
    again = started_again(work_dir)
    note_launches(work_dir)
    if again or (wanted.resume and given is None):
        path = find(places.folder, warn, places.fallbacks)
    if path is not None:
        if processes.is_main():
            places.take_over()
        return read(path)
    if given is not None:
        return _branch_off(places, work_dir, given, warn)
    if wanted.resume:
        warn(f"{places.folder}: no checkpoint to resume; training begins anew")
    else:
        _make_room(places, work_dir, warn)
    processes.barrier()
    return Resumed()


def peek(places: Places, wanted: Wanted) -> Path | None:
    """Return what ``choose_start`` will resume from, without a change to any file.

    Args:
        places: Where the run's checkpoints lie.
        wanted: What the config asks for.

    Returns:
        The file, which the first process alone may see; None for a run from the beginning.
    """
    found = ""
    if started_again(wanted.work_dir) or (wanted.resume and wanted.given is None):
        if processes.is_main():
            path, _ = reading_again(lambda: checkpoint.newest(places.folder))
            path = _newer(places.fallbacks, path) or path
            found = str(path) if path else ""
        found = processes.broadcast_text(found)
    return Path(found) if found else wanted.given


def started_again(work_dir: Path) -> bool:
    """Return whether the launcher that runs now has started this very run before.

    torchrun does not count it as a restart when a node has come or gone; then a torchrun that was
    noted in the run folder is still there on some node.
    """
    before, note = "", work_dir / LAUNCHES
    if processes.is_main() and note.is_file():
        before = note.read_text()
    known = processes.broadcast_text(before).splitlines()
    return processes.any_of(restart_count() > 0 or processes.launch() in known)


def note_launches(work_dir: Path) -> None:
    """Note in the run folder which torchruns have started this run, one a node."""
    launches = {launch for launch in processes.gather_text(processes.launch()) if launch}
    if processes.is_main() and launches:
        write_file(work_dir / LAUNCHES, "\n".join(sorted(launches)))


def _branch_off(
    places: Places, work_dir: Path, given: Path, warn: Callable[[str], None]
) -> Resumed:
    """Read the file that a run was told to resume from, and let nothing else come before it."""
    check(given)
    resumed = read(given)
    if given.parent.resolve() != places.folder.resolve():
        _make_room(places, work_dir, warn)
    elif processes.is_main():
        point_to(given)  # newer ones belong to a branch that is left
    processes.barrier()
    return resumed


def _make_room(places: Places, work_dir: Path, warn: Callable[[str], None]) -> None:
    if processes.is_main():
        for place in {places.folder, work_dir, *places.fallbacks}:
            if aside := set_aside(place):
                warn(f"files of an earlier run were moved to {aside}")
    processes.barrier()


def find(folder: Path, warn: Callable[[str], None], fallbacks: Sequence[Path] = ()) -> Path | None:
    """Find the newest whole checkpoint of a run; all processes get the same one.

    Args:
        folder: Where its checkpoints lie.
        warn: Called with one line about each file that is passed over.
        fallbacks: Where they lie when ``folder`` could not be written for a while.

    Raises:
        CheckpointError: There are checkpoints, but none is whole.
    """
    found = ""
    if processes.is_main():
        path, skipped = reading_again(lambda: checkpoint.newest(folder))
        for bad, reason in skipped:
            warn(f"{bad}: {reason}; it is passed over")
        if other := _newer(fallbacks, path):
            path = _bring_home(other, folder, warn)
        found = str(path) if path else ""
        if not found and skipped:
            found = "\0"
    found = processes.broadcast_text(found)
    if found == "\0":
        raise CheckpointError(f"{folder}: no checkpoint is whole; see the warnings above")
    if not found:
        return None
    _wait_to_see(Path(found))
    return Path(found)


def _wait_to_see(path: Path) -> None:
    """Wait until this process sees a file as the first one does.

    A network file system shows a node what another one has written some time later.

    Raises:
        CheckpointError: Some process does not see it, for example as its node has other disks.
    """
    size = path.stat().st_size if processes.is_main() else 0
    size = int(processes.broadcast(torch.tensor([size])).item())
    end = time.monotonic() + _SEEN_WITHIN_S
    while not (seen := _has_size(path, size)) and time.monotonic() < end:
        time.sleep(0.2)
    hosts = processes.gather_text("" if seen else socket.gethostname())
    if missing := sorted({host for host in hosts if host}):
        raise CheckpointError(
            f"{path}: is not there, or another file, on {', '.join(missing)}; give all nodes one "
            "shared folder as --work-dir, or copy the file to the same place on each"
        )


def _has_size(path: Path, size: int) -> bool:
    try:
        os.scandir(path.parent).close()  # lets NFS ask its server for names that it knows not of
        return path.stat().st_size == size
    except OSError:
        return False


def _newer(fallbacks: Sequence[Path], path: Path | None) -> Path | None:
    """Return the checkpoint of a fallback that was written after ``path``, if there is one."""
    others = [checkpoint.newest(place)[0] for place in fallbacks]
    other = max((o for o in others if o is not None), key=_written, default=None)
    if other is None or (path is not None and _written(other) <= _written(path)):
        return None
    return other


def _bring_home(other: Path, folder: Path, warn: Callable[[str], None]) -> Path:
    """Copy the checkpoint of a fallback to ``folder``; return where it can be read."""
    home = folder / other.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        link_or_copy(other, home)
        if record := read_record(other):
            checkpoint.write_record(home, record)
        point_to(home)
    except OSError as error:
        warn(f"{other}: is resumed from there; it cannot be copied to {folder}: {error}")
        return other
    warn(f"{other}: was saved there while {folder} could not be written, and is resumed from")
    return home


def _written(path: Path) -> tuple[str, int]:
    """Return when a checkpoint was written: the time to the second, then the iteration."""
    meta = read_checkpoint(path).get("meta", {})
    return str(meta.get("time", "")), int(meta.get("iter", 0))


def check(path: Path) -> None:
    """Refuse a file that differs from the JSON beside it or, without one, from its own checksums.

    Raises:
        CheckpointError: It does.
    """
    reason = None
    if processes.is_main() and path.is_file() and (read_record(path) or zipfile.is_zipfile(path)):
        reason = checkpoint.damage(path)
    if text := processes.broadcast_text(reason or ""):
        raise CheckpointError(f"{path}: {text}; see what else is in {path.parent}")


def read(path: Path) -> Resumed:
    """Read the checkpoint to resume from.

    Raises:
        CheckpointError: It cannot be read, or holds weights only.
    """
    content = reading_again(lambda: read_checkpoint(path))
    if "optimizer" not in content:
        raise CheckpointError(
            f"{path}: holds weights but no optimizer, so no run can go on from it; to start a new "
            "run from these weights use load_from instead of resume: "
            f"--cfg-options load_from={path}"
        )
    meta = check_meta(content, str(path))
    record = read_record(path)
    scores = record.scores if record is not None and record.iter == meta["iter"] else {}
    return Resumed(path, content, scores)


def restore(runner: RunnerProtocol, resumed: Resumed) -> None:
    """Hand each part of a run its state from a checkpoint.

    Settings that have changed since are listed; learning rates are computed anew from the new
    ones, and no sample is left out or seen twice when the batch size has changed.

    Raises:
        CheckpointError: The model, the optimizer or the length of training do not fit.
    """
    content, source = resumed.content, str(resumed.path)
    meta = content["meta"]
    before = meta.get("settings", {})
    changes = changed(before, describe_settings(runner)) if before else {}
    if changes:
        runner.logger.warning(f"settings that have changed:\n{table(changes)}")
    more = describe_changes(meta["identity"], runner.facts) if meta.get("identity") else ""
    if more:
        runner.logger.warning(f"what else has changed since, and is followed:\n{more}")
    anew = schedule_changed(changes) or not before
    states = None if anew else content.get("param_schedulers")
    if states is not None and runner.param_schedulers is not None:
        check_schedulers(runner.param_schedulers, states, source, "param_schedulers")
    check_average(content, source)
    _restore_place(runner, meta, source, validated=bool(resumed.scores))
    _without_average(runner, content, source)
    with restoring(source, "ema_state_dict, or what a hook reads"):
        runner.call_hook("after_load_checkpoint", checkpoint=content)
    load_strictly(processes.unwrap(runner.model), weights_in(content, source), source)
    entries = meta.get("optimizer_entries")
    check_optimizers(runner.optim_wrapper, content["optimizer"], entries, source)
    _restore_optimizer(runner.optim_wrapper, content["optimizer"], source, anew=anew)
    if runner.param_schedulers is not None:
        if states is None:
            _replay(runner)
        else:
            _load_schedulers(runner.param_schedulers, states)
    _restore_hooks(runner, content, source)
    restore_values(runner.message_hub, meta.get("recent", {}))
    resumed.content = {}


def _without_average(runner: RunnerProtocol, content: Mapping[str, Any], source: str) -> None:
    """Take the weights that were trained in place of their average, where no hook averages now."""
    average = content.get("ema_state_dict")
    if not average or any(hasattr(hook, "ema_model") for hook in runner.hooks):
        return
    raw = {key.removeprefix("module."): v for key, v in average.items() if "module." in key}
    content["state_dict"].update(raw)
    runner.logger.warning(
        f"{source}: its weights are an average (EMAHook), which this config does not make; the run "
        "goes on from the weights that were trained"
    )


def _restore_hooks(runner: RunnerProtocol, content: Mapping[str, Any], source: str) -> None:
    """Restore what hooks keep, and the facts that they share."""
    states = mapping(content, "hooks", source)
    for name, hook in hooks_with_state(runner).items():
        if name in states:
            with restoring(source, f"hooks.{name}"):
                hook.load_state_dict(states[name])
    infos = mapping(mapping(content, "message_hub", source), "message_hub.runtime_info", source)
    for key, value in infos.items():
        if isinstance(key, str) and isinstance(value, (bool, int, float, str)):
            runner.message_hub.update_info(key, value)


def _restore_place(
    runner: RunnerProtocol, meta: Mapping[str, Any], source: str, *, validated: bool
) -> None:
    """Put the training loop, ours or a user's, to where a checkpoint was written."""
    loop = runner.train_loop
    if isinstance(loop, TrainLoop):
        try:
            loop.load_state_dict(meta, validated=validated)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from None
        return
    runner.state.load_state_dict(meta)
    if hasattr(loop, "load_state_dict"):
        loop.load_state_dict(meta)
    elif hasattr(loop, "_iter") and hasattr(loop, "_epoch"):  # one derived from mmengine's
        loop._iter, loop._epoch = runner.state.iteration, runner.state.epoch
    else:
        raise CheckpointError(
            f"{source}: {type(loop).__name__} offers no load_state_dict(meta), so a run with this "
            "loop cannot be resumed"
        )


def _restore_optimizer(wrapper: Any, state: dict[str, Any], source: str, *, anew: bool) -> None:
    """Restore the optimizer; settings of its groups stay the config's where they count anew."""
    fresh = [
        {key: value for key, value in group.items() if key != "params"}
        for group in _groups(wrapper)
    ]
    with restoring(source, "optimizer"):
        wrapper.load_state_dict(dict(state))
    for group, values in zip(_groups(wrapper), fresh, strict=True):
        group.update({key: v for key, v in values.items() if anew or key in _FRESH})


def _groups(wrapper: Any) -> list[dict[str, Any]]:
    """List the parameter groups of an optimizer wrapper, or of several by name."""
    parts = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [group for part in parts for group in part.param_groups]


def _load_schedulers(schedulers: Any, states: Any) -> None:
    if isinstance(schedulers, Mapping):
        for name, items in schedulers.items():
            _load_schedulers(items, states[name])
        return
    for scheduler, state in zip(schedulers, states, strict=True):
        scheduler.load_state_dict(state)


def _replay(runner: RunnerProtocol) -> None:
    """Step fresh schedulers to where training is, as if it had run with them from the start."""
    given = runner.param_schedulers
    groups = given.values() if isinstance(given, Mapping) else [given]
    schedulers = [scheduler for group in groups for scheduler in group]
    in_epochs = getattr(runner.train_loop, "by_epoch", runner.max_epochs > 1)
    length = runner.max_iters // runner.max_epochs if in_epochs else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "step before the optimizer's"
        for iteration in range(1, runner.iter + 1):
            _step(schedulers, by_epoch=False)
            if length and iteration % length == 0:
                _step(schedulers, by_epoch=True)


def _step(schedulers: Sequence[Any], *, by_epoch: bool) -> None:
    for scheduler in schedulers:
        if scheduler.by_epoch == by_epoch:
            if getattr(scheduler, "need_val_args", False):
                raise ConfigError(
                    f"{type(scheduler).__name__}: depends on past scores and cannot be computed "
                    "anew; resume with unchanged settings"
                )
            scheduler.step()


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
    """Return whether learning rates have to be computed anew."""
    return any(name.split(".")[0] in SCHEDULE for name in changes)


def table(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Write the changed settings as a table."""
    rows = [(name, str(before), str(now)) for name, (before, now) in changes.items()]
    return indent(format_table(["setting", "in the checkpoint", "now"], rows, rule=False), "  ")


def load_weights(
    runner: RunnerProtocol,
    source: str,
    *,
    strict: bool,
    revise_keys: Sequence[tuple[str, str]] = (),
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
