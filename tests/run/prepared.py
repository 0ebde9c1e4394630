"""Programs in processes of their own, forked from an interpreter that has imported PyTorch once.

Most of a short command's time is its imports: several seconds of a core, in each of some hundred
processes of the tests. A process from here has its own pid, environment, folder and streams, takes
signals and ends as any interpreter does. What it does not show is that a command works in a fresh
interpreter; each command has a test that starts one.
"""

import atexit
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from nlseg.run.processes import free_port
from tests.run.real_processes import ROOT, environment

READ_AT_IMPORT = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
_BEGUN_S = 120  # patience with the import of PyTorch on a busy machine


class Prepared:
    """A program that runs; its interface is the part of ``subprocess.Popen`` that tests use.

    Args:
        arguments: What follows ``python`` on a command line: a script, ``-m`` and a module or
            ``-c`` and code, and its arguments.
        env: Environment; that of ``environment()`` when not given.
        cwd: Folder to run in.
        joined: Whether errors go where the output goes.
    """

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        joined: bool = False,
    ) -> None:
        env = environment() if env is None else env
        for name in READ_AT_IMPORT:
            assert env.get(name) == environment().get(name), f"{name} was read before the fork"
        self.args = list(arguments)
        self.returncode: int | None = None
        output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        errors = output if joined else tempfile.TemporaryFile()  # noqa: SIM115
        self._files = [output, errors]
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_server())
        request = {"arguments": self.args, "env": env, "cwd": str(cwd or Path.cwd())}
        data = json.dumps(request).encode()
        streams = [file.fileno() for file in self._files]
        socket.send_fds(self._connection, [f"{len(data)}\n".encode()], streams)
        self._connection.sendall(data)
        self._answers: IO[str] = self._connection.makefile()
        self.pid = int(self._answers.readline())

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end and return output and errors; ``subprocess.TimeoutExpired`` as there."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._answers.readline())
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode())
        return texts[0], "" if self._files[0] is self._files[1] else texts[1]

    def kill(self) -> None:
        """Kill it where it still runs."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
            self.communicate(60)


def run(
    *arguments: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as ``subprocess.run`` with captured text does."""
    process = Prepared(*arguments, env=env, cwd=cwd)
    try:
        output, errors = process.communicate(timeout)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run_ranks(count: int, *arguments: str, timeout: float = 280) -> list[str]:
    """Run ``python ARGUMENTS`` once per rank, which meet through gloo; return what each printed."""
    codes, outputs = end_ranks(count, *arguments, timeout=timeout)
    for code, output in zip(codes, outputs, strict=True):
        assert code == 0, output
    return outputs


def end_ranks(count: int, *arguments: str, timeout: float = 280) -> tuple[list[int], list[str]]:
    """Do so, however they end, and return the exit code of each too."""
    port = str(free_port())
    processes = []
    try:
        for rank in range(count):
            env = environment(
                RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
            )  # fmt: skip
            processes.append(Prepared(*arguments, env=env, joined=True))
        outputs = [process.communicate(timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


@functools.cache
def _server() -> str:
    """Start the interpreter that is forked and return its address; it ends with this process."""
    folder = tempfile.TemporaryDirectory()
    address = os.path.join(folder.name, "socket")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.run.prepared", address],
        stdin=subprocess.PIPE, env=environment(), cwd=ROOT,
    )  # fmt: skip
    atexit.register(folder.cleanup)
    atexit.register(process.kill)
    end = time.monotonic() + _BEGUN_S
    while not os.path.exists(address):
        assert process.poll() is None, "the interpreter ended"
        assert time.monotonic() < end, f"the interpreter took longer than {_BEGUN_S} s to start"
        time.sleep(0.01)
    return address


def _serve(address: str) -> list[str]:
    """Fork a process for each request; come back in each of them with its arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".begun")
    listener.listen(64)
    os.rename(address + ".begun", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none is waited for
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)  # who started it has ended
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _become(connection)
        connection.close()


def _become(connection: socket.socket) -> list[str]:
    """Fork what was asked for, come back in it, and tell from outside how it ended."""
    head, streams, _, _ = socket.recv_fds(connection, 32, 2)
    length, _, data = head.partition(b"\n")
    while len(data) < int(length):
        data += connection.recv(1 << 20)
    request: dict[str, Any] = json.loads(data)
    pid = os.fork()
    if pid:
        connection.sendall(f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(f"{code}\n".encode())
        os._exit(0)
    connection.close()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    return request["arguments"]


def _run(arguments: list[str]) -> None:
    """Do what ``python ARGUMENTS`` does."""
    first, *rest = arguments
    if first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(first))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    import numpy as np

    import nlseg.run.runner  # noqa: F401 - what every command that trains or tests imports

    gc.freeze()  # so that no collection in a process writes to, and copies, what all share
    given = _serve(sys.argv[1])
    np.random.seed()  # as an interpreter that has just begun
    _run(given)
