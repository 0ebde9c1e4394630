"""The checkpoints of a run folder: which is whole, which is the newest, which may go."""

import re
import zipfile
from pathlib import Path

from nlseg.errors import CheckpointError
from nlseg.files import replace_file
from nlseg.run.checkpoint import Record, read_record, record_path, sha256_of
from nlseg.weights.files import read_checkpoint

POINTER = "last_checkpoint"
_ABSENT = object()


def damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint file, or None when size and hash hold."""
    record = read_record(path)
    if not path.is_file():
        return "is not there"
    if record is None:
        return f"has no readable {record_path(path).name} beside it, so it cannot be checked"
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
        return f"is damaged: {error}"
    return None if broken is None else f"is damaged: {broken} does not match its checksum"


def point_to(path: Path) -> None:
    """Make ``last_checkpoint`` name this file, without its folder."""
    replace_file(path.with_name(POINTER), lambda file: file.write(path.name.encode()))


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


def numbered(folder: Path, template: str) -> dict[int, Path]:
    """List the checkpoints whose name follows a template such as ``iter_{}.pth``, by number."""
    pattern = re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))
    found = {path: pattern.fullmatch(path.name) for path in folder.glob("*.pth")}
    return {int(match.group(1)): path for path, match in found.items() if match}


def prune(folder: Path, template: str, *, keep: int, current: int) -> None:
    """Delete all but the newest ``keep`` checkpoints up to number ``current``."""
    files = numbered(folder, template)
    numbers = sorted(number for number in files if number <= current)
    for number in numbers[: max(len(numbers) - keep, 0)]:
        remove(files[number])


def newest(folder: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Find the newest whole checkpoint that a run can go on from.

    Asked in this order: the one that ``last_checkpoint`` names, older ones, and at last newer ones,
    which belong to a run that was started again from an earlier point. Only where none of these
    matches its JSON, one without a JSON is taken.

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
        if reason is None:
            return path, skipped
        skipped.append((path, reason))
    for path, _ in skipped:
        if records.get(path, _ABSENT) is None and reads_whole(path):
            return path, [item for item in skipped if item[0] != path]
    return None, skipped


def reads_whole(path: Path) -> bool:
    """Tell whether a checkpoint without a JSON beside it can be read and gone on from.

    A kill right after the first checkpoint got its name leaves such a file. Every entry's checksum
    is compared.
    """
    try:
        return broken_entry(path) is None and "optimizer" in read_checkpoint(path)
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
