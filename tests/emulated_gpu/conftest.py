"""A GPU that is not there: `bash tools/run_emulated_gpu_tests.sh` builds it and runs these tests.

PyTorch with CUDA believes in one card of the capability in ``EMULATED_GPU``. Which kernels it
chooses, what it traces, allocates, launches and waits for is real; nothing is computed. So these
tests say nothing about values, time, cuDNN's own plans, NCCL or whether a kernel runs at all: that
is what ``tests/gpu`` is for, on a card.
"""

import os
from collections.abc import Iterator

import pytest
import torch

EMULATED = "EMULATED_GPU" in os.environ
if EMULATED:  # every block of memory is new and zero: what nothing computes is at least finite
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
collect_ignore_glob = [] if EMULATED else ["test_*.py"]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave nothing behind that other tests would see."""
    monkeypatch.delenv("EMULATED_GPU_RUNS", raising=False)
    torch.cuda.empty_cache()
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture
def real_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tensors hold memory and operators run, to no effect; without cuDNN."""
    monkeypatch.setenv("EMULATED_GPU_RUNS", "1")
