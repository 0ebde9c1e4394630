"""Trainings that the shipped scripts start on several nodes, through torchrun."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tests.nodes.cluster import Node, wait_for
from tests.run.real_processes import ROOT

IMPORTS = {"imports": ["tests.run.toy", "tests.run.runs", "tests.nodes.runs"]}


class Job:
    """One script on each of several nodes.

    Args:
        folder: For the outputs, one file a node.
        script: Of tools/, and its arguments.
        env: What all nodes are told.
    """

    def __init__(self, folder: Path, script: Sequence[str], env: Mapping[str, str]) -> None:
        self.folder, self.script, self.env = folder, script, env
        self.running: dict[str, Any] = {}

    def start(self, *nodes: Node, limit_s: int = 240, **env: str) -> None:
        """Start it on some nodes; NODE_RANK is the node's number, if ``env`` says nothing else."""
        for node in nodes:
            variables = {"NODE_RANK": str(node.number), **self.env, **env}
            program = "bash" if self.script[0].endswith(".sh") else sys.executable
            self.running[node.name] = node.start(
                program, str(ROOT / "tools" / self.script[0]), *self.script[1:],
                log=self.folder / f"{node.name}.log", limit_s=limit_s, **variables,
            )  # fmt: skip

    def end(self, limit_s: float = 240) -> list[int | None]:
        """Wait for all, and return their exit codes in the order of the nodes."""
        names = sorted(self.running)
        codes = wait_for([self.running[name] for name in names], limit_s)
        for process in self.running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return codes

    def output(self, node: Node | None = None) -> str:
        """Return what it has printed on a node, or on all of them."""
        pattern = f"{node.name}.log" if node else "node*.log"
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(pattern)))


def slurm_step(folder: Path, config: Config) -> Job:
    """Return what srun starts: train.py once a task, with Slurm's variables."""
    path = _write(folder, config)
    return Job(folder, ["train.py", str(path), "--launcher", "slurm"], {})


def _write(folder: Path, config: Config) -> Path:
    config = config.copy()
    config.custom_imports = IMPORTS
    config.dump(folder / "config.py")
    return folder / "config.py"


def training(
    folder: Path, config: Config, nodes: str, *arguments: str, processes: int = 1, **env: str
) -> Job:
    """Return a training by tools/dist_train.sh.

    Args:
        folder: For the config file and the outputs.
        config: What to train.
        nodes: NNODES.
        arguments: Of train.py.
        processes: On each node.
        env: More of the environment.
    """
    path = _write(folder, config)
    told = {
        "NNODES": nodes, "MASTER_ADDR": "node0", "PORT": "29400", "GRACE_S": "20", **env,
    }  # fmt: skip
    script = ["dist_train.sh", str(path), str(processes), *arguments]
    return Job(folder, script, told)


def wait_for_iteration(work: Path, iteration: int, limit_s: float = 180) -> None:
    """Wait until the hook Progress has noted an iteration.

    Raises:
        TimeoutError: It has not within the limit.
    """
    end = time.monotonic() + limit_s
    note = work / "progress"
    while time.monotonic() < end:
        if note.is_file() and int(note.read_text() or 0) >= iteration:
            return
        time.sleep(0.02)
    raise TimeoutError(f"iteration {iteration} was not reached within {limit_s:.0f} s")
