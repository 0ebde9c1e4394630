"""Losses of seeded runs, compared for equality: with each other, and with recorded ones.

Recorded losses hold bit by bit for one PyTorch version and one kind of processor, which are written
beside them; elsewhere they hold to rounding. To record anew:
``python -m tests.engine.training.test_determinism``.
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from tests.engine.runs import assert_same, final, train
from tests.engine.toy import toy_config

GOLDEN = Path(__file__).parents[2] / "golden/toy_losses.json"


def losses(folder: Path) -> list[float]:
    torch.set_num_threads(1)
    config = toy_config(folder, randomness={"seed": 7, "deterministic": True})
    try:
        return train(config).message_hub.get_scalar("train/loss").last(12)
    finally:
        torch.use_deterministic_algorithms(False)


def machine() -> dict[str, str]:
    return {
        "torch": str(torch.__version__),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def test_losses_equal_the_recorded_ones(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = losses(tmp_path)
    if golden["machine"] == machine():
        assert found == golden["losses"]
    assert found == pytest.approx(golden["losses"], rel=1e-4)


def test_two_runs_give_the_same_bits(tmp_path: Path) -> None:
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert_same(final(tmp_path / "a"), final(tmp_path / "b"))


def test_another_seed_gives_other_losses(tmp_path: Path) -> None:
    other = train(toy_config(tmp_path / "b", randomness={"seed": 8}))
    assert losses(tmp_path / "a") != other.message_hub.get_scalar("train/loss").last(12)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        content = {"machine": machine(), "losses": losses(Path(temporary))}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
