"""What ``nlseg start`` says of its choices, and what a call does where another one was before."""

import os
from pathlib import Path
from typing import Any

import pytest

from nlseg.commands.start import build_parser, check_run_folder, main, request_of
from nlseg.errors import DataError, UserError
from nlseg.plan.dry_run import DryRun
from nlseg.plan.training_step import StepCost
from nlseg.run import checkpoint
from nlseg.start.choose import ON_CPU, Choices
from nlseg.start.planning import batch_reason, make_schedule, read_folder
from nlseg.start.writing import Schedule, with_mark
from tests.start.folders import SIZE, request, two_folders


def plan(root: Path, listed: str) -> Path:
    """Write a config with the mark of a plan, and the list of its training images."""
    (root / "train.txt").write_text(listed)
    file = root / "my_data.py"
    file.write_text(with_mark("train_cfg = dict(max_iters=2)\n", {"train": root / "train.txt"}))
    return file


def run_of(config: Path, folder: Path, seed: int = 0) -> Path:
    """Write what a run leaves: the copy of its config, and a checkpoint."""
    folder.mkdir()
    copy = config.read_text() + f"randomness = dict(seed={seed})\n"
    (folder / config.name).write_text(copy)
    checkpoint.save({"state_dict": {}, "optimizer": {}, "meta": {"iter": 2}}, folder / "iter_2.pth")
    assert checkpoint.newest(folder)[0] is not None
    return folder


def test_a_run_folder_goes_on_with_the_run_of_its_own_plan_alone(tmp_path: Path) -> None:
    config = plan(tmp_path, "a\nb\n")
    check_run_folder(tmp_path / "none", config, 0)
    folder = run_of(config, tmp_path / "run")
    check_run_folder(folder, config, 0)
    config.write_text(config.read_text().replace("=2", "=4"))  # by hand
    check_run_folder(folder, config, 0)
    other = f"{folder}: holds the run of another plan; give another --work-dir"
    plan(tmp_path, "a\nc\n")  # another split
    with pytest.raises(UserError, match=other):
        check_run_folder(folder, config, 0)
    config.unlink()  # before anything is measured for the next plan
    with pytest.raises(UserError, match=other):
        check_run_folder(folder, config, 0)


def test_another_seed_is_no_other_plan_but_another_run(tmp_path: Path) -> None:
    config = plan(tmp_path, "a\n")
    folder = run_of(config, tmp_path / "run", seed=3)
    check_run_folder(folder, config, 3)
    with pytest.raises(UserError, match="was trained with --seed 3, now it is 7; give the same"):
        check_run_folder(folder, config, 7)
    check_run_folder(tmp_path / "another", config, 7)


def test_a_call_with_the_run_of_another_plan_is_refused_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    two_folders(tmp_path / "data")
    config = plan(tmp_path, "a\n")
    Path("work_dirs").mkdir()
    run_of(config, Path("work_dirs/my_data"))
    config.unlink()
    with pytest.raises(SystemExit, match="2"):
        main(["data", "--yes"])
    said = capsys.readouterr()
    assert said.err.startswith("error: work_dirs/my_data: holds the run of another plan")
    assert "measuring" not in said.err + said.out


def test_no_minutes_are_no_time() -> None:
    def asked(*words: str) -> Any:
        return request_of(build_parser().parse_args(["data", *words]))

    with pytest.raises(UserError, match="take a time above 0"):
        asked("--minutes", "0")
    assert asked("--minutes", "2").seconds == 120


def test_reasons_say_what_was_measured() -> None:
    choices = Choices(ON_CPU[0], crop=SIZE, image_size=SIZE)
    cost = StepCost(4, SIZE, 0, 0, 0, 2.0, 1, 1)
    step = DryRun("CPU", (1, 1), 4, SIZE, (1.0, 1.0), cost, 1.0, 2.0, cost, 1, 0.1, 1, 100)
    fits = make_schedule(step, 1, choices, 100.0)
    assert fits.reason.endswith("44 of them fit into 100 s")  # 2 s each, a tenth for other things
    late = make_schedule(step, 1, choices, -7.0)
    assert late.iterations == 4
    assert late.reason.endswith("4 of them are the fewest, and take longer than is left")
    whole, parts = Schedule(4, 4, 1, ""), Schedule(4, 2, 2, "")
    assert batch_reason(choices, whole).endswith("they fit into memory, by a probe")
    assert "2 at once are the most that fit into memory" in batch_reason(choices, parts)


def test_a_name_that_is_not_utf_8_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    root = two_folders(tmp_path / "data")
    for kind in ("images", "masks"):
        os.rename(root / kind / "0.png", os.fsencode(root / kind) + b"/B\xe4ume.png")
    with pytest.raises(DataError, match=r"B\\xe4ume.png: its name is not UTF-8; rename it"):
        read_folder(request(root), progress=False)
