"""Trainings of one process a node, forked so that they start in a moment, and how they end."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook

from nlseg.registry import HOOKS
from nlseg.run.processes import free_port
from tests.faults import ranks  # noqa: F401 - registers Progress
from tests.faults.forked import Child
from tests.nodes.cluster import Node
from tests.run.runs import assert_same, curves, final
from tests.run.toy import toy_config

ITERS = 12
LAST = f"iter_{ITERS}.pth"
HOOKS_OF_A_RUN = [{"type": "EMAHook", "momentum": 0.1}, {"type": "Pause", "seconds": 0.1}]
GROUP_LIMIT_S = 15
"""How long a process waits for another one."""


@HOOKS.register_module(force=True)
class Pause(Hook):
    """Wait after each iteration, so that a fault finds the run amid its work."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        time.sleep(self.seconds)


def config_of(
    folder: Path, *, processes: int = 2, launcher: str = "pytorch", **more: Any
) -> Config:
    """Make a run of 4 samples an iteration over all processes, that saves every 4 iterations."""
    changes = {
        "train_dataloader.batch_size": 4 // processes,
        "model.width": 1000,
        "env_cfg.dist_cfg.timeout": GROUP_LIMIT_S,
        "custom_hooks": [*HOOKS_OF_A_RUN, {"type": "Progress"}],
        "experiment_name": "nodes",
        **more,
    }  # fmt: skip
    return toy_config(folder, iters=ITERS, launcher=launcher, **changes)


def torchrun_says(rank: int, size: int, address: str, port: int = 29500) -> dict[str, str]:
    """Return what torchrun leaves in the environment of the only process of a node."""
    return {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": address, "MASTER_PORT": str(port),
    }  # fmt: skip


def slurm_says(rank: int, size: int) -> dict[str, str]:
    """Return what Slurm leaves in the environment of the only task of a node."""
    return {
        "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size), "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": f"node[0-{size - 1}]", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0",
    }  # fmt: skip


def start(config: Config, nodes: Sequence[Node]) -> list[Child]:
    """Start one process on each node."""
    size = len(nodes)
    children = []
    for rank, node in enumerate(nodes):
        says = slurm_says if config.launcher == "slurm" else partial(torchrun_says, address="node0")
        children.append(Child(config, partial(node.enter, **says(rank, size))))
    return children


def start_here(config: Config, size: int, before: Callable[[], None] = lambda: None) -> list[Child]:
    """Start several processes on this machine, without any node.

    Args:
        config: What to train.
        size: How many.
        before: Called in each process before it trains.
    """
    port = free_port()

    def prepare(rank: int) -> None:
        os.environ.update(torchrun_says(rank, size, "127.0.0.1", port))
        before()

    return [Child(config, partial(prepare, rank)) for rank in range(size)]


def end(children: Sequence[Child], limit_s: float = 120) -> list[int]:
    """Return the exit codes of processes; minus 9 for one that had to be killed."""
    due = time.monotonic() + limit_s
    codes: list[int] = []
    for child in children:
        while not child.has_ended() and time.monotonic() < due:
            time.sleep(0.02)
        if not child.has_ended():
            child.signal(signal.SIGKILL)
        codes.append(child.wait())
    return codes


def undisturbed(folder: Path) -> Path:
    """Train once with two processes on one node and return the run folder."""
    codes = end(start_here(config_of(folder), 2))
    assert codes == [0, 0], log(folder)
    return folder


def log(folder: Path) -> str:
    """Return the end of what the processes of a run printed."""
    return (folder / "child.log").read_text()[-4000:]


def assert_ended_alike(one: Path, other: Path) -> None:
    """Compare last checkpoints and curves of two runs, bit by bit."""
    assert_same(final(one, LAST), final(other, LAST))
    assert curves(one) == curves(other), "curves differ"
