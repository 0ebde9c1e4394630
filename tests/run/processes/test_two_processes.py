from pathlib import Path

import pytest
import torch

from nlseg.run.logs import read_scalars
from tests.run.real_processes import run_ranks

SCRIPT = "tests.run.rank_script"
pytestmark = pytest.mark.slow


def losses_in(output: str) -> torch.Tensor:
    (line,) = [line for line in output.splitlines() if line.startswith("LOSSES")]
    return torch.tensor([float(word) for word in line.split()[1:]], dtype=torch.float64)


def test_collectives_over_gloo() -> None:
    run_ranks(2, "-m", SCRIPT, "collectives")


def test_two_processes_train_as_one_with_the_joined_batch(tmp_path: Path) -> None:
    (alone,) = run_ranks(1, "-m", SCRIPT, "training", str(tmp_path / "one"), "none", "4")
    both = run_ranks(2, "-m", SCRIPT, "training", str(tmp_path / "two"), "pytorch", "2")
    for output in both:
        threads = next(line for line in output.splitlines() if line.startswith("THREADS"))
        assert "gloo" not in threads  # one that still ran would abort the process at its end
    one = torch.load(tmp_path / "one" / "iter_4.pth", weights_only=True)
    two = torch.load(tmp_path / "two" / "iter_4.pth", weights_only=True)
    # The mean over ranks of a mean over equal parts is the mean over all.
    mean_loss = torch.stack([losses_in(output) for output in both]).mean(0)
    torch.testing.assert_close(mean_loss, losses_in(alone), rtol=1e-6, atol=0)
    for name, weight in one["state_dict"].items():
        # SGD's first momentum buffers are the gradients, so weights agree only if these do.
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-5, atol=1e-7)
    scores = [
        line["mIoU"] for line in read_scalars(tmp_path / "two/scalars.jsonl") if "mIoU" in line
    ]
    assert scores == [
        line["mIoU"] for line in read_scalars(tmp_path / "one/scalars.jsonl") if "mIoU" in line
    ]
    assert two["meta"]["world_size"] == 2
