import os
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from nlseg.errors import UserError
from nlseg.run import checkpoint, places, space
from nlseg.run.keeper import Keeper
from nlseg.run.places import Places, fallback_folders
from nlseg.run.space import Budget, optimizer_growth

MIB = 1 << 20


def test_files_that_lie_side_by_side_are_counted(tmp_path: Path) -> None:
    budget = Budget(tmp_path, size=100 * MIB, missing=0, kept=3, best=2)
    assert budget.needed == 600 * MIB  # 3 kept, 2 best, and the one that is being written
    again = Budget(tmp_path, size=100 * MIB, missing=0, kept=3, best=2, present=5)
    assert again.needed == 100 * MIB  # of a resumed run all but the new one are there
    assert "3 kept + 2 best + 1 new - 5 that are there need 100.0 MiB" in again.described()


def test_growth_of_the_optimizer_is_what_its_first_step_adds() -> None:
    weights = [nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(5))]
    for parameter in weights:
        parameter.grad = torch.ones_like(parameter)
    sgd = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    assert optimizer_growth(sgd) == 15 * 4
    sgd.step()
    assert optimizer_growth(sgd) == 0
    assert optimizer_growth(torch.optim.SGD(weights, lr=0.1)) == 0
    assert optimizer_growth(torch.optim.AdamW(weights)) == 2 * 15 * 4


def test_trial_writes_the_true_size_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", note)
    state = {"state_dict": {"w": torch.ones(MIB // 4)}}
    budget = Budget(tmp_path, size=3 * MIB, missing=2 * MIB, kept=1, best=0)
    assert "a trial save took" in space.check(budget, state)
    assert sizes == [pytest.approx(3 * MIB, abs=4096)]
    assert os.listdir(tmp_path) == []


def test_more_than_is_free_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    budget = Budget(tmp_path, size=1 << 50, missing=0, kept=1, best=0)
    with pytest.raises(UserError, match=r"1 kept \+ 1 new need 2147483648.0 MiB.* are free; make"):
        space.check(budget, {})


def test_copy_in_memory_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_memory", lambda: MIB)
    budget = Budget(tmp_path, size=2 * MIB, missing=0, kept=1, best=0, background=True)
    with pytest.raises(UserError, match=r"background: the copy .* needs 2.0 MiB, but 1.0 MiB"):
        space.check(budget, {})


def test_run_that_keeps_all_is_told_how_many_find_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: type("", (), {"free": 5 * MIB})())
    budget = Budget(tmp_path, size=MIB, missing=0, kept=1, best=1, more=9)
    assert "there is room for 3 of the 10 to come" in space.check(budget, {})


def test_fallbacks_follow_from_the_name_of_the_folder(tmp_path: Path) -> None:
    one = fallback_folders(tmp_path / "run", str(tmp_path / "given"))
    assert one == fallback_folders(tmp_path / "a/../run", str(tmp_path / "given"))
    assert one[0].parent == tmp_path / "given"
    assert not set(one) & set(fallback_folders(tmp_path / "other/run", str(tmp_path / "given")))


def test_fallback_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PAUSES_S", ())
    if os.getuid() != 0:
        pytest.skip("giving a folder away needs root")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    place = shared / "run"
    place.mkdir()
    os.chown(place, 12345, 12345)
    told: list[str] = []

    def write(folder: Path) -> None:
        raise OSError(28, "No space left on device") if folder != place else AssertionError

    with pytest.raises(OSError, match="belongs to another user"):
        Places(tmp_path / "own", [place], say=told.append).put(write, 1)


def put_in(places: Places, name: str, refused: Path | None) -> Path:
    """Write a file into the folder, or into a fallback where the folder refuses it."""

    def write(folder: Path) -> None:
        if folder == refused:
            raise OSError(28, "No space left on device")
        (folder / name).write_bytes(b"")

    return places.put(write, 1)


@pytest.mark.parametrize("takes", [True, False], ids=["used", "refused, too"])
def test_fallback_that_is_not_needed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: bool
) -> None:
    monkeypatch.setattr(places, "PAUSES_S", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    chosen = [p for p in fallback_folders(tmp_path / "run") if tmp_path in p.parents]
    assert len(chosen) == 1
    here = Places(tmp_path / "run", chosen, say=lambda _: None)
    if takes:
        assert put_in(here, "a.pth", tmp_path / "run") == chosen[0]
        here.clear(chosen[0])
    else:

        def write(folder: Path) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            here.put(write, 1)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_fallbacks_of_other_runs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PAUSES_S", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    used = []
    for name in ("one", "other"):
        chosen = [p for p in fallback_folders(tmp_path / name) if tmp_path in p.parents]
        here = Places(tmp_path / name, chosen, say=lambda _: None)
        used.append((here, put_in(here, "a.pth", tmp_path / name)))
    here, place = used[0]
    here.clear(place)
    assert (used[1][1] / "a.pth").exists()


@pytest.mark.parametrize(("most", "kept"), [(-1, [1, 2, 3]), (2, [2, 3]), (1, [3])])
def test_checkpoints_of_a_fallback_come_home_as_far_as_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, kept: list[int]
) -> None:
    monkeypatch.setattr(places, "PAUSES_S", ())
    home, away = tmp_path / "run", tmp_path / "away"
    keeper = Keeper(home, "iter_{}.pth", most)
    keeper.places = Places(home, [away], say=lambda _: None)
    home.write_bytes(b"")  # a file, in which nothing can be written
    for iteration in (1, 2, 3):
        if iteration == 3:
            assert keeper.written == away / "iter_2.pth"
            home.unlink()
        state = {"state_dict": {"a": torch.ones(2)}, "optimizer": {}, "meta": {"iter": iteration}}
        keeper.add(state, home / f"iter_{iteration}.pth")
    assert sorted(path.name for path in home.glob("*.pth")) == [f"iter_{n}.pth" for n in kept]
    assert not away.exists()
    assert checkpoint.newest(home) == (home / "iter_3.pth", [])
