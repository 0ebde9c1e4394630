"""What a run starts with: a checkpoint to go on from, weights to begin with, or nothing."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlseg.run import distributed, resume
from nlseg.run.checkpoint_folder import point_to
from nlseg.run.folder import set_aside
from nlseg.run.hooks.checkpoint import CheckpointHook
from nlseg.run.launcher import restart_count
from nlseg.weights.downloads import is_remote
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import load_strictly, load_what_fits, weights_in


def choose_start(runner: Any) -> None:
    """Decide what training goes on from, before anything that depends on the seed is built.

    A run that torchrun or Slurm has started again goes on by itself, from what it has saved since
    rather than from the file that it was first told to go on from.
    """
    folder = checkpoint_place(runner)
    given = Path(runner._load_from) if runner._resume and runner._load_from else None
    path = None
    if restart_count() > 0 or (runner._resume and given is None):
        path = resume.find(folder, runner.logger.warning)
    if path is None and given is None:
        _begin_anew(runner, folder)
        return
    runner._resume = True
    if path is not None:
        runner.resumed = resume.read(path)
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


def _branch_off(runner: Any, folder: Path, given: Path) -> resume.Resumed:
    """Read the file that a run was told to go on from, and let nothing else come before it."""
    resume.check(given)
    resumed = resume.read(given)
    if given.parent.resolve() != folder.resolve():
        _make_room(runner, folder)
    elif distributed.is_main():
        point_to(given)  # newer ones belong to a branch that is left
    distributed.barrier()
    return resumed


def _make_room(runner: Any, folder: Path) -> None:
    if distributed.is_main():
        for place in {folder, Path(runner.work_dir)}:
            if aside := set_aside(place):
                runner.logger.warning(f"files of an earlier run were moved to {aside}")
    distributed.barrier()


def _begin_anew(runner: Any, folder: Path) -> None:
    if runner._resume:
        runner.logger.warning(f"{folder}: no checkpoint to resume; training begins anew")
    else:
        _make_room(runner, folder)
    runner._resume = False
    distributed.barrier()


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
    if not is_remote(source):
        resume.check(Path(source))
    content = read_checkpoint(source)
    weights = weights_in(content, source)
    for pattern, replacement in revise_keys:
        weights = {re.sub(pattern, replacement, key): w for key, w in weights.items()}
    content["state_dict"] = weights
    runner.call_hook("after_load_checkpoint", checkpoint=content)
    model = distributed.unwrap(runner.model)
    if strict:
        load_strictly(model, weights, source)
        runner.logger.info(f"{source}: all {len(weights)} weights were loaded")
    else:
        runner.logger.info(load_what_fits(model, weights, source))
    return content
