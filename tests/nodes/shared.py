"""A folder that several nodes see through mounts of their own, as on a network file system."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.nodes.cluster import Node
from tests.run.real_processes import ROOT, environment


def missing() -> str | None:
    """Return why this machine can have no such folder; None where it can."""
    if not Path("/dev/fuse").exists() or os.geteuid() != 0:
        return "needs root and /dev/fuse"
    if importlib.util.find_spec("mfusepy") is None:
        return "needs mfusepy"
    try:
        import mfusepy  # noqa: F401 - loads the library
    except OSError as error:
        return f"needs libfuse ({error})"
    return None


class SharedFolder:
    """One folder, mounted once for each node at the same place.

    Args:
        folder: For the files and the mounts.
        nodes: Who sees it.
        late_s: Seconds after which a node sees what another one has made.
    """

    def __init__(self, folder: Path, nodes: Sequence[Node], late_s: float = 0.0) -> None:
        self.files, self.control = folder / "files", folder / "control"
        self.place = folder / "shared"
        self.mounts = [folder / f"mount_{node.name}" for node in nodes]
        self.nodes, self.late_s = nodes, late_s
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "SharedFolder":
        """Mount it."""
        for path in (self.files, self.control, self.place, *self.mounts):
            path.mkdir(parents=True, exist_ok=True)
        try:
            for node, mount in zip(self.nodes, self.mounts, strict=True):
                self._servers.append(self._serve(mount))
                node.mount(mount, self.place)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _serve(self, mount: Path) -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.nodes.shared_server", str(self.files), str(mount),
             str(self.control), f"{self.late_s:g}"],
            cwd=ROOT, env=environment(),
        )  # fmt: skip
        end = time.monotonic() + 30
        while not os.path.ismount(mount):
            if server.poll() is not None or time.monotonic() > end:
                server.kill()
                raise RuntimeError(f"{mount}: FUSE cannot be mounted")
            time.sleep(0.05)
        return server

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmount it."""
        self.back()
        for server in self._servers:
            server.kill()
            server.wait()
        for mount in self.mounts:
            subprocess.run(["umount", "-l", str(mount)], capture_output=True, timeout=30)

    def away(self) -> None:
        """Let the server answer nothing."""
        (self.control / "away").touch()

    def back(self) -> None:
        """Let it answer again."""
        (self.control / "away").unlink(missing_ok=True)

    def go_stale(self, times: int) -> None:
        """Let the next opens and reads fail with ESTALE."""
        (self.control / "stale").write_text(str(times))
