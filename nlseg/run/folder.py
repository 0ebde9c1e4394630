"""One run folder has one owner; an earlier run's files are set aside, never written over."""

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nlseg.errors import UserError
from nlseg.files import reading_again, remove_leftovers
from nlseg.run import processes

LOCK = ".lock"
FAULTS = "faults"
_OF_A_RUN = ("*.pth", "*.pth.json", "last_checkpoint", "scalars.jsonl", "tensorboard", FAULTS)


def check_writable(folder: Path) -> None:
    """Make a run folder and try to write to it, before anything is built.

    Raises:
        UserError: The folder cannot be made, is read-only, or its disk is full.
    """
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to: {error.strerror or error}; make room or change its "
            "permissions, or give this run another --work-dir"
        ) from None


class FolderLock:
    """Holds a run folder for this process; released by the system even when it is killed.

    Args:
        folder: The run folder.
        doing: What its owner does there, for who is refused.
        instead: What else who is refused may do.
    """

    def __init__(
        self,
        folder: Path,
        doing: str = "trains",
        instead: str = "give this run its own --work-dir",
    ) -> None:
        self.path = folder / LOCK
        self.doing, self.instead = doing, instead
        self._file: IO[bytes] | None = None

    def acquire(self) -> str | None:
        """Take the folder.

        Returns:
            A warning where the file system knows no locks.

        Raises:
            UserError: Another process has this folder.
        """
        file = reading_again(self._open)  # held while training runs
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip() or "another process"
            file.close()
            raise UserError(
                f"{self.path.parent}: {owner} {self.doing} in this folder; wait for it, stop it, "
                f"or {self.instead}"
            ) from None
        except OSError as error:
            file.close()
            return f"{self.path}: the file system knows no locks ({error}); start one run only"
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = f"process {os.getpid()} on {socket.gethostname()} (since {started})"
        with contextlib.suppress(OSError):  # the lock holds on a full disk, too
            file.truncate(0)
            file.write(owner.encode())
        self._file = file
        remove_leftovers(self.path.parent)
        return None

    def _open(self) -> IO[bytes]:
        return open(self.path, "a+b", buffering=0)

    def release(self) -> None:
        """Give the folder back."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextlib.contextmanager
def held(folder: Path, doing: str, instead: str) -> Iterator[None]:
    """Make a folder and hold it as long as the block runs.

    Args:
        folder: May be there.
        doing: What the block does there, for who is refused.
        instead: What else who is refused may do.

    Raises:
        UserError: Another process holds it, or it cannot be written to.
    """
    lock = FolderLock(folder, doing, instead)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        warning = lock.acquire()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to: {error.strerror or error}; make room, change its "
            f"permissions, or {instead}"
        ) from None
    if warning is not None:
        sys.stderr.write(f"{warning}\n")
    try:
        yield
    finally:
        lock.release()


def set_aside(folder: Path) -> Path | None:
    """Move what an earlier run left behind into a folder of its own.

    Returns:
        That folder; None where there was no checkpoint of an earlier run.
    """
    if not any(folder.glob("*.pth")):
        return None
    target = folder / f"before_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}"
    target.mkdir()
    for pattern in _OF_A_RUN:
        for path in folder.glob(pattern):
            path.rename(target / path.name)
    return target


def is_seen_by_all(folder: Path) -> bool:
    """Return whether all processes see the same folder; those of several nodes need not."""
    if processes.world_size() == 1:
        return True
    mark = folder / f".seen.{socket.gethostname()}.{os.getpid()}"
    written = False
    if processes.is_main():
        with contextlib.suppress(OSError):
            mark.touch()
            written = True
    name = processes.broadcast_text(mark.name if written else "")
    seen = bool(name) and (folder / name).exists()
    everywhere = not processes.any_of(not seen)
    if written:
        mark.unlink(missing_ok=True)
    return everywhere
