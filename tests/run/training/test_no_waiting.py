"""Between log lines nothing reads a number from the device: every such read would wait for it."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from torch.profiler import ProfilerActivity, profile

from nlseg.registry import HOOKS
from nlseg.run.runner import Runner
from tests.run.tiny_segmentor import tiny_run

READS = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero",
         "aten::equal", "aten::masked_select"}  # fmt: skip
"""Operators that on a GPU wait for a number or a size."""
METHODS = ("tolist", "numpy", "cpu", "item", "__bool__", "__float__", "__int__", "__index__")
ON_THE_HOST = {"processes.py:_read"}
"""Reads a vector that was copied to the host two iterations before."""


@HOOKS.register_module(force=True)
class Watch(Hook):
    """Profile iterations from ``begin`` on, and note which code asks tensors for numbers."""

    priority = "VERY_HIGH"
    found: dict[str, int]
    asked: Counter[str]
    patch: pytest.MonkeyPatch

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.profiler: Any = None
        Watch.found, Watch.asked = {}, Counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.begin:
            self.profiler = profile(activities=[ProfilerActivity.CPU])
            self.profiler.start()
            for name in METHODS:
                self._listen(name)
        elif self.profiler is not None and runner.iter == self.begin + 3:
            self.stop()

    def _listen(self, name: str) -> None:
        method = getattr(torch.Tensor, name)

        def noted(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_code
            Watch.asked[f"{Path(caller.co_filename).name}:{caller.co_name}"] += 1
            return method(tensor, *args, **kwargs)

        self.patch.setattr(torch.Tensor, name, noted)

    def stop(self) -> None:
        self.profiler.stop()
        self.patch.undo()
        Watch.found = {event.key: event.count for event in self.profiler.key_averages()}
        self.profiler = None


def watched(folder: Path, patch: pytest.MonkeyPatch, **changes: Any) -> set[str]:
    """Train, and return the operators of three ordinary iterations that wait for the device."""
    Watch.patch = patch
    hooks = [{"type": "Watch", "begin": 3}, *changes.pop("custom_hooks", [])]
    Runner.from_cfg(tiny_run(folder, iters=8, custom_hooks=hooks, **changes)).train()
    assert Watch.found["aten::convolution"] > 3 * 20, "three iterations were watched"
    return READS & set(Watch.found)


def test_an_ordinary_iteration_reads_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched(tmp_path, monkeypatch) == set()
    assert set(Watch.asked) <= ON_THE_HOST


def test_neither_with_averaged_weights_accumulation_and_clipping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = {
        "type": "AmpOptimWrapper", "dtype": "bfloat16", "accumulative_counts": 2,
        "clip_grad": {"max_norm": 1.0},
        "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "fused": True},
    }  # fmt: skip
    hooks = [{"type": "EMAHook", "momentum": 0.01}]
    waiting = watched(tmp_path, monkeypatch, custom_hooks=hooks, optim_wrapper=wrapper)
    assert waiting <= {"aten::item", "aten::_local_scalar_dense"}
    assert set(Watch.asked) <= {*ON_THE_HOST, "hooks.py:update_parameters"}
    # the average's counter, which stays on the host, and nothing else
    assert Watch.found["aten::item"] == Watch.asked["hooks.py:update_parameters"] > 0


def test_a_hook_that_reads_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @HOOKS.register_module(force=True)
    class Curious(Hook):
        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            outputs["loss"].item()

    hooks = [{"type": "Curious"}]
    assert "aten::item" in watched(tmp_path, monkeypatch, custom_hooks=hooks)
    assert f"{Path(__file__).name}:after_train_iter" in Watch.asked
