"""How long it takes until a command answers and until training begins."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.measure import Result
from benchmark.networks import PLAIN
from benchmark.results import row_record
from benchmark.suite import Comparison

ROOT = Path(__file__).parents[2]
CONFIG = "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"


def commands(folder: str) -> dict[str, list[str]]:
    """Return what is started, by name; the last one trains for one iteration.

    Args:
        folder: Where data and run may be written.
    """
    train = [sys.executable, str(ROOT / "tools/train.py")]
    once = ["train_cfg.max_iters=1", "train_dataloader.num_workers=0", f"data_root={folder}/data"]
    return {
        "python -c 'import nlseg'": [sys.executable, "-c", "import nlseg"],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "tools/train.py --help": [*train, "--help"],
        "tools/train.py, one iteration": [
            *train, str(ROOT / CONFIG), "--work-dir", f"{folder}/run", "--cfg-options", *once,
            "val_dataloader=None", "val_cfg=None", "val_evaluator=None",
        ],
    }  # fmt: skip


def measure_starting(rounds: int) -> dict[str, Any]:
    """Start every command several times, in turns.

    Args:
        rounds: How many times.

    Returns:
        Rows of the section.
    """
    with tempfile.TemporaryDirectory() as folder:
        draw = [sys.executable, str(ROOT / "tools/draw_dataset.py"), f"{folder}/data"]
        _start([*draw, "--num-train", "4", "--num-val", "1"])
        results = {name: Result() for name in commands(folder)}
        for _ in range(rounds):
            for name, command in commands(folder).items():
                results[name].times_s.append(_start(command))
    names = list(results)
    rows = [Comparison(name, _start, (PLAIN,)) for name in names]
    return {"rows": [row_record(row, {PLAIN: results[row.name]}) for row in rows]}


def _start(command: Sequence[str]) -> float:
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=ROOT)
    return time.perf_counter() - start
