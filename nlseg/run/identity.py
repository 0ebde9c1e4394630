"""What a run is: its config, data and code, compared over all processes and kept in checkpoints."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mmengine
import torch
from torch import Tensor, nn

import nlseg
from nlseg.config.text import hide_secrets
from nlseg.errors import ConfigError
from nlseg.run import processes
from nlseg.run.protocol import RunnerProtocol
from nlseg.table import format_table

Facts = dict[str, str]

_SIZES_LOOKED_AT = 500  # files of a data set whose size is compared, evenly spread
_SHOWN = 30
_LETTERS = 60
_OF_ONE_MACHINE = (
    "work_dir", "data_root", "cache_dir", "out_dir", "fallback_dir", "filename", "local_rank",
)  # fmt: skip
_OF_ONE_START = (
    "work_dir", "resume", "load_from", "experiment_name", "launcher", "log_level", "max_time",
    "time_limits", "visualizer", "vis_backends", "env_cfg",
)  # fmt: skip
_TOLD_ELSEWHERE = (  # among the settings of a checkpoint, see ``state.describe_settings``
    "randomness.seed", "optim_wrapper.optimizer.", "optim_wrapper.accumulative_counts",
    "param_scheduler", "train_cfg.max_", "train_dataloader.batch_size",
)  # fmt: skip


def of_config(config: Mapping[str, Any]) -> Facts:
    """Return each value of a resolved config, and the code that runs it.

    Args:
        config: The config, as a plain dict.

    Returns:
        Text by dotted name; what belongs to one machine only is left out, and so are secrets.
    """
    facts = {
        name: hide_secrets(text)
        for name, text in _flat(config)
        if not set(name.split(".")) & {*_OF_ONE_MACHINE}
    }
    return {**facts, "code": _code()}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and any(
        isinstance(item, (Mapping, list, tuple)) for item in value
    ):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        yield name, _text(value)
        return
    for key, item in items:
        yield from _flat(item, f"{name}.{key}" if name else key)


def _text(value: Any) -> str:
    """Write a value without the address of an object."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return repr([_text(item) for item in value])
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def _code() -> str:
    """Name the versions, and digest the package's own files, as a version may be edited."""
    digest = hashlib.sha256()
    root = Path(nlseg.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    versions = f"torch {torch.__version__}, mmengine {mmengine.__version__}"
    return f"nlseg {nlseg.__version__} ({digest.hexdigest()[:8]}), {versions}"


def of_data(dataset: Any, name: str) -> Facts:
    """Return what a data set consists of.

    Args:
        dataset: The data set; those inside it count.
        name: What it is used for.

    Returns:
        For each data set its class, number of images, and a digest of their names below its root
        and of the sizes of up to 500 files.
    """
    inner = [*getattr(dataset, "datasets", []), *filter(None, [getattr(dataset, "dataset", None)])]
    length = f"{len(dataset)} images" if hasattr(dataset, "__len__") else "endless"
    facts = {f"{name} data": f"{type(dataset).__name__}, {length}{_digest(dataset)}"}
    for number, part in enumerate(inner):
        facts |= of_data(part, f"{name}.{number}")
    return facts


def _digest(dataset: Any) -> str:
    entries = getattr(dataset, "data_list", None)
    if not entries or not isinstance(entries[0], Mapping) or "img_path" not in entries[0]:
        return ""
    root = str(getattr(dataset, "data_root", None) or "")
    names, every = hashlib.sha256(), max(len(entries) // _SIZES_LOOKED_AT, 1)
    for index in range(len(entries)):
        entry = entries[index]
        for key in ("img_path", "seg_map_path"):
            path = entry.get(key)
            if isinstance(path, str):
                names.update(path.removeprefix(root).encode(errors="replace") + b"\0")
                if index % every == 0:
                    names.update(_size(path))
    return f", names and sizes {names.hexdigest()[:8]}"


def _size(path: str) -> bytes:
    try:
        return str(os.stat(path).st_size).encode()
    except (OSError, ValueError):  # in an archive or on a server
        return b"?"


def of_weights(state: Mapping[str, Any]) -> Facts:
    """Return a checksum of all bits of a network, exact whatever the order of summation.

    Source: the sum of x_i (2i + 1) modulo 2^64 over the numbers' bits, tensor after tensor.
    """
    total = 0
    for tensor in state.values():
        if isinstance(tensor, Tensor) and tensor.numel():
            flat = tensor.detach().contiguous().flatten()
            bits = flat.view(torch.int32 if flat.element_size() == 4 else torch.uint8).long()
            odd = torch.arange(1, 2 * len(bits), 2, device=bits.device)
            total = (total * 1000003 + int((bits * odd).sum())) % 2**64
    return {"weights": f"{total:x}"}


def compare_data(runner: RunnerProtocol, *names: str) -> None:
    """Make sure that all processes see the same images, and note which.

    Args:
        runner: The runner, whose ``facts`` are added to.
        names: 'train', 'val' or 'test'.

    Raises:
        ConfigError: They do not.
    """
    for name in names:
        loader = getattr(getattr(runner, f"{name}_loop"), "dataloader", None)
        if loader is not None:
            runner.facts |= of_data(loader.dataset, name)
    agree(runner.facts)


def compare_weights(model: nn.Module) -> None:
    """Make sure that all processes have loaded the same weights.

    Raises:
        ConfigError: They have not.
    """
    if processes.world_size() > 1:
        agree(of_weights(processes.unwrap(model).state_dict()))


def agree(facts: Facts) -> None:
    """Stop all processes where one of them runs something else.

    Raises:
        ConfigError: On all; it names the process and what differs.
    """
    if processes.world_size() == 1:
        return
    text = json.dumps(facts, sort_keys=True)
    own = torch.tensor(
        int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
    )
    differs = bool(processes.broadcast(own) != own)
    place = processes.rank() if differs else processes.world_size()
    first = -int(processes.max_over_ranks(torch.tensor(-place)).item())
    if first == processes.world_size():
        return
    one = json.loads(processes.broadcast_text(text))
    other = json.loads(processes.broadcast_text(text, first))
    header = ["", "process 0", f"process {first}"]
    raise ConfigError(
        f"process {first} is not part of the same run as process 0:\n"
        f"{_table(header, differences(one, other))}"
    )


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the facts that differ: name to both texts, a dash where it is not there."""
    names = dict.fromkeys([*one, *other])
    pairs = {name: (one.get(name, "-"), other.get(name, "-")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def describe_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Write what has changed since a checkpoint was written; nothing where nothing has.

    Settings that are told of in another table, and what any start may change, are left out.
    """
    changes = {
        name: pair
        for name, pair in differences(before, now).items()
        if name.split(".")[0] not in _OF_ONE_START and not name.startswith(_TOLD_ELSEWHERE)
    }
    return _table(["", "in the checkpoint", "now"], changes) if changes else ""


def _table(header: list[str], changes: Mapping[str, tuple[str, str]]) -> str:
    rows = [(name, *map(_short, pair)) for name, pair in list(changes.items())[:_SHOWN]]
    more = f"\n  and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    table = format_table(header, rows, rule=False)
    return "\n".join(f"  {line}" for line in table.splitlines()) + more


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..."
