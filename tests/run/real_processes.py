"""Run a script in several real processes that find each other through gloo."""

import os
import subprocess
import sys
from pathlib import Path

from nlseg.run.processes import free_port

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """Return an environment for a process that imports this tree and uses one thread."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")}
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def run_ranks(count: int, *arguments: str, timeout: float = 280) -> list[str]:
    """Run ``python ARGUMENTS`` once per rank and return what each printed."""
    port = str(free_port())
    processes = []
    for rank in range(count):
        env = environment(
            RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )  # fmt: skip
        command = [sys.executable, *arguments]
        processes.append(
            subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs
