"""Losses of seeded runs, compared for equality: with each other, and with recorded ones.

Recorded losses hold bit by bit for one PyTorch version and one kind of processor, which are written
beside them. Elsewhere those without dropout hold to rounding (1e-4 of each); with dropout they are
others there, as PyTorch 2.4 draws other numbers from the same seed than 2.13. To record anew:
``python -m tests.run.training.test_determinism``.
"""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nlseg.ops import attention
from tests.run.runs import assert_same, final, train
from tests.run.toy import toy_config

GOLDEN = Path(__file__).parents[2] / "golden/toy_losses.json"
NO_DROPOUT = {"model.dropout": 0.0}


def losses(folder: Path, **changes: Any) -> list[float]:
    torch.set_num_threads(1)
    config = toy_config(folder, randomness={"seed": 7, "deterministic": True}, **changes)
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
    without_dropout = losses(tmp_path / "without", **NO_DROPOUT)
    assert without_dropout == pytest.approx(golden["losses without dropout"], rel=1e-4)
    if golden["machine"] == machine():
        assert without_dropout == golden["losses without dropout"]
        assert losses(tmp_path / "with") == golden["losses"]


def test_two_runs_give_the_same_bits(tmp_path: Path) -> None:
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert_same(final(tmp_path / "a"), final(tmp_path / "b"))


def test_another_seed_gives_other_losses(tmp_path: Path) -> None:
    other = train(toy_config(tmp_path / "b", randomness={"seed": 8}))
    assert losses(tmp_path / "a") != other.message_hub.get_scalar("train/loss").last(12)


def test_attention_on_cuda_takes_no_kernel_whose_gradients_add_up_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []
    ones = torch.ones(1, 1, 2, 2)
    monkeypatch.setattr(attention, "as_head", lambda tensor: tensor)
    monkeypatch.setattr(attention, "fused_kernel_takes", lambda *_: True)
    monkeypatch.setattr(attention, "fused_attention", lambda *_: taken.append("fused") or ones)
    monkeypatch.setattr(attention, "tiled_attention", lambda *_: taken.append("tiles") or [ones])
    on_cuda: Any = SimpleNamespace(is_cuda=True, shape=(1, 2, 2), dtype=None, device=None)
    on_cuda.to = lambda _: on_cuda
    try:
        for mode in (False, True):
            torch.use_deterministic_algorithms(mode, warn_only=True)
            attention.softmax_attention(on_cuda, on_cuda, on_cuda, 1.0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert taken == ["fused", "tiles"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        content = {
            "machine": machine(),
            "losses": losses(folder / "with"),
            "losses without dropout": losses(folder / "without", **NO_DROPOUT),
        }
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
