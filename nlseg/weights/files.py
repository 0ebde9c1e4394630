"""The one door for weight files: where they come from, and what is refused before a byte is used.

A source is a file, an https address, a published name (``open-mmlab://resnet50_v1c``,
``torchvision://resnet50``, the name of a published config), or a repository of the Hugging Face Hub
(``hf://OWNER/NAME``). PyTorch's files go through the inert reader, safetensors have their
own. What is read is whole: compared with the checksums of the archive, the digits in the file's
name, and the JSON that nlseg writes beside its checkpoints.
"""

import datetime
import json
import re
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlseg.errors import CheckpointError, near_words
from nlseg.files import sha256_of
from nlseg.memory import free_memory, shown_bytes
from nlseg.weights.archive import read_pytorch
from nlseg.weights.downloads import hash_in_name, locate
from nlseg.weights.published import NAMES
from nlseg.weights.recognize import what_instead
from nlseg.weights.safetensors_file import read_safetensors

_SPARSE_FROM = 64 << 20  # bytes; below, a hole in a file is harmless
_START = 4096  # bytes that are looked at to tell what a file is


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the host.

    Args:
        source: File, https address, published name, or ``hf://OWNER/NAME[@REVISION]``.

    Raises:
        CheckpointError: It is not there, damaged, no checkpoint, larger than memory, or asks for
            more than data.
    """
    path = locate(source)
    _check_file(path)
    _check_digest(path)
    if path.suffix == ".safetensors" or _looks_like_safetensors(path):
        return {"state_dict": read_safetensors(path)}
    content = read_pytorch(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint's dict")
    return content


def _check_file(path: Path) -> None:
    """Refuse what is no file, no weight file, or more than memory holds.

    Raises:
        CheckpointError: It is.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is not there{_neighbours(path)}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise CheckpointError(f"{path}: is {kind}, not a checkpoint{_neighbours(path / 'x')}")
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}") from None
    if reason := what_instead(start):
        raise CheckpointError(f"{path}: {reason}")
    size, written = status.st_size, status.st_blocks * 512
    if size > _SPARSE_FROM and 0 < written < size // 2:
        raise CheckpointError(
            f"{path}: is refused: of its {shown_bytes(size)} only {shown_bytes(written)} were ever "
            "written, as after a copy or download that was cut off; fetch it again"
        )
    free = free_memory()
    if free is not None and size > free:
        raise CheckpointError(
            f"{path}: is refused: its {shown_bytes(size)} do not fit into the {shown_bytes(free)} "
            "of memory that are free"
        )


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _neighbours(path: Path) -> str:
    near = near_words(str(path), NAMES)
    if near:
        return f"; did you mean the published {near[0]}?"
    files = sorted(file.name for file in path.parent.glob("*.pth")) if path.parent.is_dir() else []
    return f"; in that folder: {', '.join(files[-5:])}" if files else ""


def _looks_like_safetensors(path: Path) -> bool:
    """Return whether a file begins with the length of a JSON header, whatever its name."""
    with open(path, "rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 2 <= length <= path.stat().st_size - 8


def _check_digest(path: Path) -> None:
    """Compare a file with the digits in its name and with the JSON beside it, where there are any.

    Raises:
        CheckpointError: They differ.
    """
    named, record = hash_in_name(path.name), _record(path)
    if named and not _is_date(named):
        _expect(path, named, "its name ends in", "it is damaged or was changed; fetch it again")
    if record is not None:
        remedy = f"it is damaged, or {path.name}.json is that of another file"
        if record[0] != path.stat().st_size:
            raise CheckpointError(
                f"{path}: has {path.stat().st_size} bytes instead of {record[0]}; {remedy}"
            )
        _expect(path, record[1], "the JSON beside it says", remedy)


def _expect(path: Path, digits: str, origin: str, remedy: str) -> None:
    found = sha256_of(path)
    if not found.startswith(digits):
        raise CheckpointError(
            f"{path}: does not match its SHA-256: {origin} {digits[:16]}, its content gives "
            f"{found[:16]}; {remedy}"
        )


def _is_date(digits: str) -> bool:
    """Return whether eight digits at the end of a name are a day, which people write there too."""
    try:
        return datetime.datetime.strptime(digits, "%Y%m%d").year >= 2000
    except ValueError:
        return False


def _record(path: Path) -> tuple[int, str] | None:
    """Return size and SHA-256 from the JSON beside a checkpoint; None where none can be used."""
    values = read_record(path)
    size, digest = values.get("size"), values.get("sha256")
    if not isinstance(size, int) or not isinstance(digest, str):
        return None
    return (size, digest) if re.fullmatch("[0-9a-f]{64}", digest) else None


def read_record(path: Path) -> dict[str, Any]:
    """Read the JSON that nlseg writes beside a checkpoint.

    Returns:
        Its values; nothing where there is none, or it is damaged: where it holds a checksum of
        itself that does not match.
    """
    try:
        values = json.loads(path.with_name(f"{path.name}.json").read_text())
        values = dict(values)
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
    own = values.pop("crc32", None)
    return values if own is None or own == record_checksum(values) else {}


def record_checksum(values: Mapping[str, Any]) -> str:
    """Return the checksum of the values of a checkpoint's JSON, which stands in it as crc32."""
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"
