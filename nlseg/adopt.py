"""A run folder of mmsegmentation becomes one of ours: config, checkpoint, schedule and curve."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from nlseg.api import dataset_meta_of
from nlseg.config import load_config
from nlseg.config.class_weight import with_class_weights
from nlseg.config.text import RESOLVED, python_text
from nlseg.errors import CheckpointError, UserError
from nlseg.files import write_file
from nlseg.registry import MODELS, SCOPE
from nlseg.run.checkpoint import Record, plain, point_to, save, write_record
from nlseg.run.logs import SCALARS_FILE
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
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target}: is not empty; give a new folder by --out")
    config_file = config or _find_config(folder)
    source = checkpoint or _find_checkpoint(folder)
    cfg = load_config(config_file, allow_unknown=True)
    content = read_checkpoint(source)
    if "optimizer" not in content:
        raise CheckpointError(f"{source}: holds no optimizer, so that no run can go on from it")
    meta = dict(mapping(content, "meta", str(source)))
    iteration = count(meta, "meta.iter", str(source))
    weights = weights_in(content, str(source))
    settings = with_class_weights({**cfg.model.to_dict(), "pretrained": None}, None)
    init_default_scope(cfg.get("default_scope") or SCOPE)
    with torch.device("meta"):
        network = MODELS.build(settings)
    check_fit(network, weights, str(source))
    curve = read_curve(folder)
    scores = next(
        (line for line in curve if line["kind"] == "val" and line["step"] == iteration), {}
    )
    scores = {key: value for key, value in scores.items() if key not in ("kind", "step", *_TIMES)}

    cfg.work_dir, cfg.load_from, cfg.resume = str(target), None, False
    text = f"{RESOLVED}\n{python_text(cfg.to_dict())}"
    target.mkdir(parents=True, exist_ok=True)
    new_config = target / config_file.name
    write_file(new_config, text)
    lines = [json.dumps(line) for line in curve if line["step"] <= iteration]
    write_file(target / SCALARS_FILE, "".join(f"{x}\n" for x in lines))
    kept = {key: content[key] for key in _KEPT if key in content}
    kept["meta"] = {**meta, "cfg": text}
    new = target / f"iter_{iteration}.pth"
    record = save(plain(kept), new)
    if scores:
        write_record(new, Record(**{**vars(record), "scores": scores}))
    point_to(new)
    adopted = Adopted(new_config, new, source, scores=scores)
    adopted.rows = list(_compared(cfg, content, meta, iteration, len(lines), len(weights)))
    return adopted


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
    found = [*folder.glob("iter_*.pth"), *folder.glob("epoch_*.pth")]
    numbers = {path: path.stem.rpartition("_")[2] for path in found}
    usable = [path for path, number in numbers.items() if number.isdigit()]
    if not usable:
        raise UserError(f"{folder}: no checkpoint in it (iter_*.pth or epoch_*.pth)")
    return max(usable, key=lambda path: int(numbers[path]))


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Read the scalars of all starts of a run as one curve.

    A later start goes on from where it was resumed, so that what an earlier one had beyond is
    dropped.

    Args:
        folder: The run folder, with ``TIME/vis_data/scalars.json``.

    Returns:
        Lines with ``kind``, ``step`` and numbers, in order.
    """
    kept: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        new = [line for text in file.read_text(errors="replace").splitlines()
               if (line := _scalars(text)) is not None]  # fmt: skip
        if new:
            first = min(line["step"] for line in new)
            kept = [line for line in kept if line["step"] < first] + new
    return sorted(kept, key=lambda line: (line["step"], line["kind"] != "train"))


def _scalars(text: str) -> dict[str, Any] | None:
    """Read one line of mmengine's scalars; None for one that was cut short or has no step."""
    try:
        values = json.loads(text)
    except ValueError:
        return None
    step = values.pop("step", None) if isinstance(values, dict) else None
    if not isinstance(step, int):
        return None
    step = values.pop("iter", step)
    kind = "train" if any(key.startswith(_OF_TRAINING) for key in values) else "val"
    numbers = {k: v for k, v in values.items() if isinstance(v, (int, float)) and k != "epoch"}
    return {"kind": kind, "step": int(step), **numbers}


def _compared(
    cfg: Config, content: Mapping[str, Any], meta: Mapping[str, Any], iteration: int,
    lines: int, tensors: int,
) -> Sequence[Row]:  # fmt: skip
    """Compare what the run was with what it will be."""
    theirs = dict(meta.get("dataset_meta") or {})
    ours = dataset_meta_of(cfg)
    groups = mapping(content, "optimizer", "checkpoint").get("param_groups", [])
    state = mapping(content, "optimizer", "checkpoint").get("state", {})
    rate = f"{float(groups[0]['lr']):.6g}" if groups else "-"
    hooks = [str(hook.get("type")) for hook in cfg.get("custom_hooks") or ()]
    same_classes = list(theirs.get("classes") or ()) == list(ours.get("classes") or ())
    equal = "equal"
    rows = [
        Row("network", f"{tensors} tensors", equal, "names and shapes fit"),
        Row("optimizer", f"{len(groups)} groups, {len(state)} entries", equal, "taken over"),
        Row("iteration", str(iteration), equal),
        Row("learning rate", rate, "computed anew", "the schedule is stepped from 0 to here"),
        Row("classes", str(len(theirs.get("classes") or ())),
            equal if same_classes else "differ",
            "" if same_classes else "the config's are used; see metainfo"),
        Row("curve", f"{lines} lines", equal, "up to this iteration"),
        Row("seed", str(meta.get("seed")), equal),
        Row("order of samples", "its sampler's", "ours",
            "sample n is a function of (seed, n): some images of this pass come again"),
        Row("random draws", "numpy's global state", "of each sample",
            "crops and colours differ from here on"),
        Row("best score", "in the message hub", "begins anew",
            "the next validation is the first that counts"),
    ]  # fmt: skip
    if hooks:
        rows.append(Row("custom hooks", ", ".join(hooks), "begin anew", "mmengine saves no state"))
    if "ema_state_dict" in content:
        rows.append(Row("average of the weights", "there", equal, "taken over by EMAHook"))
    return rows
