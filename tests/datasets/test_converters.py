"""The converters on made-up files in the published layouts."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nlseg.datasets import CityscapesDataset, PascalVOCDataset
from tests.datasets.folders import LOAD

TOOLS = Path(__file__).parents[2] / "tools" / "dataset_converters"


def run(tool: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / f"{tool}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def snapshot(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def write_polygons(root: Path, split: str, stem: str) -> None:
    """A road with a car on it, a number plate, a group of people and a deleted object."""

    def box(label: str, left: int, top: int, right: int, bottom: int, **more: Any) -> Any:
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        return {"label": label, "polygon": corners, **more}

    objects = [
        box("road", 0, 8, 19, 11),
        box("car", 4, 6, 9, 10),
        box("license plate", 5, 8, 6, 9),
        box("persongroup", 12, 4, 13, 7),
        box("ego vehicle", 0, 11, 19, 11),
        box("sky", 0, 0, 19, 3, deleted=1),
    ]
    path = root / "gtFine" / split / stem.split("_")[0] / f"{stem}_gtFine_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": 12, "imgWidth": 20, "objects": objects}))
    image = root / "leftImg8bit" / split / stem.split("_")[0] / f"{stem}_leftImg8bit.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(image)


@pytest.mark.skipif(find_spec("cityscapesscripts") is None, reason="needs cityscapesscripts")
def test_cityscapes_polygons_become_train_ids(tmp_path: Path) -> None:
    for split, stem in (
        ("train", "bochum_000000_000019"),
        ("train", "aachen_000001_000019"),
        ("val", "munster_000000_000019"),
    ):
        write_polygons(tmp_path, split, stem)
    done = run("cityscapes", tmp_path, "--nproc", 2)
    assert done.returncode == 0, done.stderr
    once = snapshot(tmp_path)
    assert run("cityscapes", tmp_path).returncode == 0
    assert snapshot(tmp_path) == once  # the same with one process, and the second time
    assert (tmp_path / "train.txt").read_text().split() == [
        "aachen/aachen_000001_000019",
        "bochum/bochum_000000_000019",
    ]
    dataset = CityscapesDataset(
        data_root=str(tmp_path),
        data_prefix={"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"},
        pipeline=LOAD,
    )
    expected = np.full((12, 20), 255)
    expected[8:12] = 0
    expected[6:11, 4:10] = 13
    expected[4:8, 12:14] = 11
    expected[11] = 255
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], expected)


def test_cityscapes_says_what_is_missing(tmp_path: Path) -> None:
    done = run("cityscapes", tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    if find_spec("cityscapesscripts") is None:
        assert "pip install cityscapesscripts" in done.stdout
    else:
        assert f"{tmp_path}/gtFine: no *_polygons.json" in done.stdout


def write_voc(root: Path) -> tuple[Path, Path]:
    """VOC with train a, b and val c; SBD with a, c, d, e."""
    from scipy.io import savemat

    devkit, sbd = root / "VOCdevkit", root / "VOCaug"
    lists = devkit / "VOC2012/ImageSets/Segmentation"
    (sbd / "dataset/cls").mkdir(parents=True)
    (devkit / "VOC2012/JPEGImages").mkdir(parents=True)
    lists.mkdir(parents=True)
    for path, names in (
        (lists / "train.txt", "ab"),
        (lists / "val.txt", "c"),
        (sbd / "dataset/train.txt", "eda"),
        (sbd / "dataset/val.txt", "c"),
    ):
        path.write_text("".join(f"{name}\n" for name in names))
    for number, name in enumerate("acde"):
        mask = np.full((3, 4), number + 1, np.uint8)
        mask[0] = (0, 20, 255, 7)
        record = {"Segmentation": mask, "Boundaries": np.zeros((20, 1)), "CategoriesPresent": [1]}
        savemat(sbd / f"dataset/cls/{name}.mat", {"GTcls": record})
        image = Image.fromarray(np.zeros((3, 4, 3), np.uint8))
        image.save(devkit / f"VOC2012/JPEGImages/{name}.jpg")
    return devkit, sbd


def test_sbd_becomes_voc_aug(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    devkit, sbd = write_voc(tmp_path)
    done = run("voc_aug", devkit, sbd, "--nproc", 2)
    assert done.returncode == 0, done.stderr
    assert "published trainaug list has 10582" in done.stdout
    once = snapshot(devkit)
    assert run("voc_aug", devkit, sbd).returncode == 0
    assert snapshot(devkit) == once
    lists = devkit / "VOC2012/ImageSets/Segmentation"
    assert (lists / "aug.txt").read_text() == "d\ne\n"
    assert (lists / "trainaug.txt").read_text() == "a\nb\nd\ne\n"
    dataset = PascalVOCDataset(
        data_root=str(devkit / "VOC2012"),
        data_prefix={"img_path": "JPEGImages", "seg_map_path": "SegmentationClassAug"},
        ann_file="ImageSets/Segmentation/aug.txt",
        pipeline=LOAD,
    )
    assert dataset[1]["gt_seg_map"].tolist() == [[0, 20, 255, 7], [4] * 4, [4] * 4]


def test_voc_aug_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    done = run("voc_aug", tmp_path, tmp_path)
    assert done.returncode == 2
    assert "no *.mat in this folder" in done.stdout
    devkit, sbd = write_voc(tmp_path)
    (devkit / "VOC2012/ImageSets/Segmentation/val.txt").unlink()
    done = run("voc_aug", devkit, sbd)
    assert done.returncode == 2
    assert "val.txt: this file is not there" in done.stdout
