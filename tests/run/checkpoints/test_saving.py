import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.run.background import Saver
from nlseg.run.finite import NonFiniteError
from nlseg.run.keeper import Keeper
from tests.run.runs import train
from tests.run.toy import toy_config


def seconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def test_training_stands_still_for_a_twentieth_of_a_save_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def slow_disk(descriptor: int) -> None:
        time.sleep(0.25)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_disk)
    weights = {str(number): torch.randn(1_000_000) for number in range(10)}
    state = {"meta": {"iter": 1}, "state_dict": weights, "optimizer": {}}
    keeper = Keeper(tmp_path, "iter_{}.pth", 1)

    def save(saver: Saver) -> None:
        frozen = saver.freeze(state)
        saver.run(lambda: keeper.add(frozen, tmp_path / "iter_1.pth"))

    inline = seconds(lambda: save(Saver(background=False)))
    saver = Saver(background=True)
    saver.prepare(state)
    saver.wait()  # as it will have come to an end when the first checkpoint is due
    assert seconds(lambda: save(saver)) < inline / 20
    saver.close()
    assert (tmp_path / "last_checkpoint").read_text() == "iter_1.pth"


def test_memory_is_taken_once_and_for_states_of_another_shape_again() -> None:
    saver = Saver(background=True)
    saver.prepare({"w": torch.ones(2, 3), "list": [torch.ones(4, dtype=torch.int64)]})
    saver.wait()
    places = {name: kept.data_ptr() for name, kept in saver._memory.items()}
    frozen = saver.freeze({"w": torch.ones(2, 3), "list": [torch.ones(5, dtype=torch.int64)]})
    assert frozen["w"].data_ptr() == places["/w"]
    assert frozen["list"][0].shape == (5,)
    saver.close()


@pytest.mark.parametrize("background", [False, True])
def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, background: bool) -> None:
    saver, keeper = Saver(background), Keeper(tmp_path, "iter_{}.pth", 1)
    weights = {"w": torch.tensor([1.0, float("inf")]), "n": torch.tensor(1)}
    frozen = saver.freeze({"meta": {"iter": 5}, "state_dict": weights})

    def save() -> None:
        saver.run(lambda: keeper.add(frozen, tmp_path / "iter_5.pth"))
        saver.failures(wait=True)

    with pytest.raises(NonFiniteError, match="iteration 5: weights are not finite; not saved"):
        save()
    saver.close()
    assert os.listdir(tmp_path) == []


def test_run_takes_the_memory_before_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Any] = []
    monkeypatch.setattr(Saver, "prepare", lambda _, state: prepared.append(state))
    background = {"default_hooks.checkpoint.background": True}
    train(toy_config(tmp_path, iters=4, **background))
    assert [set(state) >= {"state_dict", "optimizer"} for state in prepared] == [True]


def test_checkpoint_in_another_folder_drops_nothing_in_the_runs_own(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    state = {"meta": {"iter": 3}, "state_dict": {"w": torch.ones(1)}, "optimizer": {}}
    keeper = Keeper(own, "epoch_{}.pth", 1)
    for folder in (own, other):
        folder.mkdir()
    keeper.add(state, own / "iter_3.pth")  # on request, within the first epoch
    keeper.add(state, other / "epoch_1.pth")
    assert (own / "iter_3.pth").is_file()
    keeper.add(state, own / "epoch_1.pth")
    assert not (own / "iter_3.pth").exists()
