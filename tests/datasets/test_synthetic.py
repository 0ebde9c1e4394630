"""The drawn street scenes: layout, determinism, and what a guess can reach on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import RandomState
from PIL import Image

from nlseg.datasets import CityscapesDataset
from nlseg.datasets.street_scene import draw_scene
from nlseg.datasets.synthetic import (
    LABEL_IDS,
    ColourGuess,
    PlaceGuess,
    guess_scores,
    mean_iou,
    write_street_scenes,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    return write_street_scenes(folder, num_train=30, num_val=8, size=(96, 192))


def test_layout_is_that_of_cityscapes(root: Path) -> None:
    dataset = CityscapesDataset(
        data_root=str(root),
        data_prefix={"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"},
        pipeline=[{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}],
        test_mode=True,
    )
    assert len(dataset) == 8
    sample = dataset[0]
    assert sample["img_path"].endswith(
        "leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png"
    )
    assert sample["img"].shape == (96, 192, 3)
    ids = np.array(Image.open(sample["seg_map_path"].replace("labelTrainIds", "labelIds")))
    label = sample["gt_seg_map"]
    for train_id, label_id in enumerate(LABEL_IDS):
        np.testing.assert_array_equal(ids == label_id, label == train_id)
    assert set(ids[label == 255]) == {1}


def test_all_classes_occur_and_none_rules(root: Path) -> None:
    counts = np.zeros(256, np.int64)
    for path in (root / "gtFine/train").rglob("*TrainIds.png"):
        counts += np.bincount(np.array(Image.open(path)).ravel(), minlength=256)
    assert (counts[:19] > 0).all()
    assert counts[19:255].sum() == 0
    assert counts[:19].max() < 0.4 * counts[:19].sum()


def test_the_same_seed_draws_the_same_scene(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_street_scenes(tmp_path / name, num_train=2, num_val=1, size=(64, 96), seed=5)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.png"))
    assert len(files) == 9
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    first, other = (draw_scene(RandomState(seed), 64, 96)[0] for seed in (5, 6))
    assert (first != other).any()


def test_guesses_by_hand() -> None:
    def picture(colours: Any, classes: Any) -> Any:
        image = np.array(colours, np.uint8)[None, :, None].repeat(3, axis=2)
        return image, np.array([classes], np.uint8)

    # 10 is class 0 twice and class 1 once; 200 is class 1; 255 does not count
    train = [picture([10, 10, 10, 200, 90], [0, 0, 1, 1, 255])]
    guess = ColourGuess(train, 2, bits=4)
    assert guess(picture([10, 200, 60], [0, 0, 0])[0]).tolist() == [[0, 1, 0]]
    # predicted 0 1 0, true 0 1 1: IoU of class 0 = 1/2, of class 1 = 1/2
    assert mean_iou(guess, [picture([10, 200, 60], [0, 1, 1])], 2) == pytest.approx(50)
    assert PlaceGuess(train, 2)(train[0][0]).tolist() == [[0, 0, 1, 1, 0]]
    constant = ColourGuess([picture([9, 9, 9], [1, 1, 0])], 2, bits=0)
    assert constant(picture([1, 2], [0, 0])[0]).tolist() == [[1, 1]]


def test_colour_alone_does_not_get_far(root: Path) -> None:
    scores = guess_scores(root)
    assert scores["constant"] < 3
    assert scores["constant"] < scores["colour"] < 20
    assert scores["place"] < 20


def test_scenes_stay_as_they_are() -> None:
    """The scores of the quickstart rest on them: pixels of each class in eight scenes, recorded."""
    counts, brightness = np.zeros(256, np.int64), []
    for seed in range(8):
        image, label = draw_scene(RandomState(seed), 96, 192)
        counts += np.bincount(label.ravel(), minlength=256)
        brightness.append(float(image.mean()))
    want = [12237, 9799, 27863, 1371, 5657, 1305, 1000, 394, 7016, 29080]
    want += [32497, 1480, 223, 2544, 3238, 2717, 3032, 975, 212]
    # edges of polygons may move by a pixel between versions of OpenCV, none does in proportion
    assert np.abs(counts[:19] - want).sum() <= 60
    assert abs(counts[255] - 4816) <= 20
    recorded = [92.56, 106.23, 82.02, 107.18, 114.54, 104.18, 101.95, 120.39]
    np.testing.assert_allclose(brightness, recorded, atol=0.05)


def test_a_class_that_does_not_occur_is_not_in_the_mean() -> None:
    image, label = np.zeros((1, 4, 3), np.uint8), np.array([[0, 0, 2, 255]], np.uint8)
    guess = {"all right": [0, 0, 2, 1], "half of one": [0, 2, 2, 1]}
    values = {
        name: mean_iou(lambda _, row=row: np.array([row]), [(image, label)], num_classes=4)
        for name, row in guess.items()
    }
    assert values == {"all right": 100.0, "half of one": 50.0}  # 1/2 and 1/2
