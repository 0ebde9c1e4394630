"""What lies in a folder: pairs, splits, and questions where two readings are possible."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlseg.errors import UserError
from nlseg.start.exports import read_layout
from nlseg.start.layout import Layout, Where, find_layout, pictures_below
from nlseg.start.lists import take_lists
from nlseg.start.planning import read_folder
from nlseg.start.readings import Unclear
from tests import tiny_data
from tests.start.folders import draw, request, two_folders, write

HERE = Where()


def files(layout: Layout, root: Path) -> list[tuple[str, str]]:
    return [
        (str(pair.image.relative_to(root)), str(pair.mask.relative_to(root)))
        for pair in layout.pairs
    ]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.jpg", "masks/{}.png"),
        ("photos/2024/may/{}_rgb.png", "labels/2024/may/{}_mask.png"),
        ("{}.png", "{}_mask.png"),
        ("{}.jpg", "{}.png"),
        ("img_{}.png", "mask_{}.png"),
        ("training/images/{}_training.tif", "training/1st_manual/{}_manual1.gif"),
        ("site_a/images/{}.png", "site_a/masks/{}.png"),
        ("data/x/{}.png", "data/y/{}.png"),  # told apart by their pixels
    ],
)
def test_pairs_are_found(image: str, mask: str, tmp_path: Path) -> None:
    wanted = []
    for i in range(11, 15):
        picture, label = draw(i)
        a, b = image.format(i), mask.format(i)
        write(tmp_path / a, picture)
        (tmp_path / b).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(tmp_path / b)
        wanted.append((a, b))
    assert files(find_layout(tmp_path, HERE), tmp_path) == wanted


@pytest.mark.parametrize("above", [True, False])
def test_splits_of_folders(above: bool, tmp_path: Path) -> None:
    for split, i in (("train", 1), ("valid", 2), ("testing", 3)):
        picture, label = draw(i)
        for folder, array in (("images", picture), ("masks", label)):
            place = f"{split}/{folder}" if above else f"{folder}/{split}"
            write(tmp_path / place / f"{i}.png", array)
    found = {split: [p.image.stem for p in pairs]
             for split, pairs in find_layout(tmp_path, HERE).splits().items()}  # fmt: skip
    assert found == {"train": ["1"], "val": ["2"], "test": ["3"]}


def test_lists_give_splits_and_leave_out_the_rest(tmp_path: Path) -> None:
    above, tmp_path = tmp_path, two_folders(tmp_path / "data/set", 5)
    (tmp_path / "train.txt").write_text("images/0.png masks/0.png\nimages/3.png masks/3.png\n")
    (tmp_path / "test.txt").write_text("1\n2.png\n")
    layout = find_layout(tmp_path, HERE)
    take_lists(tmp_path, layout)
    found = {s: [p.name for p in pairs] for s, pairs in layout.splits().items()}
    assert found == {"train": ["0", "3"], "test": ["1", "2"]}
    assert layout.notes == ["1 pairs that no list names are left out"]
    (tmp_path / "masks/classes.txt").write_text("sea\nsky\n")
    from_above, names = read_layout(request(above / "data"))
    assert from_above.splits().keys() == found.keys()
    assert names is not None
    assert names.listed == ["sea", "sky"]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train.txt").rename(tmp_path / "annotations/trainval.txt")
    layout = find_layout(tmp_path, HERE)
    take_lists(tmp_path, layout)
    assert {s: len(pairs) for s, pairs in layout.splits().items()} == {"train": 2, "test": 2}


def test_the_layout_of_voc(tmp_path: Path) -> None:
    root = tiny_data.pascal_voc(tmp_path / "VOCdevkit/VOC2012")
    shutil.copytree(root / "SegmentationClass", root / "SegmentationObject")
    found = read_folder(request(root), progress=False)
    assert {s: len(p) for s, p in found.layout.splits().items()} == {"train": 1, "val": 1}
    assert found.layout.voc
    assert found.labels.values[0] == 0  # in VOC's layout 0 is the background
    above = read_folder(request(tmp_path), progress=False)  # as the archive is unpacked
    assert above.layout == found.layout
    for file in root.glob("Segmentation*/*.png"):
        write(file, np.kron(draw(int(file.stem[-1]))[1], np.ones((4, 4), np.uint8))[:64, :96])
    binary = read_folder(request(tmp_path), progress=False)
    assert (binary.layout.voc, binary.labels.values) == (True, (0, 255))


def test_the_layout_of_cityscapes(tmp_path: Path) -> None:
    root = tiny_data.cityscapes(tmp_path)
    found = read_folder(request(root), progress=False)
    assert found.layout.cityscapes == "train ids"
    assert len(found.labels.classes) == 19
    assert {s: len(p) for s, p in found.layout.splits().items()} == {"train": 2, "val": 1}


def test_an_export_of_coco(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    for i in range(3):
        write(root / f"{i}.png", draw(i)[0])
    images = [{"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in range(3)]
    ring = [[2, 2, 20, 2, 20, 20, 2, 20]]
    annotations = [{"id": i, "image_id": i, "category_id": 4, "segmentation": ring}
                   for i in range(3)]  # fmt: skip
    values = {"images": images, "annotations": annotations,
              "categories": [{"id": 4, "name": "leaf"}]}  # fmt: skip
    (root / "instances.json").write_text(json.dumps(values))
    found = read_folder(request(root), progress=False)
    assert found.labels.classes == ("background", "leaf")
    assert len(found.layout.pairs) == 3
    two_folders(root)  # and now there are masks as well
    with pytest.raises(Unclear) as unclear:
        read_layout(request(root))
    assert [reading.options for reading in unclear.value.readings] == [
        ("--format", "coco"), ("--format", "masks"),
    ]  # fmt: skip
    layout, _ = read_layout(request(root, kind="masks"))
    assert len(layout.pairs) == 4


def test_two_folders_of_masks_are_a_question(tmp_path: Path) -> None:
    two_folders(tmp_path)
    for i in range(4):
        write(tmp_path / f"1st_manual/{i}.png", draw(i)[1])
    with pytest.raises(Unclear) as unclear:
        find_layout(tmp_path, HERE)
    options = {reading.options for reading in unclear.value.readings}
    assert options == {
        ("--images", "images", "--masks", "masks"), ("--images", "images", "--masks", "1st_manual"),
    }  # fmt: skip
    for one in options:
        layout = find_layout(tmp_path, Where(images=one[1], masks=one[3]))
        assert {pair.mask.parent.name for pair in layout.pairs} == {one[3]}


def test_names_against_pixels_are_a_question(tmp_path: Path) -> None:
    for i in range(3):
        picture, label = draw(i)
        write(tmp_path / f"images/{i}.png", label)
        write(tmp_path / f"masks/{i}.png", picture)
    with pytest.raises(Unclear) as unclear:
        find_layout(tmp_path, HERE)
    assert len(unclear.value.readings) == 2
    layout = find_layout(tmp_path, Where(images="masks", masks="images"))
    assert layout.pairs[0].image.parent.name == "masks"


def test_equal_kinds_without_telling_names_are_a_question(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"a/{i}.png", draw(i)[0])
        write(tmp_path / f"b/{i}.png", draw(i + 5)[0])
    with pytest.raises(Unclear, match="both a and b hold pictures"):
        find_layout(tmp_path, HERE)


def test_a_suffix_alone_is_not_passed_over(tmp_path: Path) -> None:
    two_folders(tmp_path)
    with pytest.raises(UserError, match="both image and mask"):
        find_layout(tmp_path, Where(image_suffix=".png"))
    both = Where(image_suffix=".png", mask_suffix="0.png")  # 1.png is in images and in masks
    with pytest.raises(UserError, match="no image and mask have the same name"):
        find_layout(tmp_path, both)
    write(tmp_path / "images/1.jpg", draw(8)[0])
    with pytest.raises(UserError, match=r"images/1.png: .*images/1.jpg has the same name"):
        find_layout(tmp_path, Where(images="images", masks="masks"))


def test_what_has_no_partner_is_left_out_and_told(tmp_path: Path) -> None:
    two_folders(tmp_path)
    write(tmp_path / "images/9.png", np.zeros((4, 4, 3), np.uint8))
    for made in ("work_dirs/my_data/val/0.png", "my_data_files/import/images/0.png"):
        write(tmp_path / made, np.zeros((4, 4, 3), np.uint8))
    layout = find_layout(tmp_path, HERE, tmp_path / "my_data_files")
    assert len(layout.pairs) == 4
    assert "1 images without a mask are left out" in layout.notes[0]
    assert len(pictures_below(tmp_path, tmp_path / "my_data_files")) == 9
    assert "images/9.png" in layout.notes[0]
