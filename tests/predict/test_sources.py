"""What is asked for becomes a list of files with names of their own."""

from pathlib import Path

import pytest

from nlseg.errors import UserError
from nlseg.predict.sources import find_sources, share_of_process
from tests.cases import each_case


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folder_keeps_its_folders_and_leaves_other_files_out(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "a/1.JPG", "a/notes.txt", "film.mp4")
    found = find_sources([str(tmp_path)])
    assert [(str(source.name), source.kind) for source in found] == [
        ("a/1", "image"), ("b/2", "image"), ("film", "video"),
    ]  # fmt: skip


def test_names_that_would_meet_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "y/a.png", "x/b.png", "x/b.jpg")
    files = [str(tmp_path / name) for name in ("x/a.png", "y/a.png", "x/b.png", "x/b.jpg")]
    names = [str(source.name) for source in find_sources(files)]
    assert names == ["a_png", "y/a_png", "b_png", "b_jpg"]
    assert len(set(names)) == 4


def test_pattern_list_and_standard_input_give_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    one, two = tmp_path / "a/1.png", tmp_path / "b/2.png"
    by_pattern = find_sources([f"{tmp_path}/*/*.png", str(one)])
    assert [(source.path, str(source.name)) for source in by_pattern] == [
        (one, "a/1"), (two, "b/2"),
    ]  # fmt: skip
    (tmp_path / "list.txt").write_text(f"{two}\n\n{one}\n")
    assert [source.path for source in find_sources([f"@{tmp_path}/list.txt"])] == [two, one]
    assert [source.path for source in find_sources(["-"], [f"{one}\n"])] == [one]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "image.png", "notes.txt")
    with pytest.raises(UserError, match=r"imag\.png: there is no such file.*did you mean .*image"):
        find_sources([str(tmp_path / "imag.png")])
    with pytest.raises(UserError, match="there is no folder"):
        find_sources([str(tmp_path / "absent/x.png")])
    with pytest.raises(UserError, match=r"notes\.txt: is no image or video"):
        find_sources([str(tmp_path / "notes.txt")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image or video in there; read are \.png"):
        find_sources([str(tmp_path / "empty")])


@each_case(
    "environment, share",
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, (1, 3)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "5"},
         (2, 3)),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0",
          "SLURM_ARRAY_TASK_STEP": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (5, 6)),
    ],
)  # fmt: skip
def test_processes_share_the_list(environment: dict[str, str], share: tuple[int, int]) -> None:
    assert share_of_process(environment) == share
