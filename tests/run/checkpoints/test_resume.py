import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.errors import CheckpointError, UserError
from nlseg.run import checkpoint
from nlseg.run.finite import NonFiniteError
from nlseg.run.runner import Runner
from tests.run.rank_script import AMP, BEST, EMA, EPOCHS, accumulate
from tests.run.runs import assert_same, curves, final, go_on, interrupt, train
from tests.run.toy import toy_config


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
    [AMP, EMA, accumulate(3), BEST, {**EMA, **AMP, **accumulate(3), **BEST}],
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


@pytest.mark.parametrize("at", [3, 4, 8])  # in the first epoch, at its end, in the second
def test_resume_is_exact_in_steps_that_reach_over_the_end_of_an_epoch(
    tmp_path: Path, at: int
) -> None:
    changes = {**EPOCHS, **EMA, **AMP, **accumulate(2), "train_dataloader.drop_last": True}
    check_exact(tmp_path, at, **changes)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 2)])
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


def test_run_whose_seed_was_drawn_ends_as_one_that_was_given_it(tmp_path: Path) -> None:
    drawn = toy_config(tmp_path / "drawn", randomness={"_delete_": True, "seed": None})
    interrupt(drawn, 5)
    seed = final(tmp_path / "drawn", "iter_6.pth")["meta"]["seed"]
    torch.manual_seed(seed + 1)  # what this process has drawn before must not matter
    go_on(drawn)
    train(toy_config(tmp_path / "given", randomness={"seed": seed}))
    assert_same(final(tmp_path / "given"), final(tmp_path / "drawn"))


def test_seed_of_the_config_goes_before_that_of_the_checkpoint_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(toy_config(tmp_path, randomness={"seed": 7}), 5)
    warnings: list[str] = []
    monkeypatch.setattr(
        logging.Logger, "warning", lambda self, text, *_: warnings.append(str(text))
    )
    runner = go_on(toy_config(tmp_path, randomness={"seed": 8}))
    assert runner.seed == runner.train_dataloader.sampler.seed == 8
    (table,) = [text for text in warnings if "settings that have changed" in text]
    assert [line.split() for line in table.splitlines()[2:]] == [["seed", "7", "8"]]


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


def go_on_from(config: Any, path: Path) -> Any:
    config = config.copy()
    config.load_from = str(path)
    return go_on(config)


def test_resume_with_a_path_in_the_folder_leaves_the_newer_branch(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train(toy_config(tmp_path))
    config = toy_config(tmp_path, **{"train_dataloader.dataset.poison": (21,)})
    with pytest.raises(NonFiniteError):  # in iteration 6, before anything new is saved
        go_on_from(config, tmp_path / "iter_4.pth")
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "iter_4.pth"


def test_resume_with_a_path_elsewhere_sets_an_older_run_aside(tmp_path: Path) -> None:
    interrupt(toy_config(tmp_path / "a"), 5)
    train(toy_config(tmp_path / "b", iters=4))
    assert go_on_from(toy_config(tmp_path / "b"), tmp_path / "a/iter_6.pth").iter == 12
    (aside,) = (tmp_path / "b").glob("before_*")
    assert (aside / "iter_4.pth").is_file()
    assert {path.name for path in (tmp_path / "b").glob("*.pth")} == {"iter_8.pth", "iter_12.pth"}


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_restart_goes_on_from_what_the_run_has_saved_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    interrupt(toy_config(tmp_path / "a"), 5)
    (tmp_path / "b").mkdir()
    monkeypatch.setenv(variable, "1")
    log = tmp_path / "samples.txt"
    again = toy_config(tmp_path / "b", **{"train_dataloader.dataset.log": str(log)})
    interrupt(toy_config(tmp_path / "a"), 8)  # a restart without --resume goes on
    shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
    go_on_from(again, tmp_path / "a/iter_6.pth")
    numbers = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert numbers[0] == 9 * 4


def test_weights_alone_are_refused_and_leave_the_folder_as_it_was(tmp_path: Path) -> None:
    train(toy_config(tmp_path, **{"default_hooks.checkpoint.save_optimizer": False}, iters=4))
    files = [*tmp_path.glob("iter_4*"), tmp_path / "last_checkpoint"]
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(CheckpointError, match="holds weights but no optimizer"):
        go_on_from(toy_config(tmp_path), tmp_path / "iter_4.pth")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_checkpoints_in_another_folder_are_found(tmp_path: Path) -> None:
    out = {"default_hooks.checkpoint.out_dir": str(tmp_path / "out")}
    interrupt(toy_config(tmp_path / "run", **out), 5)
    assert (tmp_path / "out/run/iter_6.pth").is_file()
    log = tmp_path / "samples.txt"
    go_on(toy_config(tmp_path / "run", **out, **{"train_dataloader.dataset.log": str(log)}))
    assert log.read_text().split()[0] == str(6 * 4)
    train(toy_config(tmp_path / "run", **out, iters=4))  # a new run
    assert {path.name for path in (tmp_path / "out/run").glob("*.pth")} == {"iter_4.pth"}


@pytest.mark.parametrize("record", [True, False], ids=["record", "no record"])
@pytest.mark.parametrize("harm", ["short", "flip"])
def test_damaged_path_is_refused(tmp_path: Path, harm: str, record: bool) -> None:
    train(toy_config(tmp_path / "a", iters=4))
    path = tmp_path / "a/iter_4.pth"
    data = bytearray(path.read_bytes())
    weight = final(tmp_path / "a", "iter_4.pth")["state_dict"]["head.weight"]
    data[data.index(weight.numpy().tobytes()) + 1] ^= 1
    path.write_bytes(data[:-99] if harm == "short" else data)
    if not record:
        path.with_name("iter_4.pth.json").unlink()
    with pytest.raises(CheckpointError, match=r"iter_4\.pth: "):
        go_on_from(toy_config(tmp_path / "b"), path)
    with pytest.raises(CheckpointError, match=r"iter_4\.pth: "):
        Runner.from_cfg(toy_config(tmp_path / "c", load_from=str(path))).test()


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
