"""Files that are whole or not there, whatever kills the process or fills the disk."""

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_TEMPORARY = ".nlseg-tmp"
_CHUNK = 1 << 22
_STALE_PAUSES_S = (0.2, 1.0, 3.0)
T = TypeVar("T")


def replace_file(
    path: Path, write: Callable[[BinaryIO], Any], *, stale: Path | None = None
) -> None:
    """Write a file so that at any moment it is the old one or the new one, and survives a crash.

    Args:
        path: The final name.
        write: Writes the content into an open file.
        stale: A file about the old content, deleted right before the new one takes its place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if stale is not None:
            stale.unlink(missing_ok=True)
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None:  # else it has its own words
            error.filename = str(path)  # not the temporary one, which nobody knows
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_file(path: Path, content: bytes | memoryview | str) -> None:
    """Write bytes, or text in UTF-8, as ``replace_file`` does."""
    data = content.encode() if isinstance(content, str) else content
    replace_file(path, lambda file: file.write(data))


def try_writing(folder: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file to the disk and delete it again, to see whether that can be done.

    Args:
        folder: Where.
        write: Writes the content into an open file.

    Raises:
        OSError: It cannot be done.
    """
    temporary = folder / f".trial.{os.getpid()}{_TEMPORARY}"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name; copied with care where links do not exist."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}{_TEMPORARY}")
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # a rename between two names of one file keeps both
        sync_folder(target.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        with open(source, "rb") as origin:
            replace_file(target, lambda file: shutil.copyfileobj(origin, file, _CHUNK))


def open_standard_streams() -> None:
    """Open what is closed of stdin, stdout and stderr, so that no other file gets their numbers.

    A job that was started without them would else write its messages into a checkpoint.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def flush_standard_streams() -> None:
    """Write out what is left of stdout and stderr; a terminal that is gone changes no exit code."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)


def in_use(folder: Path) -> str:
    """Return why a folder is no new one: that it is a file, or is not empty; else nothing."""
    if not folder.exists():
        return ""
    if not folder.is_dir():
        return "is a file"
    return "is not empty" if any(folder.iterdir()) else ""


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of a process that was killed while it wrote."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def reading_again(read: Callable[[], T]) -> T:
    """Read again where a network file system has lost a file for a moment (ESTALE).

    Args:
        read: Opens and reads files, and closes them again when it fails.
    """
    for pause_s in _STALE_PAUSES_S:
        try:
            return read()
        except (OSError, ValueError) as error:
            if not is_stale(error):
                raise
        time.sleep(pause_s)
    return read()


def is_stale(error: Exception) -> bool:
    """Return whether an error, or one of ours that tells of it, is ESTALE."""
    stale = errno.ESTALE
    return getattr(error, "errno", None) == stale or os.strerror(stale) in str(error)
