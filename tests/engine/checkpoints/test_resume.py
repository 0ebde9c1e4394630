from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.errors import CheckpointError, UserError
from tests.engine.runs import assert_same, curves, final, go_on, interrupt, train
from tests.engine.toy import toy_config

AMP = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.dtype": "bfloat16"}
EMA = {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
ACCUMULATE = {"optim_wrapper.accumulative_counts": 3}
BEST = {"default_hooks.checkpoint.save_best": "mIoU", "default_hooks.checkpoint.max_keep_ckpts": 1}
EPOCHS = {
    "train_cfg": {"_delete_": True, "type": "EpochBasedTrainLoop", "max_epochs": 2},
    "train_dataloader.sampler.type": "DefaultSampler",
    "param_scheduler": [{"type": "MultiStepLR", "milestones": [1], "by_epoch": True}],
    "default_hooks.checkpoint": {"type": "CheckpointHook", "by_epoch": True, "interval": 1},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def check_exact(folder: Path, at: int, *, validation: bool = False, **changes: Any) -> None:
    whole = toy_config(folder / "whole", **changes)
    train(whole)
    parts = toy_config(folder / "parts", **changes)
    interrupt(parts, at, validation=validation)
    go_on(parts)
    epochs = whole.train_cfg.type == "EpochBasedTrainLoop"
    name = "epoch_2.pth" if epochs else "iter_12.pth"
    assert_same(final(folder / "whole", name), final(folder / "parts", name))
    assert curves(folder / "whole") == curves(folder / "parts")


@pytest.mark.parametrize("at", [0, 2, 4, 7, 10])
def test_interrupted_run_ends_bitwise_the_same(tmp_path: Path, at: int) -> None:
    check_exact(tmp_path, at)


@pytest.mark.parametrize(
    "changes",
    [AMP, EMA, ACCUMULATE, BEST, {**EMA, **AMP, **ACCUMULATE, **BEST}],
    ids=["bf16", "ema", "accumulation", "best", "all"],
)
def test_resume_is_exact_with_each_option(tmp_path: Path, changes: dict) -> None:
    check_exact(tmp_path, 6, **changes)


@pytest.mark.parametrize("changes", [{}, EMA, BEST], ids=["plain", "ema", "best"])
def test_resume_is_exact_after_a_stop_in_validation(tmp_path: Path, changes: dict) -> None:
    check_exact(tmp_path, 8, validation=True, **changes)


@pytest.mark.parametrize("at", [1, 4, 5, 8])  # 5 iterations with 23 images: within, at an end
def test_resume_is_exact_within_and_at_the_end_of_an_epoch(tmp_path: Path, at: int) -> None:
    check_exact(tmp_path, at, **{**EPOCHS, "train_dataloader.drop_last": True})


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_resume_is_exact_over_changed_workers(tmp_path: Path, before: int, after: int) -> None:
    train(toy_config(tmp_path / "whole"))
    interrupt(toy_config(tmp_path / "parts", workers=before), 5)
    go_on(toy_config(tmp_path / "parts", workers=after))
    assert_same(final(tmp_path / "whole"), final(tmp_path / "parts"))


def test_resume_reads_no_past_sample(tmp_path: Path) -> None:
    log = tmp_path / "samples.txt"
    config = toy_config(tmp_path / "run", **{"train_dataloader.dataset.log": str(log)})
    interrupt(config, 7)
    log.unlink()
    go_on(config)
    numbers = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert numbers == list(range(8 * 4, 12 * 4))  # iterations 8..11 with 4 samples each


def test_seed_that_was_drawn_is_taken_over(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", randomness={"_delete_": True, "seed": None})
    interrupt(config, 5)
    seed = final(tmp_path / "run", "iter_6.pth")["meta"]["seed"]
    runner = go_on(config)
    assert runner.seed == seed == runner.train_dataloader.sampler.seed


def test_longer_schedule_gives_the_rates_it_would_have_had(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "run", iters=12))
    runner = go_on(toy_config(tmp_path / "run", iters=20))
    assert runner.iter == 20
    rates = {line["step"]: line["lr"] for line in curves(tmp_path / "run") if "lr" in line}
    # PolyLR over 20: lr(t) = (0.1 - 1e-4) (1 - t/19)^0.9 + 1e-4, t counted before the iteration
    for step in (14, 16, 18, 20):
        expected = (0.1 - 1e-4) * (1 - (step - 1) / 19) ** 0.9 + 1e-4
        assert rates[step] == pytest.approx(expected, rel=1e-6)


def test_other_learning_rate_is_used_and_told(tmp_path: Path, caplog: Any) -> None:
    interrupt(toy_config(tmp_path / "run"), 5)
    changed = toy_config(tmp_path / "run", **{"optim_wrapper.optimizer.lr": 0.05})
    go_on(changed)
    rates = {line["step"]: line["lr"] for line in curves(tmp_path / "run") if "lr" in line}
    assert rates[8] == pytest.approx((0.05 - 1e-4) * (1 - 7 / 11) ** 0.9 + 1e-4, rel=1e-6)


def test_other_batch_size_sees_every_sample_once(tmp_path: Path) -> None:
    log = tmp_path / "samples.txt"
    changes = {"train_dataloader.dataset.log": str(log)}
    interrupt(toy_config(tmp_path / "run", **changes), 5)  # 6 iterations of 4: 0..23
    go_on(toy_config(tmp_path / "run", **changes, **{"train_dataloader.batch_size": 6}))
    numbers = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert numbers == list(range(24 + 6 * 6))


def test_shorter_schedule_than_trained_is_refused(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "run", iters=12))
    with pytest.raises(UserError, match="more than the 8 of train_cfg"):
        go_on(toy_config(tmp_path / "run", iters=8))


def test_other_network_is_refused_with_the_keys(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"body\.0\.weight: \(8, 6\) in the file, \(9, 6\)"):
        go_on(toy_config(tmp_path / "run", iters=16, **{"model.width": 9}))


def test_new_run_sets_the_old_one_aside(tmp_path: Path) -> None:
    train(toy_config(tmp_path))
    before = (tmp_path / "iter_12.pth").read_bytes()
    train(toy_config(tmp_path, iters=4))
    (aside,) = tmp_path.glob("before_*")
    assert (aside / "iter_12.pth").read_bytes() == before
    assert (aside / "scalars.jsonl").is_file()
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_4.pth"}


def test_resume_without_checkpoint_begins_anew(tmp_path: Path) -> None:
    assert go_on(toy_config(tmp_path, iters=4)).iter == 4


def test_moved_run_goes_on(tmp_path: Path) -> None:
    interrupt(toy_config(tmp_path / "here"), 5)
    (tmp_path / "here").rename(tmp_path / "there")
    assert go_on(toy_config(tmp_path / "there")).iter == 12
    assert not (tmp_path / "here").exists()


def test_finished_run_does_nothing_more(tmp_path: Path) -> None:
    train(toy_config(tmp_path))
    before = final(tmp_path)
    assert go_on(toy_config(tmp_path)).iter == 12
    assert_same(before, final(tmp_path))
