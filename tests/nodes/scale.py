"""What start, agreement and evaluation cost with more and more processes, on one machine.

    python -m tests.nodes.scale [16]

Forks the processes of toy runs, counts the run's files that each opens and the collectives that it
takes part in, and prints a line for each number of processes.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook

from nlseg.registry import HOOKS
from nlseg.run import processes
from nlseg.table import format_table
from tests.nodes import runs

ITERS = 12


@HOOKS.register_module(force=True)
class Count(Hook):
    """Note, for each process, when it has come how far, and what it has opened until then."""

    priority = "LOWEST"
    opened = calls = 0
    began = 0.0

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.times: dict[str, float] = {}

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self.times.setdefault("start", time.monotonic())
        self.times.setdefault("start_calls", Count.calls)

    def before_val(self, runner: Any) -> None:
        self.times["trained"] = time.monotonic()
        self.times["trained_calls"] = Count.calls

    def after_val(self, runner: Any) -> None:
        now, calls = time.monotonic(), Count.calls
        agreements = 50
        for _ in range(agreements):
            processes.any_of(False)
        agreement_s = (time.monotonic() - now) / agreements
        note = {
            "start_s": self.times["start"] - Count.began,
            "evaluation_s": now - self.times["trained"],
            "agreement_s": agreement_s,
            "start_calls": self.times["start_calls"],
            "train_calls": self.times["trained_calls"] - self.times["start_calls"],
            "evaluation_calls": calls - self.times["trained_calls"],
            "opened": Count.opened,
        }
        Path(self.folder, f"{runner.rank}.json").write_text(json.dumps(note))


def count_opens(folder: Path) -> None:
    """Count the files of the run's folder and of its data that this process opens."""
    Count.began = time.monotonic()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(str(folder)):
            Count.opened += 1

    sys.addaudithook(note)
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_object"):
        setattr(dist, name, _counted(getattr(dist, name)))


def _counted(collective: Callable[..., Any]) -> Callable[..., Any]:
    def count(*arguments: Any, **options: Any) -> Any:
        Count.calls += 1
        return collective(*arguments, **options)

    return count


def measure(count: int) -> dict[str, float]:
    """Train a toy with so many processes, and return what that took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = runs.config_of(
            folder / "work", processes=2,
            custom_hooks=[{"type": "Count", "folder": temporary}],
            **{"env_cfg.dist_cfg.timeout": 300, "train_cfg.val_interval": ITERS,
               "val_dataloader.dataset.size": 64},
        )  # fmt: skip
        children = runs.start_here(config, count, before=lambda: count_opens(folder))
        codes = runs.end(children, 300)
        assert codes == [0] * count, runs.log(folder / "work")
        notes = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]
    slowest = {key: max(note[key] for note in notes) for key in notes[0] if key != "opened"}
    opened = [note["opened"] for note in notes]
    return {**slowest, "first": opened[0], "other": max(opened[1:], default=0)}


def main() -> None:
    torch.set_num_threads(1)
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    rows = []
    count = 1
    while count <= most:
        got = measure(count)
        rows.append([
            count, got["start_s"], 1000 * got["agreement_s"], got["evaluation_s"],
            int(got["start_calls"]), got["train_calls"] / ITERS, int(got["evaluation_calls"]),
            int(got["first"]), int(got["other"]),
        ])  # fmt: skip
        count *= 2
    header = ["processes", "start s", "agreement ms", "evaluation s", "collectives: start",
              "an iteration", "an evaluation", "files: rank 0", "another"]  # fmt: skip
    print(format_table(header, rows))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
