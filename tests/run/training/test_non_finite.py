import json
from pathlib import Path

import pytest
import torch

from nlseg.errors import ConfigError
from nlseg.run.finite import NonFiniteError
from tests.run.runs import assert_same, curves, final, go_on, interrupt, train
from tests.run.toy import toy_config

POISON = {"train_dataloader.dataset.poison": (21,)}  # in iteration 6, with 4 samples each


def policy(name: str, limit: int = 3) -> dict:
    return {"non_finite": {"policy": name, "limit": limit}}


def test_stop_keeps_the_last_good_checkpoint_and_reports(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"iteration 6: a loss or gradient is not finite"):
        train(toy_config(tmp_path, **POISON))
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_4.pth"}
    report = json.loads((tmp_path / "faults/non_finite_iter_6_rank_0.json").read_text())
    assert report["losses"]["loss"] == "nan"
    assert "head.weight" in report["gradients"]["not finite"]
    assert all(w.isfinite().all() for w in final(tmp_path, "iter_4.pth")["state_dict"].values())


def test_skip_leaves_weights_and_statistics_of_a_run_without_the_iteration(tmp_path: Path) -> None:
    train(toy_config(tmp_path, **POISON, **policy("skip")))
    weights = final(tmp_path)["state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())
    assert final(tmp_path)["meta"]["non_finite"] == 1
    assert weights["body.1.num_batches_tracked"] == 11


def test_skipped_iteration_changes_nothing(tmp_path: Path) -> None:
    every = {"default_hooks.checkpoint.interval": 1}
    train(toy_config(tmp_path, iters=6, **POISON, **policy("skip"), **every))
    before, after = (final(tmp_path, f"iter_{i}.pth") for i in (5, 6))
    for name, weight in before["state_dict"].items():
        assert torch.equal(weight, after["state_dict"][name]), name


def test_skip_has_a_limit_that_counts_over_restarts(tmp_path: Path) -> None:
    poison = {"train_dataloader.dataset.poison": (21, 33)}
    config = toy_config(tmp_path, **poison, **policy("skip", 1))
    interrupt(config, 6)
    with pytest.raises(NonFiniteError, match=r"iteration 9.*limit 1 is used up"):
        go_on(config)


def test_rollback_goes_on_with_the_samples_after_the_bad_ones(tmp_path: Path) -> None:
    log = tmp_path / "samples.txt"
    train(
        toy_config(
            tmp_path / "run", **POISON, **policy("rollback"),
            **{"train_dataloader.dataset.log": str(log)},
        )
    )  # fmt: skip
    numbers = [int(line.split()[0]) for line in log.read_text().splitlines()]
    # 6 iterations to the bad one; back to 4; then 8 iterations on samples from 24 on.
    assert numbers == list(range(24)) + list(range(24, 24 + 8 * 4))
    assert final(tmp_path / "run")["meta"]["jumped"] == 2
    assert [line["step"] for line in curves(tmp_path / "run") if line["kind"] == "train"] == [
        2, 4, 6, 8, 10, 12,
    ]  # fmt: skip


def test_rollback_before_the_first_checkpoint_goes_back_to_the_start(tmp_path: Path) -> None:
    log = tmp_path / "samples.txt"
    poison = {"train_dataloader.dataset.poison": (5,), "train_dataloader.dataset.log": str(log)}
    train(toy_config(tmp_path / "run", **poison, **policy("rollback")))
    assert samples_read(log) == [*range(8), *range(8, 8 + 12 * 4)]  # iteration 2 fails, back at 0
    assert final(tmp_path / "run")["meta"]["jumped"] == 2
    assert (tmp_path / "run/iter_0.pth").is_file()


def samples_read(log: Path) -> list[int]:
    return [int(line.split()[0]) for line in log.read_text().splitlines()]


def test_second_rollback_leaves_out_the_samples_of_both(tmp_path: Path) -> None:
    log = tmp_path / "samples.txt"
    poison = {"train_dataloader.dataset.poison": (21, 33), "train_dataloader.dataset.log": str(log)}
    train(toy_config(tmp_path / "run", **poison, **policy("rollback")))
    # Iteration 6 (samples 20..23) fails, and after it, back at 4, iteration 7 (samples 32..35).
    assert samples_read(log) == [*range(36), *range(36, 36 + 8 * 4)]
    assert final(tmp_path / "run")["meta"]["jumped"] == 5
    assert final(tmp_path / "run")["meta"]["samples"] == 36 + 8 * 4


@pytest.mark.parametrize("saved_since", [True, False])
def test_first_sample_after_a_rollback_with_another_batch_size(
    tmp_path: Path, saved_since: bool
) -> None:
    log = tmp_path / "samples.txt"
    train(toy_config(tmp_path / "run", iters=4))  # samples 0..15
    changes = {
        "train_dataloader.batch_size": 2,
        "train_dataloader.dataset.log": str(log),
        "train_dataloader.dataset.poison": (25,),  # in iteration 9: 16 + 2 * 4 + 1
        "default_hooks.checkpoint.interval": 4 if saved_since else 100,
    }
    runner = go_on(toy_config(tmp_path / "run", **changes, **policy("rollback")))
    assert runner.iter == 12
    begun_at = 8 if saved_since else 4
    assert samples_read(log) == [*range(16, 26), *range(26, 26 + 2 * (12 - begun_at))]
    meta = final(tmp_path / "run")["meta"]
    assert meta["jumped"] == 9 - begun_at
    assert meta["samples"] == 26 + 2 * (12 - begun_at)


def test_resume_after_a_rollback_is_exact(tmp_path: Path) -> None:
    changes = {**POISON, **policy("rollback")}
    train(toy_config(tmp_path / "whole", **changes))
    parts = toy_config(tmp_path / "parts", **changes)
    interrupt(parts, 9)
    go_on(parts)
    assert_same(final(tmp_path / "whole"), final(tmp_path / "parts"))


def test_rollback_has_a_limit(tmp_path: Path) -> None:
    every = {"train_dataloader.dataset.poison": tuple(range(20, 200, 4))}
    with pytest.raises(NonFiniteError, match="rollback limit 2 is used up"):
        train(toy_config(tmp_path, **every, **policy("rollback", 2)))


def test_unknown_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'ignore' is not one of stop, skip, rollback"):
        train(toy_config(tmp_path, **policy("ignore")))
