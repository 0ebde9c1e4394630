"""Exports of labelling tools as a folder of ``nlseg start``: classes, splits, names, what is left.

COCO's is in ``test_layout``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nlseg.config import load_config
from nlseg.errors import UserError
from nlseg.registry import DATASETS
from nlseg.start import progress
from nlseg.start.exports import read_layout
from nlseg.start.facts import read_label
from nlseg.start.layout import Where
from nlseg.start.planning import read_folder
from nlseg.start.request import Request
from nlseg.start.writing import listing
from tests.intake.test_import import BOX, coco, cvat, grid, labelme, marked, picture, shape
from tests.start.folders import request
from tests.start.test_command import drafted

CAR = [[2, 2], [4, 4]]
NAMES = ["a", "deep/b", "deep/Straße 1/Bild ä 2", "z"]


def labelled(root: Path) -> Path:
    """Write four images, three of them in folders, with a car on a road each."""
    for i, name in enumerate(NAMES):
        path = root / f"{name}.jpg"
        picture(path, i)
        shapes = [marked("road", BOX), marked("car", CAR, "rectangle"),
                  marked("__ignore__", [[0, 0], [1, 0], [1, 6], [0, 6]])]  # fmt: skip
        labelme(path.parent, path.stem, shapes)
    return root


def samples(config: Path) -> dict[str, Any]:
    """Load all that a config's training and test would, by the names of the images."""
    found = {}
    for split in ("train", "test"):
        dataset = DATASETS.build(load_config(config)[f"{split}_dataloader"].dataset.to_dict())
        for i in range(len(dataset)):
            sample = dataset[i]
            path = Path(sample["data_samples"].img_path)
            found[path.stem] = sample["data_samples"].gt_sem_seg.data[0].numpy()
    return found


def splits(root: Path, **more: Any) -> dict[str, list[str]]:
    layout, _ = read_layout(request(root, **more))
    return {split: [pair.name for pair in found] for split, found in layout.splits().items()}


def test_a_folder_of_labelme(tmp_path: Path) -> None:
    root = labelled(tmp_path / "meine daten")
    picture(root / "deep/alone.jpg", 9)
    (root / "labels.txt").write_text("__ignore__\n_background_\nroad\ncar\n")  # LabelMe's own list
    found = read_folder(request(root), progress=False)
    assert found.layout.kind == "an export of labelme"
    assert [pair.name for pair in found.layout.pairs] == sorted(NAMES)
    assert found.labels.classes == ("background", "road", "car")
    assert found.labels.ignored == (255,)
    want = grid("x....... x111111. x122111. x122111. x111111. x.......")
    for pair in found.layout.pairs:
        assert (read_label(pair.mask, found.labels) == want).all()
    left = root / "deep/alone.jpg"
    assert f"1 images without labels are left out, such as {left}" in found.layout.notes
    files = samples(drafted(root))
    assert files.keys() == {"a", "b", "Bild ä 2", "z"}
    assert {value for label in files.values() for value in np.unique(label)} == {0, 1, 2, 255}


def test_cocos_files_of_three_splits(tmp_path: Path) -> None:
    for split in ("test", "train", "valid"):
        file = coco(tmp_path / "data" / split, [shape(1, 1, 3, [[0, 0, 4, 0, 4, 4]])])
        file.rename(file.with_name("_annotations.coco.json"))
    found = splits(tmp_path / "data")
    assert found == {split: [f"{split}/0", f"{split}/1"] for split in ("train", "val", "test")}


def test_what_is_made_inside_of_the_folder_is_none_of_its_images(tmp_path: Path) -> None:
    root = labelled(tmp_path)
    inside = Request(root, root / "my_data.py", 60.0)
    for _ in range(2):
        layout, _ = read_layout(inside)
        assert len(layout.pairs) == 4
        assert len(layout.notes) == 1


def test_classes_of_labelme_are_in_the_order_of_their_names_or_as_given(tmp_path: Path) -> None:
    root = labelled(tmp_path / "data")
    assert read_folder(request(root), progress=False).labels.classes == (
        "background",
        "car",
        "road",
    )
    found = read_folder(request(root, classes="road,car", unlabelled=255), progress=False)
    assert found.labels.classes == ("road", "car")
    want = grid("xxxxxxxx x000000x x011000x x011000x x000000x xxxxxxxx")
    assert (read_label(found.layout.pairs[0].mask, found.labels) == want).all()


def test_splits_of_labelme_are_those_of_folders_or_lists(tmp_path: Path) -> None:
    root = labelled(tmp_path / "data")
    (root / "train.txt").write_text("a\nb.jpg\ndeep/Straße 1/Bild ä 2\n", encoding="utf-8")
    (root / "val.txt").write_text("z\n")
    assert splits(root) == {"train": ["a", NAMES[2], "deep/b"], "val": ["z"]}
    for name in ("train.txt", "val.txt"):
        (root / name).unlink()
    (root / "deep").rename(root / "Training")
    (root / "Test").mkdir()
    for file in root.glob("[az].*"):
        file.rename(root / "Test" / file.name)
    named = {"train": ["Training/Straße 1/Bild ä 2", "Training/b"], "test": ["Test/a", "Test/z"]}
    assert splits(root) == named


def test_images_of_labelme_may_lie_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for i in range(3):
        picture(root / f"photos/{i}.jpg", i)
        path = f"C:\\Users\\me\\{i}.jpg"
        labelme(root / "annotations", str(i), [marked("road", BOX)], imagePath=path)
    with pytest.raises(UserError, match=r"its image .* is not there \(see --images\)"):
        read_layout(request(root))
    layout, _ = read_layout(request(root, where=Where(images="photos")))
    assert [pair.name for pair in layout.pairs] == [f"annotations/{i}" for i in range(3)]
    assert layout.notes == ["what nobody labelled is class 0, background; the other way: "
                            "--unlabelled 255"]  # fmt: skip
    for i in range(3):  # beside the file, whatever folder it names
        (root / f"photos/{i}.jpg").rename(root / f"annotations/{i}.jpg")
    assert len(read_layout(request(root))[0].pairs) == 3


def test_photos_that_are_turned_are_labelled_as_they_are_shown(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for i, name in enumerate(("a.jpg", "b.jpg", "c.png", "lain.jpg")):
        picture(root / name, i)
        if name == "c.png":
            labelme(root, "c", [marked("road", BOX)], imagePath=name)
            continue
        turned = Image.Exif()
        turned[0x0112] = 6
        with Image.open(root / name) as photo:
            photo.save(root / name, exif=turned)
        upright = {"imageHeight": 8, "imageWidth": 6} if name != "lain.jpg" else {}
        labelme(root, Path(name).stem, [marked("road", BOX)], **upright)
    found = read_folder(request(root), progress=False)
    assert "1 rows are left out" in " ".join(found.layout.notes)
    (told,) = (tmp_path / "my_data_files/import/unreadable.txt").read_text().splitlines()
    told = told.partition("; remove the tag")[0]
    assert told == f"{root}/lain.jpg:1: is 8 x 6 px, as its EXIF tag turns it, labelled as 6 x 8"
    shapes = {name: label.shape for name, label in samples(drafted(root)).items()}
    assert shapes.keys() == {"a", "b", "c"}
    assert {p.suffix for p in (tmp_path / "my_data_files/import/images").iterdir()} == {".png"}
    for name in ("a", "b"):
        with Image.open(tmp_path / f"my_data_files/import/images/{name}.png") as image:
            assert (image.height, image.width) == (8, 6)


def subsets(root: Path) -> Path:
    """Write CVAT's export with its own names of subsets, and blanks in those of images."""
    cvat(root)
    for name in ("3", "4"):
        (root / f"SegmentationClass/{name}.png").unlink()
    for folder, suffix in (("SegmentationClass", ".png"), ("JPEGImages", ".jpg")):
        (root / folder / f"2{suffix}").rename(root / folder / f"das zweite{suffix}")
    lists = root / "ImageSets/Segmentation"
    for file in lists.iterdir():
        file.unlink()
    (lists / "Train.txt").write_text("0\ndas zweite\n")
    (lists / "Test.txt").write_text("1\n")
    (lists / "default.txt").write_text("")
    (root / "labelmap.txt").write_text("background:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n")
    return root


def test_an_export_of_cvat(tmp_path: Path) -> None:
    root = subsets(tmp_path / "data")
    found = read_folder(request(root), progress=False)
    assert found.labels.classes == ("background", "road", "car")
    assert found.labels.palette == ((0, 0, 0), (128, 64, 128), (0, 0, 142))
    assert [pair.name for pair in found.parts.train] == ["0", "das zweite"]
    assert [pair.name for pair in found.parts.test] == ["1"]
    assert found.parts.reason == "given: 2 train, 1 test"
    assert found.layout.notes == ["what nobody labelled is class 0, background; the other way: "
                                  "--unlabelled 255"]  # fmt: skip
    want = grid("........ 11111111 12221111 11111111 11111111 ........")
    labels = [read_label(pair.mask, found.labels) for pair in found.layout.pairs]
    assert (np.stack(labels) == want).all()
    assert samples(drafted(root)).keys() == {"0", "1", "das zweite"}
    found = read_folder(request(root, unlabelled=255), progress=False)
    assert found.labels.classes == ("road", "car")
    assert found.labels.ignored == (255,)
    assert (read_label(found.layout.pairs[0].mask, found.labels)[0] == 255).all()


def test_cvats_images_in_no_subset_and_in_two(tmp_path: Path) -> None:
    root = subsets(tmp_path / "data")
    lists = root / "ImageSets/Segmentation"
    (lists / "Train.txt").write_text("0\n")
    layout, _ = read_layout(request(root))
    assert [pair.name for pair in layout.pairs] == ["0", "1"]
    assert layout.notes[-1] == "1 pairs that no list names are left out"
    (lists / "Train.txt").write_text("0\n1\n")
    with pytest.raises(UserError, match="1: stands in the lists of train and test; remove it"):
        read_layout(request(root))
    (lists / "Train.txt").unlink()
    (lists / "Test.txt").unlink()
    assert splits(root) == {}
    assert len(read_layout(request(root))[0].pairs) == 3


def test_an_export_leaves_some_options_nothing_to_say(tmp_path: Path) -> None:
    root = subsets(tmp_path / "data")
    for option, more in (
        ("--masks x", {"kind": "cvat", "where": Where(masks="x")}),
        ("--mask-suffix .png", {"kind": "cvat", "where": Where(mask_suffix=".png")}),
        ("--image-suffix .jpg", {"kind": "cvat", "where": Where(image_suffix=".jpg")}),
        ("--classes a,b", {"classes": "a,b"}),
    ):
        with pytest.raises(UserError, match=f"{option}: an export of cvat says that itself"):
            read_layout(request(root, **more))
    where = Where(images="JPEGImages", masks="SegmentationClass")  # masks in place of the export
    layout, names = read_layout(request(root, where=where))
    assert layout.kind == "as the options say"
    assert names is not None
    assert names.colours["car"] == (0, 0, 142)


def test_a_file_and_a_link_to_a_folder_are_exports_too(tmp_path: Path) -> None:
    ring = [[1, 1, 5, 1, 5, 4, 1, 4]]
    file = coco(tmp_path / "far", [shape(i, i, 3, ring) for i in range(2)])
    for i in range(2):
        (tmp_path / f"far/photos/{i}.png").rename(tmp_path / f"far/{i}.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/data").symlink_to(tmp_path / "far", target_is_directory=True)
    for source in (file, tmp_path / "here/data"):
        assert samples(drafted(source)).keys() == {"0", "1"}


def test_what_takes_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = labelled(tmp_path / "data")
    read_folder(request(root))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "FEW_FILES", 3)
    read_folder(request(root))
    assert capsys.readouterr().err.splitlines() == [
        "turning an export of labelme into masks ...",
        "reading 8 files ...",
        "looking for similar frames among 4 images ...",
    ]
    monkeypatch.setattr(progress, "FEW_FILES", 99)
    monkeypatch.setattr(progress, "FEW_BYTES", 3000)
    files = sorted((root / "deep").glob("*.jpg"))
    assert not progress.take_long(files)
    files[0].write_bytes(bytes(3001))
    assert progress.take_long(files)
    read_folder(request(root, kind="labelme"), progress=False)
    assert capsys.readouterr().err == ""


def test_a_plan_is_80_columns_wide_and_breaks_no_option() -> None:
    note = "word " * 12 + "--unlabelled 255"
    classes = ", ".join(f"{i} class-{i}" for i in range(12))
    text = listing([("classes", f"12: {classes}", "why " * 30), ("note", note, "")])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("classes       12: 0 class-0, ")
    assert lines[1].startswith(" " * 14 + "class-5, 6 class-6")
    assert " ".join(text.split()).endswith(note)
    assert lines[-2].startswith("note          word")
    assert lines[-1].startswith(" " * 14 + "--unlabelled 255")
    assert all(line == line.rstrip() for line in lines)


def test_labelmes_damaged_files_are_counted(tmp_path: Path) -> None:
    root = labelled(tmp_path / "data")
    (root / "z.json").write_text(json.dumps({"shapes": 3}))
    (root / "torn.json").write_text('{"shapes": [')
    layout, _ = read_layout(request(root))
    assert [pair.name for pair in layout.pairs] == sorted(NAMES)[:3]
    assert [note.split(",")[0] for note in layout.notes[1:]] == [
        "2 rows are left out", "1 images without labels are left out",
    ]  # fmt: skip
