"""Toy runs that are interrupted and gone on with, and how to compare where they ended."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook

from nlseg.registry import HOOKS
from nlseg.run.control import Preempted
from nlseg.run.logs import read_scalars
from nlseg.run.runner import Runner

TIMES = ("time", "data_time", "memory")


@HOOKS.register_module(force=True)
class SignalAt(Hook):
    """Send this process, or only that of one rank, a signal in iteration ``at`` (from 0), or in
    the validation after so many iterations."""

    priority = "VERY_HIGH"

    def __init__(
        self,
        at: int,
        validation: bool = False,
        number: int = signal.SIGTERM,
        rank: int | None = None,
    ) -> None:
        self.at, self.validation, self.number, self.rank = at, validation, number, rank

    def is_meant(self, runner: Any) -> bool:
        return runner.iter == self.at and self.rank in (None, runner.rank)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.is_meant(runner) and not self.validation:
            os.kill(os.getpid(), self.number)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.is_meant(runner) and self.validation and batch_idx == 0:
            os.kill(os.getpid(), self.number)


def train(config: Any) -> Runner:
    """Train in this process."""
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def interrupt(config: Any, at: int, *, validation: bool = False, rank: int | None = None) -> None:
    """Train until a signal, to one rank or all, stops the run."""
    config = config.copy()
    config.experiment_name += "_interrupted"
    config.custom_hooks = [
        *config.get("custom_hooks", []),
        {"type": "SignalAt", "at": at, "validation": validation, "rank": rank},
    ]
    with pytest.raises(Preempted) as stopped:
        train(config)
    assert stopped.value.code == 143


def go_on(config: Any) -> Runner:
    """Train on from the newest checkpoint."""
    config = config.copy()
    config.resume = True
    config.experiment_name += "_resumed"
    return train(config)


def final(folder: Path, name: str = "iter_12.pth") -> dict[str, Any]:
    """Read a checkpoint without what only tells when and where it was written."""
    content: dict[str, Any] = torch.load(folder / name, weights_only=True)
    content.pop("message_hub")
    for key in ("time", "experiment_name", "cfg", "identity", "world_size"):
        content["meta"].pop(key)
    for key in TIMES:
        content["meta"]["recent"].pop(f"train/{key}", None)
    return content


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Compare nested values bit by bit."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    else:
        assert one == other, path


def curves(folder: Path) -> list[dict[str, Any]]:
    """Read a run's curves without times."""
    lines = read_scalars(folder / "scalars.jsonl")
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
