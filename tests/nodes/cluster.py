"""Several "nodes" on one machine: network namespaces, joined by cables that can be hurt.

Each node has its own network, its own host name and its own /etc/hosts. Nothing leaves the
machine: the switch between the nodes is a namespace, too, and has no way out. Needs root.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.run.real_processes import ROOT, environment

PREFIX = "nlseg-test-"
_SUBNET, _SECOND = "10.77.0", "10.77.1"
_NEW_NAMES, _NEW_UTS, _NEW_NET = 0x00020000, 0x04000000, 0x40000000
_PRIVATE, _RECURSIVE, _BIND = 1 << 18, 1 << 14, 1 << 12
_LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*arguments: str, check: bool = True) -> str:
    """Run ``ip``."""
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    if check and result.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


def missing() -> str | None:
    """Return why there can be no cluster on this machine; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    if shutil.which("ip") is None:
        return "needs ip (iproute2)"
    try:
        ip("netns", "add", f"{PREFIX}{os.getpid()}-probe")
        ip("-n", f"{PREFIX}{os.getpid()}-probe", "link", "add", "probe", "type", "bridge")
    except RuntimeError as error:
        return f"needs network namespaces with a bridge ({error})"
    finally:
        ip("netns", "del", f"{PREFIX}{os.getpid()}-probe", check=False)
    return None


def without(command: str) -> str | None:
    """Return why faults that need this command cannot be done; None where they can."""
    return None if shutil.which(command) else f"needs {command}"


def sweep() -> None:
    """Remove what test processes that were killed have left behind."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and not Path("/proc", owner).exists():
            _remove(name)


def _remove(namespace: str) -> None:
    for pid in ip("netns", "pids", namespace, check=False).split():
        _kill(int(pid))
    ip("netns", "del", namespace, check=False)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def call(name: str, *arguments: Any) -> None:
    """Call a function of the C library.

    Raises:
        OSError: It failed.
    """
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def bind(source: Path, target: Path) -> None:
    """Let ``source`` be seen at ``target``, in this mount namespace."""
    call("mount", str(source).encode(), str(target).encode(), None, _BIND, None)


class Node:
    """One machine of a cluster.

    Args:
        number: From 0.
        folder: For its files.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.name, self.address = f"node{number}", f"{_SUBNET}.{number + 1}"
        self.fast_address = f"{_SECOND}.{number + 1}"
        self.namespace = f"{PREFIX}{os.getpid()}-{number}"
        self.hub, self.port = f"{PREFIX}{os.getpid()}-hub", f"port{number}"
        self.hosts, self.home = folder / "hosts", folder / f"home_{self.name}"
        self.mounts: list[tuple[Path, Path]] = []

    def mount(self, source: Path, target: Path) -> None:
        """Let processes of this node see ``source`` at ``target``."""
        target.mkdir(parents=True, exist_ok=True)
        self.mounts.append((source, target))

    def enter(self, **variables: str) -> None:
        """Make this process one of the node; for good.

        Args:
            variables: What its launcher leaves in the environment.
        """
        os.environ.update(variables)
        with open(f"/run/netns/{self.namespace}") as namespace:
            call("setns", namespace.fileno(), _NEW_NET)
        call("unshare", _NEW_UTS | _NEW_NAMES)
        call("mount", None, b"/", None, _RECURSIVE | _PRIVATE, None)
        call("sethostname", self.name.encode(), len(self.name))
        bind(self.hosts, Path("/etc/hosts"))
        for source, target in self.mounts:
            bind(source, target)
        self.home.mkdir(exist_ok=True)
        os.chdir(self.home)  # which no other node sees

    def start(self, *command: str, log: Path, limit_s: int = 240, **variables: str) -> Any:
        """Start a command on this node; it is killed after ``limit_s``.

        Args:
            command: Program and arguments.
            log: Its output is added to this file.
            limit_s: Seconds.
            variables: More of its environment.
        """
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with open(log, "a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.nodes.inside", self.namespace, self.name,
                 str(self.hosts), *(f"{s}={t}" for s, t in self.mounts), "--", "timeout",
                 "--foreground", "--kill-after=5", str(limit_s), *command],
                env=environment(PATH=path, **variables), cwd=ROOT, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill all processes of this node at once, as a power failure would."""
        for _ in range(3):  # some may be starting others
            pids = ip("netns", "pids", self.namespace).split()
            for pid in pids:
                _kill(int(pid))
            time.sleep(0.05)

    def cable(self, *, plugged: bool) -> None:
        """Pull the cable, or plug it in again."""
        ip("-n", self.hub, "link", "set", self.port, "up" if plugged else "down")

    def run(self, *command: str) -> None:
        """Run a short command in the network of this node."""
        subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            check=True, timeout=30, capture_output=True,
        )  # fmt: skip

    def drop(self, share: float) -> None:
        """Lose a share of the packets that arrive at and leave this node."""
        for chain in ("INPUT", "OUTPUT"):
            self.run(
                "iptables", "-A", chain, "-m", "statistic", "--mode", "random", "--probability",
                str(share), "-j", "DROP",
            )  # fmt: skip

    def slow_down(self, rate: str) -> None:
        """Limit what this node sends, such as to '1mbit'."""
        limit = ("tbf", "rate", rate, "burst", "16kb", "latency", "400ms")
        self.run("tc", "qdisc", "add", "dev", "eth0", "root", *limit)


class Cluster:
    """Nodes that see each other; removed with all their processes at the end.

    Args:
        count: How many nodes.
        folder: For their files.
        delay_s: Seconds that each packet takes; a relay passes them on.
    """

    def __init__(self, count: int, folder: Path, delay_s: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.delay_s = folder, delay_s
        self.nodes = [Node(number, folder) for number in range(count)]
        self.hub = self.nodes[0].hub
        self._relay: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Cluster":
        """Build it."""
        sweep()
        lines = ["127.0.0.1 localhost"]
        for node in self.nodes:  # each has a second address, as one of a faster network
            lines += [f"{node.address} {node.name}", f"{node.fast_address} fast{node.number}"]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        try:
            ip("netns", "add", self.hub)
            ip("-n", self.hub, "link", "add", "switch", "type", "bridge")
            ip("-n", self.hub, "link", "set", "switch", "up")
            for node in self.nodes:
                ip("netns", "add", node.namespace)
                ip("-n", node.namespace, "link", "set", "lo", "up")
            self._lay_cables()
            for node in self.nodes:
                for address in (node.address, node.fast_address):
                    ip("-n", node.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
                ip("-n", node.namespace, "link", "set", "eth0", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _lay_cables(self) -> None:
        if self.delay_s:
            names = [node.namespace for node in self.nodes]
            self._relay = subprocess.Popen(
                [sys.executable, str(ROOT / "tests/nodes/relay.py"), str(self.delay_s), *names],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert self._relay.stdout is not None
            assert self._relay.stdout.readline() == "ready\n"
            return
        for node in self.nodes:
            ip("-n", self.hub, "link", "add", node.port, "type", "veth", "peer", "name", "eth0",
               "netns", node.namespace)  # fmt: skip
            ip("-n", self.hub, "link", "set", node.port, "master", "switch", "up")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill what still runs on the nodes, and remove them."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
        for namespace in [*(node.namespace for node in self.nodes), self.hub]:
            _remove(namespace)


def wait_for(processes: Sequence[Any], limit_s: float) -> list[int | None]:
    """Wait for processes and return their exit codes; None for one that is still running."""
    end = time.monotonic() + limit_s
    codes: list[int | None] = []
    for process in processes:
        try:
            codes.append(process.wait(timeout=max(end - time.monotonic(), 0.01)))
        except subprocess.TimeoutExpired:
            codes.append(None)
    return codes
