import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook

from nlseg.errors import ConfigError
from nlseg.registry import HOOKS
from nlseg.run import checkpoint
from nlseg.run.background import Saver
from nlseg.run.best_scores import BestScores, guess_rule
from nlseg.run.finite import NonFiniteError
from nlseg.run.save import CheckpointHook
from tests.run.runs import assert_same, final, train
from tests.run.toy import toy_config

HOOK = "default_hooks.checkpoint"
# Without dropout, whose draws PyTorch versions differ in: 53.85 at 4, 76.92 at 8 and at 12.
BEST_AT_8 = {f"{HOOK}.save_best": "mIoU", "model.dropout": 0.0, "randomness.seed": 5}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pth")}


def test_interval_and_last(tmp_path: Path) -> None:
    train(toy_config(tmp_path, iters=11))
    assert names(tmp_path) == {"iter_4.pth", "iter_8.pth", "iter_11.pth"}
    assert (tmp_path / "last_checkpoint").read_text() == "iter_11.pth"


def test_keep_one_and_best_as_a_link(tmp_path: Path) -> None:
    train(toy_config(tmp_path, **BEST_AT_8, **{f"{HOOK}.max_keep_ckpts": 1}))
    assert names(tmp_path) == {"iter_12.pth", "best_mIoU_iter_8.pth"}
    record = checkpoint.read_record(tmp_path / "best_mIoU_iter_8.pth")
    assert record is not None
    assert record.scores["mIoU"] == pytest.approx(100 * 10 / 13)
    assert record.sha256 == checkpoint.sha256_of(tmp_path / "best_mIoU_iter_8.pth")
    last = checkpoint.read_record(tmp_path / "iter_12.pth")
    assert last is not None
    assert last.scores["mIoU"] == pytest.approx(100 * 10 / 13)


def test_best_is_a_second_name_of_the_same_file(tmp_path: Path) -> None:
    train(toy_config(tmp_path, iters=8, **{**BEST_AT_8, f"{HOOK}.save_best": "auto"}))
    assert (tmp_path / "best_mIoU_iter_8.pth").samefile(tmp_path / "iter_8.pth")


def test_best_between_two_saves_is_a_file_of_its_own(tmp_path: Path) -> None:
    train(toy_config(tmp_path, **BEST_AT_8, **{f"{HOOK}.interval": 6}))
    assert names(tmp_path) == {"iter_6.pth", "iter_12.pth", "best_mIoU_iter_8.pth"}
    assert final(tmp_path, "best_mIoU_iter_8.pth")["meta"]["iter"] == 8


def test_saving_in_the_background_writes_the_same(tmp_path: Path) -> None:
    keep = {f"{HOOK}.max_keep_ckpts": 1, f"{HOOK}.save_best": "mIoU"}
    ema: dict[str, Any] = {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
    train(toy_config(tmp_path / "a", **keep, **ema))
    train(toy_config(tmp_path / "b", **keep, **ema, **{f"{HOOK}.background": True}))
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert_same(final(tmp_path / "a", name), final(tmp_path / "b", name))


def test_frozen_state_does_not_change_with_training() -> None:
    weight = torch.zeros(3)
    saver = Saver(background=True)
    frozen = saver.freeze({"w": weight, "list": [weight], "n": 1})
    weight += 1
    assert frozen["w"].tolist() == [0, 0, 0]
    assert frozen["list"][0].tolist() == [0, 0, 0]
    memory = frozen["w"].data_ptr()
    assert saver.freeze({"w": weight})["w"].data_ptr() == memory  # the memory is used again
    saver.close()


def test_failure_in_the_background_is_told_later() -> None:
    saver = Saver(background=True)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    saver.run(fail)
    (error,) = saver.failures(wait=True)
    assert error.errno == 28
    assert saver.failures(wait=True) == []
    saver.close()


def test_failed_periodic_save_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint.save

    def fail_once(content: Any, path: Path) -> Any:
        if path.name == "iter_8.pth":
            raise checkpoint.SaveError("iter_8.pth: cannot be written")
        return original(content, path)

    monkeypatch.setattr(checkpoint, "save", fail_once)
    train(toy_config(tmp_path, **BEST_AT_8, **{f"{HOOK}.max_keep_ckpts": 1}))
    # the best one, at 8, is then a file of its own
    assert names(tmp_path) == {"iter_12.pth", "best_mIoU_iter_8.pth"}


def test_failed_last_save_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content: Any, path: Path) -> None:
        raise checkpoint.SaveError(f"{path.name}: cannot be written")

    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(checkpoint.SaveError, match=r"iter_12\.pth"):
        train(toy_config(tmp_path, **{f"{HOOK}.interval": -1, f"{HOOK}.save_limit": 0.0}))


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    @HOOKS.register_module(force=True)
    class Spoil(Hook):
        def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
            if runner.iter == 6:
                with torch.no_grad():
                    runner.model.head.weight[0, 0] = float("inf")

    config = toy_config(tmp_path, **{"non_finite": {"policy": "skip", "limit": 99}})
    config.custom_hooks = [{"type": "Spoil"}]
    with pytest.raises(NonFiniteError, match="weights are not finite; not saved"):
        train(config)
    assert names(tmp_path) == {"iter_4.pth"}


def test_published_copy_has_a_hash_in_its_name_and_weights_only(tmp_path: Path) -> None:
    train(toy_config(tmp_path, iters=4, **{f"{HOOK}.published_keys": ["meta", "state_dict"]}))
    (copy,) = tmp_path.glob("iter_4-*.pth")
    assert checkpoint.sha256_of(copy).startswith(copy.stem.split("-")[1])
    assert set(torch.load(copy, weights_only=True)) == {"meta", "state_dict"}
    assert not list(tmp_path.glob("*publishing*"))


def test_meta_says_where_the_checkpoint_comes_from(tmp_path: Path) -> None:
    train(toy_config(tmp_path, iters=4))
    meta = torch.load(tmp_path / "iter_4.pth", weights_only=True)["meta"]
    assert meta["iter"] == 4
    assert meta["seed"] == 7
    assert meta["dataset_meta"]["classes"] == ("a", "b", "c")
    assert "ToyModel" in meta["cfg"]
    assert meta["settings"]["batch_size"] == 4
    json.dumps(meta["settings"])  # plain


def test_best_scores_rules() -> None:
    best = BestScores(["mIoU", "loss"], [None])
    assert best.improved({"mIoU": 1.0, "loss": 3.0}) == ["mIoU", "loss"]
    assert best.keep("mIoU", 1.0, "a", 1) is None
    best.keep("loss", 3.0, "b", 1)
    assert best.improved({"mIoU": 1.0, "loss": 2.0}) == ["loss"]
    assert best.improved({"mIoU": float("nan"), "loss": 4.0}) == []
    assert best.keep("mIoU", 2.0, "c", 2) == "a"
    assert BestScores(["x"], ["less"]).improved({"x": 1.0}) == ["x"]
    with pytest.raises(ConfigError, match="no 'mIoU'; it gives aAcc"):
        BestScores(["mIoU"], [None]).improved({"aAcc": 1.0})
    with pytest.raises(ConfigError, match="say 'greater' or 'less' for 'x'"):
        guess_rule("x")


def test_words_of_the_users_own_say_which_scores_are_better() -> None:
    hook = CheckpointHook(save_best=["PQ", "mAcc"], greater_keys=["pq"], less_keys=["mAcc"])
    assert hook.best.improved({"PQ": 3.0, "mAcc": 3.0}) == ["PQ", "mAcc"]
    for key in ("PQ", "mAcc"):
        hook.best.keep(key, 3.0, f"{key}.pth", 1)
    assert hook.best.improved({"PQ": 4.0, "mAcc": 4.0}) == ["PQ"]
    assert hook.best.improved({"PQ": 2.0, "mAcc": 2.0}) == ["mAcc"]
    assert guess_rule("mAcc") == "greater"


def test_a_store_that_is_not_local_is_refused() -> None:
    CheckpointHook(backend_args={"backend": "local"})
    CheckpointHook(file_client_args={"backend": "disk"})
    with pytest.raises(ConfigError, match=r"'petrel'} is not local; give out_dir a mounted"):
        CheckpointHook(file_client_args={"backend": "petrel"})
