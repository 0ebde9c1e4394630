"""Exports as people make them: odd rows are read rightly, or left out by a sentence of ours."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nlseg.commands.import_ import main
from nlseg.config import load_config
from nlseg.registry import DATASETS
from tests.intake.test_import import BOX, coco, cvat, grid, label, labelme, marked, picture, shape

TRIANGLE = [[0, 0, 4, 0, 4, 4]]
DRAWN = "1111.... .111.... ..11.... ...1.... ........ ........"
CATEGORIES = [{"id": 90, "name": "tree"}, {"id": 3, "name": "car"}]


def read_coco(root: Path, rows: list[Any], *words: str, **more: Any) -> list[str]:
    """Import, and return what was left out, without file and line."""
    file = coco(root, rows, **more)
    images = ["--images", str(root / "photos")]
    code = main([str(file), str(root / "out"), *images, *words])
    listed = root / "out/unreadable.txt"
    left = listed.read_text().splitlines() if listed.is_file() else []
    assert code == (1 if left else 0)
    assert all(row.startswith(f"{file}:") for row in left)
    return [row.removeprefix(f"{file}:").partition(": ")[2] for row in left]


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ([[100, 100, 110, 100, 110, 110]], "covers the centre of no pixel of the image"),
        ([[1, 1, 1, 1, 1, 1]], "covers the centre of no pixel of the image"),
        ([[1, 1, 5, 1, 3, 1]], "covers the centre of no pixel of the image"),
        ({"size": [6, 8], "counts": [48]}, "covers the centre of no pixel of the image"),
        ([1, 1, 5, 1, 3, 4], "its segmentation is neither lists of numbers nor run lengths"),
        ("xx", "its segmentation is neither lists of numbers nor run lengths"),
        ([["a", 1, 2, 3, 4, 5]], "its corners are no numbers (x, y)"),
        ([[None] * 6], "a corner is not finite"),
        ([[1, 1, float("inf"), 1, 3, 4]], "a corner is not finite"),
        ([[]], "a polygon of 0 numbers; at least three x and y are needed"),
        ({"size": [8, 6], "counts": [48]}, "its mask is [8, 6], the image [6, 8] [height, width]"),
        ({"counts": [48]}, "its mask is None, the image [6, 8] [height, width]"),
        ({"size": [6, 8]}, "its run lengths are no whole numbers"),
        ({"size": [6, 8], "counts": [1.5, 46.5]}, "its run lengths are no whole numbers"),
        ({"size": [6, 8], "counts": [-1, 49]}, "run lengths do not add up to 6 x 8 px"),
        ({"size": [6, 8], "counts": "~~"}, "the text of the run lengths is damaged"),
    ],
)
def test_coco_annotations_that_cannot_be_drawn(
    segmentation: Any, told: str, tmp_path: Path
) -> None:
    rows = [shape(1, 0, 3, segmentation), shape(2, 0, 3, TRIANGLE)]
    assert read_coco(tmp_path, rows) == [f"annotation 1 of 0.png: {told}"]
    assert (label(tmp_path / "out", "0") == grid(DRAWN)).all()


def test_polygons_are_cut_at_the_borders_of_the_image(tmp_path: Path) -> None:
    rows = [shape(1, 0, 3, [[-5, -5, 20, -5, 20, 3, -5, 3]])]
    assert read_coco(tmp_path, rows) == []
    want = grid("11111111 11111111 11111111 ........ ........ ........")
    assert (label(tmp_path / "out", "0") == want).all()


def test_a_crowd_in_text_with_ids_that_have_gaps(tmp_path: Path) -> None:
    # text of [6, 6, 36]: 6 -> '6'; 36 = 4 + 32 * 1 -> 'T' with the bit for more, then '1'
    crowd = shape(1, 0, 90, {"size": [6, 8], "counts": "66T1"}, iscrowd=1)
    assert read_coco(tmp_path, [crowd, shape(2, 0, 3, TRIANGLE)], categories=CATEGORIES) == []
    want = grid("1111.... .111.... .211.... .2.1.... .2...... .2......")
    assert (label(tmp_path / "out", "0") == want).all()
    assert load_config(tmp_path / "out/config.py").metainfo.classes == ("background", "car", "tree")


def test_ids_may_be_numbers_and_texts_and_are_never_lists(tmp_path: Path) -> None:
    categories = [{"id": "b", "name": "z"}, {"id": 1, "name": "y"}, {"id": [2], "name": "x"}]
    rows = [shape(1, 0, "b", TRIANGLE), shape(2, 1, 1, TRIANGLE), shape(3, 0, [2], TRIANGLE)]
    rows += [{**shape(4, 0, 1, TRIANGLE), "image_id": [0]}]
    assert read_coco(tmp_path, rows, categories=categories) == [
        "a category needs an id and a name", "annotation of image [0], which is not there",
        "annotation 3 of 0.png: there is no category [2]",
    ]  # fmt: skip
    assert set(np.unique(label(tmp_path / "out", "0"))) == {0, 2}
    assert set(np.unique(label(tmp_path / "out", "1"))) == {0, 1}


def test_a_second_image_of_an_id_is_left_out(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": f"{i}.png", "height": 6, "width": 8} for i in range(2)]
    odd = [{"id": 9}, 5, {"id": 4, "file_name": "1.png", "height": "6", "width": 8}]
    left = read_coco(tmp_path, [shape(1, 7, 3, TRIANGLE)], images=[*images, *odd])
    assert left == [
        "a second image of the id 7", "an image needs an id", "an image needs a file_name",
        "height '6' and width 8 are no size in px",
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "out/labels").iterdir()] == ["0.png"]


def test_an_image_without_a_size_has_that_of_its_file(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "1.png"}, {"id": 8, "file_name": "torn.png"}]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/torn.png").write_bytes(b"torn")
    left = read_coco(tmp_path, [shape(1, 7, 3, TRIANGLE)], images=images)
    assert left == [f"{tmp_path / 'photos/torn.png'}: is no picture that can be read"]
    assert (label(tmp_path / "out", "1") == grid(DRAWN)).all()


def test_a_category_called_background_is_the_background(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "background"}, {"id": 3, "name": "car"}]
    rows = [shape(1, 0, 3, [[0, 0, 8, 0, 8, 6, 0, 6]]), shape(2, 0, 0, TRIANGLE)]
    assert read_coco(tmp_path, rows, categories=categories) == []
    assert load_config(tmp_path / "out/config.py").metainfo.classes == ("background", "car")
    assert ((label(tmp_path / "out", "0") == 0) == (grid(DRAWN) == 1)).all()
    other = tmp_path / "ignoring"
    assert read_coco(other, rows[1:], "--unlabelled", "255", categories=categories) == []
    want = np.where(grid(DRAWN) == 1, 0, 255)
    assert (label(other / "out", "0") == want).all()


@pytest.mark.parametrize(
    ("categories", "more", "told"),
    [
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], {}, "a second category is named 'a'"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], {}, "id 1 is both 'a' and 'b'"),
        ([{"id": 1, "name": "a"}], {"annotations": None}, "'annotations' is no list"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(
    categories: Any, more: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = coco(tmp_path, [], categories=categories)
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}, indent=1))
    with pytest.raises(SystemExit, match="2"):
        main([str(file), str(tmp_path / "out")])
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def png(array: np.ndarray) -> str:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_labelmes_circles_masks_and_turned_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.jpg")
    part = np.array([[1, 0, 1], [0, 1, 0]], bool)
    turned = marked("c", [[0, 0.2], [3, 0.2], [3, 3.2], [0, 3.2]], "oriented_rectangle")
    mask = {**marked("b", [[5, 3], [7, 4]], "mask"), "mask": png(part)}
    labelme(tmp_path / "in", "a", [turned, mask, marked("a", [[6, 1], [6, 2]], "circle")])
    for name, kind in (("x", "rotation"), ("y", "rectangle")):  # as X-AnyLabeling writes them
        picture(tmp_path / f"in/{name}.jpg")
        labelme(tmp_path / "in", name, [marked("c", turned["points"], kind)])
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    # the circle of radius 1 around (6, 1) holds the four centres next to it
    want = grid("333..11. 333..11. 333..... .....2.2 ......2. ........")
    assert (label(tmp_path / "out", "a") == want).all()
    for name in "xy":
        assert (label(tmp_path / "out", name)[:3, :3] == 3).all()


def test_labelmes_shapes_that_cannot_be_drawn(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.jpg")
    odd: list[Any] = [
        (marked("r", [[0, 0], [5, 5]], "line"), "a line has no area"),
        (marked("r", [[1, 1]], "circle"), "a circle has two points, given 1"),
        (marked("r", "xx"), "has no points"),
        (marked("r", [[1, 2], ["a", 3], [4, 5]]), "its corners are no numbers (x, y)"),
        (marked("r", [[1, "b"], [4, 5]], "circle"), "its corners are no numbers (x, y)"),
        (marked("r", [[1, 1, 1]] * 3), "a polygon needs three corners (x, y)"),
        (marked("r", [[1, 1]] * 3), "covers the centre of no pixel of the image"),
        ({**marked("r", [[0, 0], [1, 1]], "mask"), "mask": "aaa"},
         "its mask cannot be decoded: Incorrect padding"),
        ({**marked("r", [[0, 0], [1, 1]], "mask"), "mask": "aGVsbG8="}, "its mask is no picture"),
        ({**marked("r", [[0, 0]], "mask"), "mask": png(np.ones((2, 2), bool))},
         "a mask has the two corners of its box"),
        ({**marked("r", [[0, 0], [2, 1]], "mask"), "mask": png(np.ones((2, 2), bool))},
         "its mask is (2, 2), its box (2, 3) (height, width)"),
        ({**marked("r", [[7, 5], [8, 6]], "mask"), "mask": png(np.ones((2, 2), bool))},
         "its box lies outside of the image"),
        (marked(None, BOX), "is none of the classes"),  # type: ignore[arg-type]
        (7, "is no shape"),
    ]  # fmt: skip
    labelme(tmp_path / "in", "a", [*(one for one, _ in odd), marked("r", BOX)])
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    left = (tmp_path / "out/unreadable.txt").read_text().splitlines()
    assert [row.partition("': ")[2] or row.partition("None: ")[2] for row in left] == [
        why for _, why in odd
    ]
    lines = (tmp_path / "in/a.json").read_text().splitlines()
    assert [lines[int(row.split(":")[1]) - 1].strip(" ,") for row in left[:-1]] == ["{"] * 13
    want = grid("........ .111111. .111111. .111111. .111111. ........")
    assert (label(tmp_path / "out", "a") == want).all()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"imagePath": None}, "a.json:1: it names no image, and the file holds none"),
        ({"imageData": "!!"}, "a.json:1: its imageData cannot be decoded: "),
        ({"imageData": "aGVsbG8="}, "a.json:1: its image: is no picture that can be read"),
        ({"imageHeight": None}, "a.json:1: height None and width 8 are no size in px"),
    ],
)
def test_labelmes_files_without_their_image(
    more: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelme(tmp_path / "in", "a", [marked("r", BOX)], **more)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "in"), str(tmp_path / "out")])
    assert told in capsys.readouterr().err


def labels_of_cvat(root: Path, lines: str) -> Path:
    cvat(root)
    (root / "labelmap.txt").write_text(lines, encoding="utf-8")
    for name in ("3", "4"):
        (root / f"SegmentationClass/{name}.png").unlink()
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n2\n")
    return root


def test_cvats_names_with_blanks_and_colons(tmp_path: Path) -> None:
    lines = "\ufeff# label\nbackground:0,0,0::\nmy : road : 128, 64, 128::\n car:0,0,142:a,b:c\n"
    root = labels_of_cvat(tmp_path / "in", lines)
    assert main([str(root), str(tmp_path / "out")]) == 0
    classes = load_config(tmp_path / "out/config.py").metainfo.classes
    assert classes == ("background", "my : road", "car")
    want = grid("........ 11111111 12221111 11111111 11111111 ........")
    assert (label(tmp_path / "out", "0") == want).all()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("background:0,0,0::\nroad:128,64,128::\n",
         "0.png:1: 1 colours are not in the palette, (red, green, blue) (0, 0, 142) on 3 px\n"),
        ("road:128,64,128::\ncar:128,64,128::\n",
         "labelmap.txt:2: 'car' has the colour of 'road' once more"),
        ("road:1,2,3::\nroad:4,5,6::\n", "labelmap.txt:2: 'road' has the name once more"),
        ("road:1,2,300::\n", "names no label beside background"),
    ],
)  # fmt: skip
def test_cvats_label_maps_that_do_not_fit(
    lines: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = labels_of_cvat(tmp_path / "in", lines)
    with pytest.raises(SystemExit, match="2"):
        main([str(root), str(tmp_path / "out")])
    assert told in capsys.readouterr().err


def test_a_label_map_in_another_encoding_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = labels_of_cvat(tmp_path / "in", "")
    (root / "labelmap.txt").write_bytes("straße:1,2,3::\n".encode("latin-1"))
    with pytest.raises(SystemExit, match="2"):
        main([str(root), str(tmp_path / "out")])
    assert "labelmap.txt: is no text in UTF-8" in capsys.readouterr().err


def test_one_image_trains_and_validates_and_the_config_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.jpg")
    labelme(tmp_path / "in", "a", [marked("r", BOX)])
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert load_config(tmp_path / "out/config.py").data_check == "warn"
    picture(tmp_path / "in/b.jpg", 1)
    labelme(tmp_path / "in", "b", [marked("r", BOX)])
    assert main([str(tmp_path / "in"), str(tmp_path / "two")]) == 0
    assert "data_check" not in load_config(tmp_path / "two/config.py")


def test_labelmes_own_list_of_classes_names_two_that_are_none(tmp_path: Path) -> None:
    root = tmp_path / "in"
    picture(root / "a.jpg")
    labelme(root, "a", [marked("road", BOX), marked("__ignore__", [[0, 0], [1, 0], [1, 6]])])
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nroad\n")
    out = tmp_path / "out"
    assert main([str(root), str(out), "--classes", str(tmp_path / "labels.txt")]) == 0
    assert load_config(out / "config.py").metainfo.classes == ("background", "road")
    assert set(np.unique(label(out, "a"))) == {0, 1, 255}


def test_labelmes_images_in_a_folder_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    picture(tmp_path / "photos/a.jpg")
    labelme(root, "a", [marked("road", BOX)], imagePath="/home/me/a.jpg")
    with pytest.raises(SystemExit, match="2"):
        main([str(root), str(tmp_path / "out")])
    assert "(see --images)" in capsys.readouterr().err
    assert main([str(root), str(tmp_path / "out"), "--images", str(tmp_path / "photos")]) == 0
    assert (tmp_path / "out/images/a.jpg").is_file()


def test_cvats_subsets_in_its_own_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = cvat(tmp_path / "in")
    (root / "labelmap.txt").write_text("road:128,64,128::\ncar:0,0,142::\nedge:9,9,9::\n")
    picture(root / "JPEGImages/4.jpg", 4)
    lists = root / "ImageSets/Segmentation"
    (lists / "train.txt").rename(lists / "Train.txt")
    (lists / "val.txt").rename(lists / "Validation.txt")
    (lists / "Test.txt").write_text("4\n")
    (lists / "Train.txt").write_text("0\n2\n")
    out = tmp_path / "out"
    assert main([str(root), str(out)]) == 0
    told = capsys.readouterr().out
    assert "images: 2 for train, 1 for val, 1 for test" in told
    assert "1 images are in no list, such as 3" in told
    config = load_config(out / "config.py")
    found = {split: DATASETS.build({**config[f"{split}_dataloader"].dataset.to_dict()})
             for split in ("train", "val", "test")}  # fmt: skip
    names = {split: [Path(dataset.get_data_info(i)["img_path"]).stem for i in range(len(dataset))]
             for split, dataset in found.items()}  # fmt: skip
    assert names == {"train": ["0", "2"], "val": ["1"], "test": ["4"]}
    (lists / "Validation.txt").unlink()
    assert main([str(root), str(tmp_path / "two")]) == 0  # the test validates
    assert (tmp_path / "two/val.txt").read_text() == "4\n"
    assert not (tmp_path / "two/test.txt").exists()
