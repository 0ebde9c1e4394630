"""A test leaves scores of every class, and predictions that do not overwrite each other."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nlseg.evaluation.iou import IoUMetric
from nlseg.evaluation.prediction_files import root_of_shared_names
from nlseg.run.eval_loop import choose_files


class Files:
    def __init__(self, *names: str) -> None:
        self.names = names
        self.data_prefix = {"img_path": "/d"}

    def __len__(self) -> int:
        return len(self.names)

    def get_data_info(self, index: int) -> dict[str, Any]:
        return {"img_path": f"/d/{self.names[index]}"}


def test_sub_folders_are_kept_only_where_names_are_shared() -> None:
    assert root_of_shared_names(Files("a/1.png", "b/1.jpg")) == "/d"
    assert root_of_shared_names(Files("a/1.png", "b/2.png")) is None


def test_each_metric_gets_a_file_unless_it_has_one(tmp_path: Path) -> None:
    plain, named, told = IoUMetric(), IoUMetric(prefix="day"), IoUMetric(per_class_file="x.json")
    choose_files([plain, named, told, SimpleNamespace()], Files("1.png"), tmp_path)
    assert plain.per_class_file == str(tmp_path / "per_class.json")
    assert named.per_class_file == str(tmp_path / "per_class_day.json")
    assert told.per_class_file == "x.json"


def test_only_written_predictions_need_a_root(tmp_path: Path) -> None:
    files = Files("a/1.png", "b/1.png")
    plain, writing = IoUMetric(), IoUMetric(output_dir=str(tmp_path))
    choose_files([plain, writing], files, tmp_path)
    assert (plain.img_root, writing.img_root) == (None, "/d")
