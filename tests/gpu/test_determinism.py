"""The determinism mode on a GPU: the same bits twice, and no operator without a fixed order."""

import warnings
from pathlib import Path

import pytest
import torch

from nlseg.run.runner import Runner
from tests.run.tiny_segmentor import tiny_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def losses(folder: Path) -> list[float]:
    config = tiny_run(folder, iters=6)
    config.randomness = {"seed": 7, "deterministic": True}
    try:
        runner = Runner.from_cfg(config)
        runner.train()
    finally:
        torch.use_deterministic_algorithms(False)
    return runner.message_hub.get_scalar("train/loss").last(6)


def test_two_runs_give_the_same_bits_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*deterministic.*")
        assert losses(tmp_path / "a") == losses(tmp_path / "b")
