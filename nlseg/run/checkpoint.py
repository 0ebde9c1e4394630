"""Checkpoint files: plain values only, written whole, with size and SHA-256 in a JSON beside them.

The order is always: data under a temporary name, flush, sync, rename, JSON, then the pointer
``last_checkpoint``, and only then may older files go. A kill at any
moment leaves at least one whole checkpoint.

"""

import hashlib
import json
import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from nlseg.errors import CheckpointError, RunError
from nlseg.files import is_stale, replace_file, sha256_of, write_file
from nlseg.weights import files
from nlseg.weights.files import read_checkpoint, record_checksum


class SaveError(RunError, OSError):
    """A checkpoint that could not be written."""


@dataclass(frozen=True)
class Record:
    """What the JSON beside a checkpoint says about it.

    Args:
        file: Name of the checkpoint in the same folder.
        size: Bytes.
        sha256: Hex digest of the whole file.
        iter: Iterations trained.
        epoch: Epochs trained.
        resumable: Whether optimizer and schedule are in the file, too.
        scores: Validation scores at this iteration; empty until it has been validated.
    """

    file: str
    size: int
    sha256: str
    iter: int = 0
    epoch: int = 0
    resumable: bool = True
    scores: dict[str, float] = field(default_factory=dict)


class _HashingFile:
    """A file open for writing that hashes what passes through and remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.size += len(data)
        return written

    def flush(self) -> None:
        self.file.flush()


def save(checkpoint: Mapping[str, Any], path: Path) -> Record:
    """Write a checkpoint and the JSON beside it.

    Args:
        checkpoint: Only tensors, numbers, strings and plain containers; see ``plain``.
        path: Final name. An existing file of this name stays until the new one is whole.

    Raises:
        SaveError: The disk is full, the folder cannot be written, ...
    """
    seen: list[_HashingFile] = []

    def write(file: BinaryIO) -> None:
        seen.append(_HashingFile(file))
        torch.save(dict(checkpoint), cast(BinaryIO, seen[0]))

    try:
        replace_file(path, write, stale=record_path(path))
        meta = checkpoint.get("meta", {})
        record = Record(
            file=path.name,
            size=seen[0].size,
            sha256=seen[0].digest.hexdigest(),
            iter=int(meta.get("iter", 0)),
            epoch=int(meta.get("epoch", 0)),
            resumable="optimizer" in checkpoint,
        )
        write_record(path, record)
    except (OSError, RuntimeError) as error:
        cause = seen[0].error if seen and seen[0].error else error
        if not isinstance(cause, OSError):
            raise
        raise _save_error(path, checkpoint, cause) from cause
    return record


def _save_error(path: Path, checkpoint: Mapping[str, Any], cause: OSError) -> SaveError:
    mib = 1 << 20
    free = shutil.disk_usage(path.parent).free / mib if path.parent.is_dir() else 0.0
    error = SaveError(
        f"{path}: cannot be written: {cause.strerror or cause}; {bytes_in(checkpoint) / mib:.1f} "
        f"MiB are needed, {free:.1f} MiB are free in that folder"
    )
    error.errno = cause.errno
    return error


def bytes_in(value: Any) -> int:
    """Count the bytes of all tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(bytes_in(item) for item in value.values())
    return sum(bytes_in(item) for item in value) if isinstance(value, (list, tuple)) else 0


def record_path(path: Path) -> Path:
    """Return the name of the JSON beside a checkpoint."""
    return path.with_name(path.name + ".json")


def write_record(path: Path, record: Record) -> None:
    """Write the JSON beside a checkpoint, with a checksum of itself."""
    values = {**asdict(record), "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    text = json.dumps({**values, "crc32": record_checksum(values)}, indent=1)
    write_file(record_path(path), text)


def read_record(path: Path) -> Record | None:
    """Read the JSON beside a checkpoint; None where there is none or it is damaged."""
    values = files.read_record(path)
    try:
        return Record(**{name: values[name] for name in Record.__dataclass_fields__})
    except (KeyError, TypeError):
        return None


def plain(value: Any) -> Any:  # noqa: PLR0911 - one return for each kind
    """Turn nested values into what ``torch.load(weights_only=True)`` reads.

    Tensors come to the host without their graph; numpy scalars and arrays become numbers and
    tensors; sets, which PyTorch before 2.5 refuses to read, become sorted lists; an object of any
    other class becomes its ``repr``.
    """
    if isinstance(value, Tensor):
        return _own_tensor(value)
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        kind = list if type(value) is list else tuple
        return kind(plain(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str(value)
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else repr(value)


def _own_tensor(tensor: Tensor) -> Tensor:
    """Detach, bring to the host, and give a view storage of its own so that no more is saved."""
    result = tensor.detach().cpu()
    whole = result.untyped_storage().nbytes() == result.numel() * result.element_size()
    return result if whole else result.clone()


POINTER = "last_checkpoint"


def damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint file, or None when it is whole.

    Its size and hash are compared with the JSON beside it. Without one, or with a damaged one, the
    file speaks for itself: each of its entries carries a checksum.
    """
    if not path.is_file():
        return "is not there"
    record = read_record(path)
    if record is None:
        return broken_entry(path)
    size = path.stat().st_size
    if size != record.size:
        return f"has {size} bytes instead of {record.size}"
    return None if sha256_of(path) == record.sha256 else "does not match its SHA-256"


def broken_entry(path: Path) -> str | None:
    """Say which part of a file does not match the checksum that PyTorch wrote with it, if any."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        if is_stale(error):
            raise
        return f"is damaged: {error}"
    return None if broken is None else f"is damaged: {broken} does not match its checksum"


def point_to(path: Path) -> None:
    """Make ``last_checkpoint`` name this file, without its folder."""
    write_file(path.with_name(POINTER), path.name)


def pointed(folder: Path) -> Path | None:
    """Return the file that ``last_checkpoint`` names; only the name counts, not its folder."""
    try:
        name = (folder / POINTER).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return folder / Path(name).name if name else None


def remove(path: Path) -> None:
    """Delete a checkpoint and then the JSON beside it."""
    path.unlink(missing_ok=True)
    record_path(path).unlink(missing_ok=True)


def number_of(path: Path, template: str) -> int | None:
    """Return the number in a name that follows a template such as ``iter_{}.pth``, else None."""
    pattern = re.escape(template).replace(r"\{\}", r"(\d+)")
    match = re.fullmatch(pattern, path.name)
    return int(match.group(1)) if match else None


def numbered(folder: Path, template: str) -> dict[int, Path]:
    """List the checkpoints whose name follows a template, by number."""
    found = {path: number_of(path, template) for path in folder.glob("*.pth")}
    return {number: path for path, number in found.items() if number is not None}


def prune(folder: Path, template: str, *, keep: int, current: int) -> None:
    """Delete all but the newest ``keep`` checkpoints up to number ``current``."""
    files = numbered(folder, template)
    numbers = sorted(number for number in files if number <= current)
    for number in numbers[: max(len(numbers) - keep, 0)]:
        remove(files[number])


def newest(folder: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Find the newest whole checkpoint that a run can be resumed from.

    Asked in this order: the one that ``last_checkpoint`` names, older ones, and at last newer ones,
    which belong to a run that was started again from an earlier point. The JSON beside a file makes
    this faster; a file without one is read instead.

    Returns:
        The file, or None, and the files passed over, each with the reason.
    """
    first = pointed(folder)
    records = {path: read_record(path) for path in folder.glob("*.pth")}
    start = _position(first, records) if first in records else None
    skipped: list[tuple[Path, str]] = []
    if first is not None and first not in records:
        skipped.append((first, f"is named by {POINTER} but is not there"))
    for path in sorted(records, key=lambda path: _order(path, records[path], first, start)):
        record = records[path]
        if record is not None and not record.resumable:
            continue
        reason = damage(path)
        if reason is None and (record is not None or is_resumable(path)):
            return path, skipped
        if reason is not None:
            skipped.append((path, reason))
    return None, skipped


def is_resumable(path: Path) -> bool:
    """Return whether a checkpoint without a JSON beside it can be read and resumed from."""
    try:
        return "optimizer" in read_checkpoint(path)
    except CheckpointError:
        return False


def _position(path: Path | None, records: dict[Path, Record | None]) -> int:
    record = records.get(path) if path else None
    digits = re.findall(r"\d+", path.stem) if path else []
    return record.iter if record else int(digits[-1]) if digits else -1


def _order(
    path: Path, record: Record | None, first: Path | None, start: int | None
) -> tuple[bool, bool, int, str]:
    position = _position(path, {path: record})
    return path != first, start is not None and position > start, -position, path.name
