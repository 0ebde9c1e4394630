"""What a training says first and last: its choices in ten lines, and what there is in the end."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict

from nlseg.config.text import hide_secrets
from nlseg.evaluation.scores import beside_mean
from nlseg.run import checkpoint, processes
from nlseg.run.loaders import batch_size_of
from nlseg.run.logs import SCALARS_FILE, read_scalars
from nlseg.run.protocol import RunnerProtocol

REPORT = "report.html"
_SCORE = "mIoU"


def describe_choices(runner: RunnerProtocol) -> str:
    """Say in at most ten lines what a training is about to do.

    Args:
        runner: The runner, ready to train.
    """
    parts: list[tuple[str, Callable[[RunnerProtocol], str]]] = [
        ("network", _network), ("weights", _weights), ("data", _data), ("batch", _batch),
        ("optimizer", _optimizer), ("length", _length), ("saved", _saved), ("device", _device),
        ("folder", lambda runner: shorter(runner.work_dir)),
    ]  # fmt: skip
    lines = [f"Training {runner.experiment_name}"]
    for name, describe in parts:
        text = describe(runner)
        if text:
            lines.append(f"  {name:<9}  {text}")
    return "\n".join(lines)


def shorter(path: str | Path) -> str:
    """Return a path as seen from the present folder where it lies below it."""
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith("..") else relative


def _network(runner: RunnerProtocol) -> str:
    network = processes.unwrap(runner.model)
    parts = [getattr(network, name, None) for name in ("backbone", "decode_head")]
    names = [runner.model_name, *(type(part).__name__ for part in parts if part is not None)]
    depth = getattr(parts[0], "depth", None)
    if depth is not None:
        names[1] += f"-{depth}"
    number = sum(parameter.numel() for parameter in network.parameters())
    classes = getattr(parts[1], "num_classes", None)
    told = [" + ".join(names), f"{number / 1e6:.2f} M parameters"]
    return ", ".join([*told, f"{classes} classes"] if classes else told)


def _weights(runner: RunnerProtocol) -> str:
    if runner.resumed.path is not None:
        return f"resumed from {shorter(runner.resumed.path)} at iteration {runner.iter}"
    if runner.cfg.get("load_from"):
        return f"from {runner.cfg.load_from}"
    model = runner.cfg.get("model") or {}
    backbone = model.get("backbone") or {}
    init = backbone.get("init_cfg") or {}
    init = init if isinstance(init, Mapping) else {}
    given = model.get("pretrained") or init.get("checkpoint")
    return f"backbone from {given}" if given else "random"


def _data(runner: RunnerProtocol) -> str:
    told = []
    for name, loop in (("training", runner.train_loop), ("validation", runner.val_loop)):
        dataset = getattr(getattr(loop, "dataloader", None), "dataset", None)
        if dataset is not None:
            told.append(f"{len(dataset)} images for {name} ({type(dataset).__name__})")
    return ", ".join(told)


def _batch(runner: RunnerProtocol) -> str:
    size = batch_size_of(runner.train_dataloader)
    number = processes.world_size()
    steps = int(getattr(runner.optim_wrapper, "accumulative_counts", 1))
    told = f"{size} images"
    if number > 1 or steps > 1:
        told = f"{size} images x {number} processes x {steps} accumulated = {size * number * steps}"
    preprocessor = getattr(processes.unwrap(runner.model), "data_preprocessor", None)
    crop = getattr(preprocessor, "size", None)
    return f"{told} of {' x '.join(map(str, crop))} px" if isinstance(crop, list | tuple) else told


def _optimizer(runner: RunnerProtocol) -> str:
    wrapper = runner.optim_wrapper
    optimizers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    told = []
    for one in optimizers:
        group = one.param_groups[0]
        keys = ("lr", "momentum", "weight_decay")
        values = [f"{key.replace('_', ' ')} {group[key]:g}" for key in keys if key in group]
        values[0] = f"lr {group.get('initial_lr', group['lr']):g}"
        told.append(", ".join([type(one.optimizer).__name__, *values]))
    return ", ".join([*told, *dict.fromkeys(type(one).__name__ for one in _schedulers(runner))])


def _schedulers(runner: RunnerProtocol) -> Iterator[Any]:
    found = runner.param_schedulers or ()
    return chain.from_iterable(found.values()) if isinstance(found, Mapping) else iter(found)


def _length(runner: RunnerProtocol) -> str:
    loop = runner.train_loop
    by_epoch = getattr(loop, "by_epoch", runner.max_epochs > 1)
    unit = "epochs" if by_epoch else "iterations"
    told = f"{runner.max_epochs} epochs, " if by_epoch else ""
    told += f"{runner.max_iters} iterations"
    return f"{told}, validated every {runner.val_interval} {unit}" if runner.val_loop else told


def _saved(runner: RunnerProtocol) -> str:
    hook = runner.checkpoints
    unit = "epochs" if hook.by_epoch else "iterations"
    told = [f"every {hook.interval} {unit}"] if hook.interval > 0 else []
    told += ["at the end"] if hook.save_last and not told else []
    return ", ".join([*told, *(f"the best {key}" for key in hook.best.keys)])


def _device(runner: RunnerProtocol) -> str:
    device = processes.device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    told = [name if device.type == "cuda" else f"{name}, {torch.get_num_threads()} threads"]
    if "Amp" in type(runner.optim_wrapper).__name__:
        told.append(f"half precision ({runner.cfg.optim_wrapper.get('dtype') or 'default type'})")
    told += [key for key in ("compile", "channels_last", "tf32") if runner.cfg.get(key)]
    told += ["deterministic"] if runner.deterministic else []
    return ", ".join([*told, f"seed {runner.seed}"])


def describe_end(runner: RunnerProtocol, begin_s: float) -> str:
    """Say what a training has left behind, and the command that most people type next.

    Args:
        runner: The runner, after training.
        begin_s: When training began, by ``time.monotonic``.
    """
    seconds = round(time.monotonic() - begin_s)
    clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    score = _best_score(runner)
    file = best_checkpoint(runner)
    lines = [f"Done: {runner.iter} iterations; this start took {clock}.{score and f' {score}.'}"]
    found: dict[str, str | None] = {
        "folder": shorter(runner.work_dir),
        "checkpoint": None if file is None else shorter(file),
        "report": _if_there(Path(runner.work_dir, REPORT)),
        "next": None if file is None else next_command(runner, file),
    }
    return "\n".join(lines + [f"  {name:<10}  {text}" for name, text in found.items() if text])


def _if_there(path: Path) -> str | None:
    return shorter(path) if path.is_file() else None


def _best_score(runner: RunnerProtocol) -> str:
    """Name the best score: the one that checkpoints are kept by, else mIoU of any validation."""
    best = runner.state.best
    if best:
        key, entry = next(iter(best.items()))
        unit = "epoch" if runner.checkpoints.by_epoch else "iteration"
        partly = beside_mean(entry.get("unscored", ()))
        return f"Best {key} {entry['score']:.2f} at {unit} {entry['iter']}{partly}"
    file = Path(runner.work_dir, SCALARS_FILE)
    lines = read_scalars(file) if file.is_file() else []
    found = [line for line in lines if _SCORE in line]
    if not found:
        return ""
    line = max(found, key=lambda line: line[_SCORE])
    text = f"Best {_SCORE} {line[_SCORE]:.2f} at iteration {line['step']}"
    counted = sum(key.startswith("IoU/") for key in line)
    dataset = getattr(runner.val_dataloader, "dataset", None)
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
    lacks_some = 0 < counted < len(classes)  # 0: the score is of another metric
    return text + (f" over {counted} of {len(classes)} classes" if lacks_some else "")


def best_checkpoint(runner: RunnerProtocol) -> Path | None:
    """Return the checkpoint with the best score, else the last one; None where there is none."""
    folder = runner.checkpoints.place(runner)
    names = [entry["file"] for entry in runner.state.best.values()]
    there = [folder / name for name in names if (folder / name).is_file()]
    return there[0] if there else checkpoint.pointed(folder)


def next_command(runner: RunnerProtocol, weights: Path) -> str | None:
    """Return the command that tests weights and says where the points went.

    Args:
        runner: The runner; where its config has no test there is no such command.
        weights: The checkpoint.
    """
    name = Path(runner.cfg.filename or f"{runner.timestamp}.py").name
    configs = [Path(runner.work_dir, name), Path(runner.cfg.filename or name)]
    file = next((path for path in configs if path.is_file()), None)
    if file is None or not runner.cfg.get("test_dataloader") or not runner.cfg.get("model"):
        return None
    return shlex.join([*start_of("test"), shorter(file), shorter(weights), "--report"])


def start_of(command: str) -> list[str]:
    """Return the words that start a command of nlseg in the way in which this one was started."""
    script = Path(sys.argv[0])
    beside = script.with_name(f"{command}.py")
    if script.suffix == ".py" and script.name != "__main__.py" and beside.is_file():
        return [_python(), shorter(beside)]
    return ["nlseg", command] if shutil.which("nlseg") else [_python(), "-m", "nlseg", command]


def this_command(runner: RunnerProtocol) -> str:
    """Return the command that this process was started by; torchrun in front where it was there.

    Args:
        runner: Says who started the processes.
    """
    program, *rest = sys.argv
    is_command = program.startswith("nlseg ")
    if runner.launcher == "pytorch":
        here = processes.processes_here()
        nodes = processes.world_size() // here
        words = ["torchrun", *([f"--nnodes={nodes}"] if nodes > 1 else [])]
        words += [f"--nproc-per-node={here}"]
        words += ["-m", *program.split()] if is_command else [program]
    elif is_command:
        words = start_of(program.removeprefix("nlseg "))
    else:
        words = [_python(), program] if program.endswith(".py") else [program]
    number = processes.world_size()
    alone = number == 1 or runner.launcher == "pytorch"
    told = "" if alone else f"  # {number} processes, started by {runner.launcher}"
    return hide_secrets(shlex.join([*words, *rest]) + told)


def _python() -> str:
    found = shutil.which("python")
    same = found is not None and os.path.samefile(found, sys.executable)
    return "python" if same else sys.executable
