"""A folder passed through FUSE that behaves like one of a network file system.

    python -m tests.nodes.shared_server FOLDER MOUNT_POINT CONTROL LATE_S

Names and attributes are cached for 30 s by each mount. What another mount has made or renamed is
seen LATE_S seconds later. There are no locks. While CONTROL/away exists nothing is answered, and
while CONTROL/stale holds a number above 0, so many opens and reads fail with ESTALE.
"""

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mfusepy import FUSE, FuseOSError, Operations

CACHED_S = 30
_ATTRIBUTES = (
    "st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid",
)  # fmt: skip


class Remote(Operations):
    """The server of one mount.

    Args:
        folder: Whose files are shown.
        control: Where a test says what goes wrong.
        late_s: Seconds after which other mounts' new names are seen.
    """

    use_ns = True

    def __init__(self, folder: Path, control: Path, late_s: float) -> None:
        self.folder, self.control, self.late_s = folder, control, late_s
        self.own: set[str] = set()

    def _at(self, path: str) -> str:
        while (self.control / "away").exists():
            time.sleep(0.05)
        return str(self.folder) + path

    def _check(self, path: str) -> str:
        """Return where a file lies, unless it is too new, made by another mount."""
        place = self._at(path)
        if path not in self.own and path != "/":
            age = time.time() - os.lstat(place).st_ctime
            if age < self.late_s and not os.path.isdir(place):
                raise FuseOSError(errno.ENOENT)
        return place

    def _go_stale(self) -> None:
        note = self.control / "stale"
        if note.exists():
            left = int(note.read_text() or 0)
            if left > 0:
                note.write_text(str(left - 1))
                raise FuseOSError(errno.ESTALE)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._check(path))
        facts = {name: getattr(found, name) for name in _ATTRIBUTES}
        for name in ("st_atime", "st_ctime", "st_mtime"):
            facts[name] = getattr(found, f"{name}_ns")
        return facts

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        yield from (".", "..")
        for name in os.listdir(self._at(path)):
            try:
                self._check(os.path.join(path, name))
            except OSError:
                continue
            yield name

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self.own.add(path)
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def open(self, path: str, flags: int) -> int:
        self._go_stale()
        return os.open(self._check(path), flags & ~os.O_APPEND)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._at(path)
        self._go_stale()
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._at(path)
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._at(path), length)
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._at(path)
        os.fsync(fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def rename(self, old: str, new: str) -> int:
        self.own.add(new)
        os.rename(self._at(old), self._at(new))
        return 0

    def link(self, target: str, source: str) -> int:
        self.own.add(target)
        os.link(self._at(source), self._at(target))
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._at(path))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self.own.add(path)
        os.mkdir(self._at(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._at(path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._at(path), mode)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._at(path), ns=times)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_files", "f_frsize", "f_namemax")
        return {name: getattr(found, name) for name in names}

    def lock(self, path: str, fh: int, cmd: int, lock: Any) -> int:
        if cmd == fcntl.F_GETLK:
            return 0
        raise FuseOSError(errno.ENOLCK)

    def flock(self, path: str, fh: int, op: int) -> int:
        raise FuseOSError(errno.ENOLCK)


if __name__ == "__main__":
    shown, mount, said, late = sys.argv[1:]
    FUSE(
        Remote(Path(shown), Path(said), float(late)), mount, foreground=True, nothreads=False,
        attr_timeout=CACHED_S, entry_timeout=CACHED_S,
        negative_timeout=CACHED_S if late == "0" else 0, use_ino=False,
    )  # fmt: skip
