"""Where checkpoints go: the run's folder, made again where it was taken away, or another one.

A save that fails is tried again after growing pauses, and then in folders on other file systems.
Their names follow from that of the run's folder alone, so that a resume finds them.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nlseg.errors import UserError
from nlseg.run.checkpoint import SaveError
from nlseg.run.folder import FolderLock

PAUSES_S = (0.2, 1.0, 3.0)
"""Between the attempts of one save in the run's own folder."""

_IN_MEMORY = Path("/dev/shm")
_ROOT = f"nlseg_fallback_{os.getuid()}"


def fallback_folders(folder: Path, given: str | None = None) -> list[Path]:
    """List where the checkpoints of a run may go when its folder cannot be written.

    Args:
        folder: The folder of the run's checkpoints.
        given: A folder that the user has chosen; it comes first.

    Returns:
        That one; then folders on other file systems, those in memory last; then on the same one.
    """
    own = Path(os.path.abspath(folder))
    name = f"{own.name}_{hashlib.sha256(os.fsencode(own)).hexdigest()[:8]}"
    roots = [Path(tempfile.gettempdir()), Path("/var/tmp"), _IN_MEMORY]
    if os.environ.get("HOME"):
        roots.insert(2, Path(os.environ["HOME"], ".cache"))
    usable = [root for root in dict.fromkeys(roots) if os.access(root, os.W_OK | os.X_OK)]
    usable.sort(key=lambda root: (_same_file_system(root, own), root == _IN_MEMORY))
    chosen = [Path(os.path.abspath(given)) / name] if given else []
    return chosen + [root / _ROOT / name for root in usable]


def _same_file_system(one: Path, other: Path) -> bool:
    while not other.exists():
        other = other.parent
    return one.stat().st_dev == other.stat().st_dev


class Places:
    """The folder of a run's checkpoints, and what stands in for it.

    Args:
        folder: The folder.
        fallbacks: Where files go when it cannot be written.
        lock: Held on the folder by this run.
        say: Called with one line whenever something has changed, not with each failure.
        on_new_folder: Called when the folder had to be made again.
    """

    def __init__(
        self,
        folder: Path,
        fallbacks: Sequence[Path] = (),
        lock: FolderLock | None = None,
        say: Callable[[str], None] = print,
        on_new_folder: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.fallbacks = folder, list(fallbacks)
        self.lock, self.say, self.on_new_folder = lock, say, on_new_folder
        self._locks: dict[Path, FolderLock] = {}  # of the fallbacks that are used
        self._failing = False
        self._told: set[str] = set()
        self._handle: int | None = None
        self._path = ""

    def put(self, write: Callable[[Path], Any], size: int) -> Path:
        """Write into the folder, after some attempts into the first fallback that takes it.

        Args:
            write: Writes into the folder that it is given.
            size: Bytes that will be written, about.

        Returns:
            The folder that was written to.

        Raises:
            SaveError: None of them can be written.
        """
        try:
            self._patiently(write)
            if self._failing:
                self.say(f"{self.folder}: can be written again")
            self._failing, self._told = False, set()
            return self.folder
        except OSError as error:
            self._failing = True
            failures = [error]
        for place in self.fallbacks:
            try:
                self._take(place, size)
                write(place)
            except OSError as error:
                failures.append(error)
                self._leave_empty(place)
                continue
            memory = ", which is memory and does not outlive the machine" * _is_memory(place)
            self.tell(
                f"{failures[0]}; saved to {place} instead{memory}; --resume looks there, too", place
            )
            return place
        raise SaveError("; ".join(dict.fromkeys(map(str, failures)))) from failures[0]

    def tell(self, text: str, about: object) -> None:
        """Say something once, until the folder can be written again."""
        if str(about) not in self._told:
            self._told.add(str(about))
            self.say(text)

    def _patiently(self, write: Callable[[Path], Any]) -> None:
        for pause in (*(() if self._failing else PAUSES_S), None):
            try:
                self.enter()
                write(self.folder)
                return
            except OSError as error:
                if pause is None or error.errno == errno.EROFS:
                    raise
                self.tell(f"{error}; it is tried again", about="retry")
                time.sleep(pause)

    def enter(self) -> None:
        """Make sure that the folder is there, and still the one that this run has locked."""
        now = self._where()
        if now is not None and now == self._path:
            return
        new = self._handle is not None and now is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._release_handle()
        self._handle = os.open(self.folder, os.O_RDONLY)
        self._path = self._where() or ""
        if new:
            gone = now is None or now.endswith(" (deleted)")
            self.say(
                f"{self.folder}: was {'removed' if gone else f'renamed to {now}'} while the run "
                "writes to it; it is made again"
            )
            self._lock_again()
            self.on_new_folder()

    def _where(self) -> str | None:
        """Return where the folder, once opened, is now; None where the system does not say."""
        if self._handle is None:
            return None
        try:
            return os.readlink(f"/proc/self/fd/{self._handle}")
        except OSError:
            return None

    def _lock_again(self) -> None:
        if self.lock is not None:
            self.lock.release()
            try:
                self.lock.acquire()
            except UserError as error:
                self._release_handle()
                raise OSError(errno.EBUSY, str(error)) from None

    def _take(self, place: Path, size: int) -> None:
        """Make a fallback and lock it.

        Raises:
            OSError: It is somebody else's, has no room, or cannot be made.
        """
        if place in self._locks:
            return
        with contextlib.suppress(FileNotFoundError):  # another run has just taken _ROOT away
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (place, place.parent):
            if folder.stat().st_uid != os.getuid() and folder.parent.stat().st_mode & 0o1000:
                raise OSError(errno.EPERM, f"{folder}: belongs to another user")
        free = shutil.disk_usage(place).free
        if free < 2 * size:
            raise OSError(errno.ENOSPC, f"{place}: only {free >> 20} MiB are free")
        lock = FolderLock(place)
        try:
            lock.acquire()
        except UserError as error:
            raise OSError(errno.EBUSY, str(error)) from None
        self._locks[place] = lock

    def _leave_empty(self, place: Path) -> None:
        """Take away a fallback that took nothing."""
        if not any(place.glob("*.pth")):
            with contextlib.suppress(OSError):
                self.clear(place)

    def clear(self, place: Path) -> None:
        """Delete a fallback whose files are no longer needed, and give it back."""
        if place in self._locks:
            self._locks.pop(place).release()
        for path in place.iterdir():
            if path.is_file():
                path.unlink()
        place.rmdir()
        if place.parent.name == _ROOT:
            with contextlib.suppress(OSError):  # another run has its folder there
                place.parent.rmdir()

    def take_over(self) -> None:
        """Hold the fallbacks that an earlier start of this run has left files in.

        As those of this start, they are deleted once the folder holds a newer checkpoint.
        """
        for place in self.fallbacks:
            if any(place.glob("*.pth")):
                with contextlib.suppress(OSError):
                    self._take(place, 0)

    @property
    def used(self) -> list[Path]:
        """The fallbacks that hold files of this run."""
        return list(self._locks)

    def close(self) -> None:
        """Give all folders back."""
        self._release_handle()
        for lock in self._locks.values():
            lock.release()
        if self.lock is not None:
            self.lock.release()

    def _release_handle(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _is_memory(place: Path) -> bool:
    return place.is_relative_to(_IN_MEMORY)
