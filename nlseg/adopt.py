"""A run folder of mmsegmentation becomes one of ours: config, checkpoint, schedule and curve."""

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from nlseg.api import dataset_meta_of
from nlseg.config import load_config
from nlseg.config.class_weight import with_class_weights
from nlseg.config.text import RESOLVED, python_text
from nlseg.errors import CheckpointError, UserError
from nlseg.files import in_use, link_or_copy, write_file
from nlseg.registry import MODELS, PARAM_SCHEDULERS, SCOPE
from nlseg.run.best_scores import BestScores
from nlseg.run.checkpoint import plain, point_to, read_record, save, write_record
from nlseg.run.keeper import best_name
from nlseg.run.logs import SCALARS_FILE, read_scalars
from nlseg.table import format_table
from nlseg.weights.fields import count, mapping
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import check_fit, weights_in

POINTER = "last_checkpoint"
_KEPT = ("meta", "state_dict", "optimizer", "param_schedulers", "ema_state_dict")
_TIMES = ("data_time", "time", "memory")
_OF_TRAINING = ("loss", "lr", "grad_norm")


class Row(NamedTuple):
    """One thing that is compared: what it is there, what it is here, and why it differs."""

    what: str
    there: str
    here: str
    why: str = ""


@dataclass
class Adopted:
    """What became of a run folder.

    Args:
        config: The config's new file.
        checkpoint: The checkpoint's new file.
        source: The checkpoint that it was made of.
        rows: What is equal, what differs, and why.
        scores: Scores that were recorded at this iteration.
    """

    config: Path
    checkpoint: Path
    source: Path
    rows: list[Row] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """Lay the rows out as text."""
        rows = [(row.what, row.there, row.here, row.why) for row in self.rows]
        return format_table(("", "there", "here", ""), rows)


def adopt(
    folder: Path, target: Path, *, config: Path | None = None, checkpoint: Path | None = None
) -> Adopted:
    """Make a run folder of ours from one that mmengine 0.10 has written; that one stays as it is.

    Args:
        folder: The run folder of mmsegmentation 1.x.
        target: New or empty folder.
        config: Its config, where the folder holds several.
        checkpoint: One of its checkpoints; None for the one that it points to.

    Returns:
        The new files, and the comparison.

    Raises:
        UserError: The folder is no such run, or the target is in use.
        CheckpointError: The checkpoint holds no optimizer, or does not fit the config.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if why := in_use(target):
        raise UserError(f"{target}: {why}; give a new folder by --out")
    config_file = config or _find_config(folder)
    source = checkpoint or _find_checkpoint(folder)
    cfg = load_config(config_file, allow_unknown=True)
    content = _read(source, [] if checkpoint else _checkpoints(folder))
    meta = dict(mapping(content, "meta", str(source)))
    iteration = count(meta, "meta.iter", str(source))
    weights = weights_in(content, str(source))
    settings = with_class_weights({**cfg.model.to_dict(), "pretrained": None}, None)
    init_default_scope(cfg.get("default_scope") or SCOPE)
    with torch.device("meta"):
        network = MODELS.build(settings)
    check_fit(network, weights, str(source))
    logger = mapping(cfg.get("default_hooks") or {}, "logger", "default_hooks")
    by_epoch = logger.get("log_metric_by_epoch", True)
    curve = read_curve(folder, _epoch_length(cfg, meta) if by_epoch else None)
    curve = [line for line in curve if line["step"] <= iteration]
    scores = _scores_at(curve, iteration)
    best = _best_so_far(cfg, content, curve, _epoch_length(cfg, meta))

    cfg.work_dir, cfg.load_from, cfg.resume = str(target), None, False
    text = f"{RESOLVED}\n{python_text(cfg.to_dict())}"
    target.mkdir(parents=True, exist_ok=True)
    new_config = target / config_file.name
    write_file(new_config, text)
    lines = [json.dumps(line) for line in curve]
    write_file(target / SCALARS_FILE, "".join(f"{x}\n" for x in lines))
    kept_best = {key: one.entry() for key, one in best.items()}
    new = target / f"iter_{iteration}.pth"
    _write(content, {"cfg": text, "best": kept_best}, new, scores)
    point_to(new)
    for one in best.values():
        _take_best(one, folder, new, text, _scores_at(curve, one.iteration))
    adopted = Adopted(new_config, new, source, scores=scores)
    adopted.rows = _compared(cfg, network, content, new, len(lines))
    adopted.rows.append(_best_row(cfg, content, best, target))
    return adopted


def _write(
    content: Mapping[str, Any], more: Mapping[str, Any], file: Path, scores: Mapping[str, float]
) -> None:
    """Write a checkpoint of ours with what is kept of an old one.

    Args:
        content: The old one.
        more: Goes into its ``meta``.
        file: The new file.
        scores: What validation found of it, for its record.
    """
    kept = {key: content[key] for key in _KEPT if key in content}
    kept["meta"] = {**mapping(content, "meta", str(file)), **more}
    record = save(plain(kept), file)
    if scores:
        write_record(file, replace(record, scores=dict(scores)))


def _scores_at(curve: Sequence[Mapping[str, Any]], iteration: int | None) -> dict[str, float]:
    """Return what a validation found, nothing where there was none."""
    found = (one for one in curve if one["kind"] == "val" and one["step"] == iteration)
    return {k: v for k, v in next(found, {}).items() if k not in ("kind", "step", *_TIMES)}


class _Best(NamedTuple):
    """The best score so far.

    Args:
        score: Its value.
        file: Name of its checkpoint.
        iteration: When it was found; None where no validation says so.
        progress: The number in that name: an iteration or an epoch.
    """

    score: float
    file: str
    iteration: int | None
    progress: int

    def entry(self) -> dict[str, Any]:
        """Return it as a run keeps it."""
        return {"score": self.score, "file": self.file, "iter": self.progress}


def _best_so_far(
    cfg: Config, content: Mapping[str, Any], curve: Sequence[Mapping[str, Any]],
    epoch_length: int | None,
) -> dict[str, _Best]:  # fmt: skip
    """Return the best of each score that is asked for: of the validations, or as was noted there.

    Args:
        cfg: The config.
        content: The old checkpoint.
        curve: The old curve up to it.
        epoch_length: Iterations of an epoch, where that is known.
    """
    hook = mapping(cfg.get("default_hooks") or {}, "checkpoint", "default_hooks")
    keys = hook.get("save_best")
    if not keys:
        return {}
    rules = hook.get("rule")
    best = BestScores(
        [keys] if isinstance(keys, str) else list(keys),
        [rules] if rules is None or isinstance(rules, str) else list(rules),
        hook.get("greater_keys") or (), hook.get("less_keys") or (),
    )  # fmt: skip
    by_epoch = hook.get("by_epoch", True)
    template = hook.get("filename_tmpl") or ("epoch_{}.pth" if by_epoch else "iter_{}.pth")
    found: dict[str, _Best] = {}
    for step in (line["step"] for line in curve if line["kind"] == "val"):
        scores = _scores_at(curve, step)
        if not scores or (best.keys != ["auto"] and not scores.keys() >= {*best.keys}):
            continue
        progress = step // epoch_length if by_epoch and epoch_length else step
        for key in best.improved(scores):
            name = best_name(key, template.format(progress))
            found[key] = _Best(float(scores[key]), name, step, progress)
            best.keep(key, scores[key], name, progress)
    noted = mapping(mapping(content, "message_hub", "checkpoint"), "runtime_info", "checkpoint")
    for key in best.keys:
        end = "" if len(best.keys) == 1 else f"_{key}"
        score, file = noted.get(f"best_score{end}"), str(noted.get(f"best_ckpt{end}"))
        name = PureWindowsPath(file).name  # cuts at the signs of both systems
        number = re.search(r"_(\d+)\.pth$", name)
        if key == "auto" or number is None or not isinstance(score, int | float):
            continue
        if key in best.improved({**dict.fromkeys(best.keys, math.nan), key: score}):
            found[key] = _Best(float(score), name, None, int(number[1]))
    return found


def _take_best(one: _Best, folder: Path, new: Path, text: str, scores: dict[str, float]) -> None:
    """Write the checkpoint with the best score into the new folder, if it is still there.

    Args:
        one: The score.
        folder: The old run folder.
        new: The checkpoint that was taken over, which may be the one.
        text: The config.
        scores: What its validation found.
    """
    record = read_record(new)
    try:
        content = read_checkpoint(folder / one.file)
    except CheckpointError:  # deleted, or damaged: the row says so
        if record is not None and record.iter == one.iteration:
            link_or_copy(new, new.with_name(one.file))
            write_record(new.with_name(one.file), replace(record, file=one.file))
        return
    _write(content, {"cfg": text}, new.with_name(one.file), scores)


def _find_config(folder: Path) -> Path:
    """Return the config that mmengine has written into a run folder.

    Raises:
        UserError: There is none, or several.
    """
    found = sorted(folder.glob("*.py"))
    if not found:
        found = sorted(folder.glob("*/vis_data/config.py"))[-1:]
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{folder}: configs in it: {listed}; name the one of the run by --config")
    return found[0]


def _find_checkpoint(folder: Path) -> Path:
    """Return the newest checkpoint, that of the pointer first, which may hold an old address.

    Raises:
        UserError: There is none.
    """
    pointer = folder / POINTER
    if pointer.is_file():
        named = folder / Path(pointer.read_text().strip()).name
        if named.is_file():
            return named
    found = _checkpoints(folder)
    if not found:
        raise UserError(f"{folder}: no checkpoint in it (iter_*.pth or epoch_*.pth)")
    return found[-1]


def _checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a run folder by their numbers."""
    found = [*folder.glob("iter_*.pth"), *folder.glob("epoch_*.pth")]
    numbers = {path: path.stem.rpartition("_")[2] for path in found}
    usable = [path for path, number in numbers.items() if number.isdigit()]
    return sorted(usable, key=lambda path: int(numbers[path]))


def _read(source: Path, others: Sequence[Path]) -> dict[str, Any]:
    """Read the checkpoint that a run goes on from.

    Args:
        source: The file.
        others: Checkpoints to be named where it is damaged.

    Raises:
        CheckpointError: It cannot be read, or holds no optimizer.
    """
    try:
        content = read_checkpoint(source)
    except CheckpointError as error:
        usable = [path for path in others if path != source]
        if not usable:
            raise
        told = f"{error}; or go on from another one: --checkpoint {usable[-1]}"
        raise CheckpointError(told) from error
    if "optimizer" not in content:
        raise CheckpointError(f"{source}: holds no optimizer, so that no run can go on from it")
    return content


def _epoch_length(cfg: Config, meta: Mapping[str, Any]) -> int | None:
    """Return the iterations of an epoch; None where a checkpoint is not of the end of one."""
    iteration, epoch = meta["iter"], meta.get("epoch")
    counts_epochs = cfg.train_cfg.get("max_epochs") is not None
    if not counts_epochs or not isinstance(epoch, int) or epoch < 1 or iteration % epoch:
        return None
    return int(iteration // epoch)


def read_curve(folder: Path, epoch_length: int | None = None) -> list[dict[str, Any]]:
    """Read the scalars of all starts of a run as one curve.

    A later start goes on from where it was resumed, so that what an earlier one had beyond is
    dropped.

    Args:
        folder: The run folder, with ``TIME/vis_data/scalars.json``.
        epoch_length: Iterations of an epoch, for validations that are written down by their epoch;
            None where they are by the iteration.

    Returns:
        Lines with ``kind``, ``step`` and numbers, in order.
    """
    kept: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        new = [line for text in file.read_text(errors="replace").splitlines()
               if (line := _scalars(text, epoch_length)) is not None]  # fmt: skip
        if new:
            first = min(line["step"] for line in new)
            kept = [line for line in kept if line["step"] < first] + new
    return sorted(kept, key=lambda line: (line["step"], line["kind"] != "train"))


def _scalars(text: str, epoch_length: int | None) -> dict[str, Any] | None:
    """Read one line of mmengine's scalars; None for one that was cut short or has no step."""
    try:
        values = json.loads(text)
    except ValueError:
        return None
    step = values.pop("step", None) if isinstance(values, dict) else None
    if not isinstance(step, int):
        return None
    step = values.pop("iter", step * (epoch_length or 1))
    kind = "train" if any(key.startswith(_OF_TRAINING) for key in values) else "val"
    numbers = {k: v for k, v in values.items() if isinstance(v, (int, float)) and k != "epoch"}
    return {"kind": kind, "step": int(step), **numbers}


def _compared(
    cfg: Config, network: nn.Module, content: Mapping[str, Any], new: Path, curve: int
) -> list[Row]:
    """Compare what the run was with what stands in the new folder.

    Args:
        cfg: The config.
        network: Built of it, without memory.
        content: The old checkpoint.
        new: The new one, which is read again.
        curve: Lines of the old curve up to this iteration.
    """
    here = read_checkpoint(new)
    meta, ours = content["meta"], here["meta"]
    optimizer = mapping(content, "optimizer", "checkpoint")
    groups, state = optimizer.get("param_groups", []), optimizer.get("state", {})
    theirs = list(mapping(meta, "meta.dataset_meta", "checkpoint").get("classes") or ())
    classes = list(dataset_meta_of(cfg).get("classes") or ())
    weights = weights_in(content, str(new))
    kept = len(read_scalars(new.parent / SCALARS_FILE))
    rows = [
        Row("network", f"{len(weights)} tensors", _verdict(weights, weights_in(here, str(new))),
            "names and shapes fit"),
        Row("optimizer", f"{len(groups)} groups, {len(state)} entries",
            _verdict(optimizer, here["optimizer"])),
        Row("iteration", str(meta["iter"]), _verdict(meta["iter"], ours["iter"])),
        _rate_row(cfg, network, groups, meta),
        Row("classes", str(len(theirs)), _verdict(theirs, classes),
            "" if theirs == classes else "the config's are used; see metainfo"),
        Row("curve", f"{curve} lines", _verdict(curve, kept), "up to this iteration"),
        Row("seed", str(meta.get("seed")), _verdict(meta.get("seed"), ours.get("seed"))),
        Row("order of samples", "its sampler's", "ours",
            "sample n is a function of (seed, n): some images of this pass come again"),
        Row("random draws", "numpy's global state", "of each sample",
            "crops and colours differ from here on"),
    ]  # fmt: skip
    scaler = optimizer.get("loss_scaler")
    if scaler:
        same = _verdict(scaler, here["optimizer"].get("loss_scaler"))
        rows.append(Row("loss scaler", f"scale {scaler.get('scale', 0):g}", same))
    average = content.get("ema_state_dict")
    hooks = [str(hook.get("type")) for hook in cfg.get("custom_hooks") or ()]
    if average:
        taken = "taken over by EMAHook" if "EMAHook" in hooks else "left: the config has no EMAHook"
        same = _verdict(average, here.get("ema_state_dict"))
        rows.append(Row("average of the weights", f"{len(average)} tensors", same, taken))
        hooks = [name for name in hooks if name != "EMAHook"]
    if hooks:
        rows.append(Row("custom hooks", ", ".join(hooks), "begin anew", "mmengine saves no state"))
    return rows


def _verdict(there: Any, here: Any) -> str:
    return "equal" if _same(there, here) else "differs"


def _same(there: Any, here: Any) -> bool:
    """Return whether two values of checkpoints are equal, down to each number."""
    if isinstance(there, torch.Tensor) and isinstance(here, torch.Tensor):
        return torch.equal(there, here)
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return there.keys() == here.keys() and all(_same(there[k], here[k]) for k in there)
    if isinstance(there, (list, tuple)) and isinstance(here, (list, tuple)):
        return len(there) == len(here) and all(map(_same, there, here))
    return bool(there == here)


def _rate_row(
    cfg: Config, network: nn.Module, groups: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]
) -> Row:
    """Compare the learning rate with what the schedule gives here."""
    there = f"{float(groups[0]['lr']):.6g}" if groups else "-"
    here = _rate(cfg, network, int(meta["iter"]), _epoch_length(cfg, meta))
    if here is None:
        why = "computed then: it depends on scores, or on the iterations of an epoch"
        return Row("learning rate", there, "at the start", why)
    equal = f"{here:.6g}" == there
    return Row("learning rate", there, "equal" if equal else f"{here:.6g}", "the schedule's, here")


def _rate(
    cfg: Config, network: nn.Module, iteration: int, epoch_length: int | None
) -> float | None:
    """Return the first group's learning rate as a resumed run has it.

    Args:
        cfg: The config.
        network: Built of it.
        iteration: Where the run goes on.
        epoch_length: Iterations of an epoch, where the run counts epochs and is at the end of one.

    Returns:
        The rate; None where it depends on another number of iterations in an epoch, or on scores.
    """
    given = cfg.get("param_scheduler") or []
    schedules = [given] if isinstance(given, Mapping) else given
    epochs = cfg.train_cfg.get("max_epochs")
    length = cfg.train_cfg.get("max_iters") or (epochs or 0) * (epoch_length or 0)
    of_epochs = [bool(one.get("by_epoch", True)) for one in schedules]
    if not length or (any(of_epochs) and epoch_length is None):
        return None
    if any(one.get("convert_to_iter_based") for one in schedules):
        return None
    names = ("constructor", "optimizer", "paramwise_cfg")
    parts = {name: cfg.optim_wrapper[name] for name in names if name in cfg.optim_wrapper}
    wrapper = build_optim_wrapper(network, {"type": "OptimWrapper", **parts})
    steps = [
        PARAM_SCHEDULERS.build(
            {"end": epochs if by_epoch else length, **one}, default_args={"optimizer": wrapper}
        )
        for one, by_epoch in zip(schedules, of_epochs, strict=True)
    ]
    if any(getattr(step, "need_val_args", False) for step in steps):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "step before the optimizer's"
        for done in range(1, iteration + 1):
            for step, by_epoch in zip(steps, of_epochs, strict=True):
                if not by_epoch or done % (epoch_length or 1) == 0:
                    step.step()
    return float(wrapper.param_groups[0]["lr"])


def _best_row(
    cfg: Config, content: Mapping[str, Any], best: Mapping[str, _Best], target: Path
) -> Row:
    """Say what counts as the best score when the run goes on."""
    infos = mapping(mapping(content, "message_hub", str(target)), "runtime_info", str(target))
    known = [f"{value:.2f}" for key, value in infos.items()
             if str(key).startswith("best_score") and isinstance(value, (int, float))]  # fmt: skip
    there = ", ".join(known) or "none"
    hook = mapping(cfg.get("default_hooks") or {}, "checkpoint", "default_hooks")
    if not hook.get("save_best"):
        return Row("best score", there, "none", "checkpoint.save_best is not set")
    if not best:
        return Row("best score", there, "begins anew", "no validation up to here is recorded")
    files = [
        f"{one.file}{'' if (target / one.file).is_file() else ' is not there any more'}"
        for one in best.values()
    ]
    here = ", ".join(f"{one.score:.2f}" for one in best.values())
    return Row("best score", there, here, f"of all validations so far: {', '.join(files)}")
