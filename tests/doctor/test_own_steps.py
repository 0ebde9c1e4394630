"""Data sets with transforms of the user's: samples over the whole set are run through them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlseg.doctor.examination import Examination, examine
from nlseg.registry import TRANSFORMS
from tests.doctor.damaged import SIZE, make_config, make_data, save


@TRANSFORMS.register_module(force=True)
class HalveLabels:
    """As users write a transform: labels are stored twice as large as they are."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        label = sample["gt_seg_map"]
        sample["gt_seg_map"] = np.where(label == 255, 255, label // 2)
        return sample


STEPS = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "HalveLabels"}]


@pytest.fixture(scope="module")
def stored_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_data(root, relabel=lambda label: np.where(label == 255, label, label * 2), num=100)
    return root


def examined(root: Path) -> Examination:
    config = make_config(root, stages=["train"], pipeline=STEPS)
    return examine(config, num_processes=1, progress=False)


def test_fifty_samples_stand_for_the_whole_set(stored_twice: Path) -> None:
    found = examined(stored_twice)
    assert found.num_errors == 0
    (note,) = (one for one in found.findings if one.code == "own-transforms")
    assert "was run on 50 of 100 samples" in note.detail


@pytest.mark.parametrize(("place", "is_looked_at"), [(0, True), (98, True), (99, False)])
def test_each_second_of_a_hundred_is_looked_at(
    place: int, is_looked_at: bool, stored_twice: Path
) -> None:
    names = sorted(path.name for path in (stored_twice / "train/lab").iterdir())
    file = stored_twice / "train/lab" / names[place]
    before = file.read_bytes()
    save(np.full(SIZE, 80, np.uint8), file)
    try:
        wrong = [one for one in examined(stored_twice).findings if one.severity == "error"]
    finally:
        file.write_bytes(before)
    assert [one.code for one in wrong] == ["stray-labels"] * is_looked_at
    assert all(one.files == (str(file),) for one in wrong)
