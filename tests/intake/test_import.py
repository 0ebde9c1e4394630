"""``nlseg import``: small hand-made exports, and the masks that they stand for, pixel by pixel."""

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
from nlseg.doctor.examination import examine
from nlseg.intake.rows import rows_of
from nlseg.intake.shapes import circle, polygon_mask, run_length_mask, run_lengths

SIZE = (6, 8)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.RandomState(seed).randint(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(array).save(path)


def grid(text: str) -> np.ndarray:
    """Read a label map: one digit a pixel, a dot for 0, x for 255."""
    values = {".": 0, "x": 255}
    return np.array([[values.get(c, 0) if c in values else int(c) for c in row]
                     for row in text.split()])  # fmt: skip


def label(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / f"labels/{name}.png") as image:
        assert image.mode == "P"
        return np.asarray(image)


def coco(root: Path, annotations: list[Any], **more: Any) -> Path:
    for i in range(2):
        picture(root / f"photos/{i}.png", i)
    images = [{"id": i, "file_name": f"{i}.png", "height": 6, "width": 8} for i in range(2)]
    categories = [{"id": 7, "name": "tree"}, {"id": 3, "name": "car"}]
    file = root / "instances.json"
    values = {"images": images, "annotations": annotations, "categories": categories, **more}
    file.write_text(json.dumps(values, indent=1))
    return file


def shape(number: int, image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation,
            **more}  # fmt: skip


ANNOTATIONS = [
    shape(1, 0, 3, [[1, 1, 5, 1, 5, 4, 1, 4]]),
    shape(2, 0, 7, [[0, 0, 8, 0, 8, 6, 0, 6]]),  # larger, so below, though it comes later
    shape(3, 1, 7, {"size": [6, 8], "counts": [6, 6, 36]}, iscrowd=1),
    shape(4, 1, 3, [[2.4, 0, 4.6, 0, 4.6, 2, 2.4, 2], [6, 4, 8, 4, 8, 6, 6, 6]]),
]


def test_coco_polygons_run_lengths_and_overlaps(tmp_path: Path) -> None:
    file = coco(tmp_path, ANNOTATIONS)
    out = tmp_path / "out"
    assert main([str(file), str(out), "--images", str(tmp_path / "photos")]) == 0
    # classes by id: car 3 -> 1, tree 7 -> 2, background 0
    want = grid("22222222 21111222 21111222 21111222 22222222 22222222")
    assert (label(out, "0") == want).all()
    # the crowd is column 1; 2.4..4.6 holds the centres 2.5, 3.5 and 4.5
    want = grid(".2111... .2111... .2...... .2...... .2....11 .2....11")
    assert (label(out, "1") == want).all()
    config = load_config(out / "config.py")
    assert config.metainfo.classes == ("background", "car", "tree")
    assert config.model.decode_head.num_classes == 3
    assert [f for f in examine(config, num_processes=1, progress=False).findings
            if f.severity == "error"] == []  # fmt: skip


def test_unlabelled_pixels_may_be_ignored(tmp_path: Path) -> None:
    file = coco(tmp_path, ANNOTATIONS[2:])
    out = tmp_path / "out"
    assert main([str(file), str(out), "--images", str(tmp_path / "photos"),
                 "--unlabelled", "255"]) == 0  # fmt: skip
    assert (label(out, "0") == 255).all()
    assert (label(out, "1")[:2] == grid("x1000xxx x1000xxx")).all()
    assert load_config(out / "config.py").metainfo.classes == ("car", "tree")


def test_rows_that_cannot_be_read_are_listed_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [
        shape(10, 0, 9, [[0, 0, 2, 0, 2, 2]]),
        shape(11, 0, 3, [[0, 0, 2, 0]]),
        shape(12, 5, 3, [[0, 0, 2, 0, 2, 2]]),
        shape(13, 0, 3, {"size": [6, 8], "counts": [3, 3]}),
        shape(14, 0, 3, []),
        ANNOTATIONS[0],
    ]
    file = coco(tmp_path, bad)
    out = tmp_path / "out"
    assert main([str(file), str(out), "--images", str(tmp_path / "photos")]) == 1
    listed = (out / "unreadable.txt").read_text().splitlines()
    lines = file.read_text().splitlines()
    expected = {10: "no category 9", 11: "polygon of 4 numbers", 14: "no segmentation",
                13: "do not add up to 6 x 8 px"}  # fmt: skip
    for number, why in expected.items():
        (row,) = (row for row in listed if f"annotation {number} " in row)
        assert why in row
        line = int(row.split(":")[1])
        assert f'"id": {number}' in "".join(lines[line - 1 : line + 2])
    (row,) = (row for row in listed if "image 5" in row)
    assert row.startswith(f"{file}:")
    assert f"left out: {listed[0]}" in capsys.readouterr().out
    assert (label(out, "0") == grid("........ .1111... .1111... .1111... ........ ........")).all()


def test_run_lengths_as_text_are_those_of_the_numbers() -> None:
    # by the rule: 6 -> '6'; 1 -> '1'; from the fourth number on the difference to two before
    assert run_lengths("66") == [6, 6]
    assert run_lengths("3210") == [3, 2, 1, 2]
    # 100 = 4 + 3 * 32: first group 4 with the bit for more, then 3
    assert run_lengths(chr(48 + 4 + 32) + chr(48 + 3)) == [100]
    # -1 as a difference: five bits 31, of which bit 16 is the sign
    assert run_lengths("555" + chr(48 + 31)) == [5, 5, 5, 4]
    mask = run_length_mask([6, 6, 1, 4, 31], SIZE)
    assert mask[:, 1].all()
    assert mask[:, 2].tolist() == [False, True, True, True, True, False]
    assert run_length_mask([0, 6, 42], SIZE)[:, 0].all()  # a mask that begins with its object
    for damaged in ("5\x20", chr(48 + 33)):
        with pytest.raises(ValueError, match="damaged"):
            run_lengths(damaged)


def test_holes_stay() -> None:
    # a ring that goes round the outside, in, round the hole and out again by the same way
    ring = [(0, 0), (5, 0), (5, 5), (0, 5), (0, 0), (1, 1), (1, 4), (4, 4), (4, 1), (1, 1)]
    want = grid("11111 1...1 1...1 1...1 11111") == 1
    assert (polygon_mask(ring, (5, 5)) == want).all()
    mask = run_length_mask([5 + 1, 3, 2, 1, 1, 1, 2, 3, 6], (5, 5))
    assert (mask == (grid("..... .111. .1.1. .111. .....") == 1)).all()


def test_a_polygon_by_the_slow_rule() -> None:
    rng = np.random.RandomState(0)
    ring = [(x, y) for x, y in rng.uniform(-2, 12, (7, 2))]
    want = np.zeros((9, 10), bool)
    for row in range(9):
        for column in range(10):
            x, y, inside = column + 0.5, row + 0.5, False
            for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
                if (y0 <= y) != (y1 <= y) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                    inside = not inside
            want[row, column] = inside
    assert (polygon_mask(ring, (9, 10)) == want).all()
    assert 0 < want.sum() < 90
    disc = polygon_mask(circle([(5, 5), (5, 9)]), (10, 10))
    assert abs(int(disc.sum()) - np.pi * 16) < 4


def labelme(root: Path, name: str, shapes: list[Any], **more: Any) -> None:
    values = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg",
              "imageData": None, "imageHeight": 6, "imageWidth": 8, **more}  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{name}.json").write_text(json.dumps(values, indent=2))


def marked(label: str, points: Any, kind: str = "polygon") -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


BOX = [[1, 1], [7, 1], [7, 5], [1, 5]]


def test_labelme_draws_later_shapes_over_earlier_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    for i in range(3):
        picture(root / f"a{i}.jpg", i)
    labelme(root, "a0", [marked("road", BOX), marked("car", [[2, 2], [4, 4]], "rectangle"),
                         marked("_background_", [[5, 2], [6, 2], [6, 4], [5, 4]]),
                         marked("__ignore__", [[0, 0], [1, 0], [1, 6], [0, 6]])])  # fmt: skip
    labelme(root, "a1", [marked("car", BOX), marked("corner", [[1, 1]], "point"),
                         marked("road", [[1, 1], [2, 2]])])  # fmt: skip
    buffer = BytesIO()
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(buffer, "PNG")
    labelme(root, "a2", [marked("road", BOX)])
    inside = base64.b64encode(buffer.getvalue()).decode()
    labelme(root / "deep", "b", [marked("road", BOX)], imagePath="gone.jpg", imageData=inside)
    labelme(root, "c", [marked("road", BOX)], imagePath="gone.jpg")
    (root / "torn.json").write_text('{"shapes": [')
    out = tmp_path / "out"
    assert main([str(root), str(out)]) == 1
    want = grid("x....... x222222. x211202. x211202. x222222. x.......")
    assert (label(out, "a0") == want).all()
    assert (label(out, "a1") == grid("........ .111111. .111111. .111111. .111111. ........")).all()
    assert sorted(p.name for p in (out / "images").rglob("*.*")) == [
        "a0.png", "a1.png", "a2.png", "b.png",
    ]  # fmt: skip
    listed = (out / "unreadable.txt").read_text()
    assert "a1.json:" in listed
    assert "shape 'corner': a point has no area" in listed
    assert "shape 'road': a polygon needs three corners" in listed
    assert "c.json:1: its image" in listed
    assert "torn.json:1: Expecting value" in listed
    assert "3 classes: background, car, road" in capsys.readouterr().out


def test_the_order_of_labelmes_classes_may_be_given(tmp_path: Path) -> None:
    root = tmp_path / "in"
    picture(root / "a.jpg")
    labelme(root, "a", [marked("road", BOX)])
    (tmp_path / "names.txt").write_text("road\ncar\n")
    out = tmp_path / "out"
    names = ["--classes", str(tmp_path / "names.txt")]
    assert main([str(root), str(out), *names, "--unlabelled", "255"]) == 0
    assert load_config(out / "config.py").metainfo.classes == ("road", "car")
    assert set(np.unique(label(out, "a"))) == {0, 255}


def cvat(root: Path) -> Path:
    (root / "SegmentationClass").mkdir(parents=True)
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
        "road:128,64,128::\ncar:0,0,142::\nbad\n"
    )
    for i in range(3):
        painted = np.zeros((*SIZE, 3), np.uint8)
        painted[1:5] = (128, 64, 128)
        painted[2:3, 1:4] = (0, 0, 142)
        Image.fromarray(painted).save(root / f"SegmentationClass/{i}.png")
        picture(root / f"JPEGImages/{i}.jpg", i)
    painted[0, 0] = (9, 9, 9)
    Image.fromarray(painted).save(root / "SegmentationClass/3.png")
    picture(root / "JPEGImages/3.jpg")
    Image.fromarray(painted).save(root / "SegmentationClass/4.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n2\n3\n")
    (lists / "val.txt").write_text("1\n")
    return root


def test_cvats_masks_with_their_labels_colours_and_splits(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([str(cvat(tmp_path / "in")), str(out)]) == 1
    want = grid("........ 11111111 12221111 11111111 11111111 ........")
    assert (label(out, "0") == want).all()
    config = load_config(out / "config.py")
    assert config.metainfo.classes == ("background", "road", "car")
    assert config.metainfo.palette == [[0, 0, 0], [128, 64, 128], [0, 0, 142]]
    assert (out / "train.txt").read_text() == "0\n2\n"
    assert (out / "val.txt").read_text() == "1\n"
    listed = (out / "unreadable.txt").read_text()
    assert "labelmap.txt:5: 'bad' is no label with a colour" in listed
    assert "3.png:1: 1 colours are not in the palette, (red, green, blue) (9, 9, 9)" in listed
    assert "4.png:1: its image 4.* is in none of" in listed


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: root.mkdir(), "no export of COCO"),
        (lambda root: root.write_text("x"), "neither a folder nor a COCO .json file"),
        (lambda root: [coco(root.parent, []).rename(root.parent / "a.json"), root.mkdir(),
                       (root / "a.json").write_text((root.parent / "a.json").read_text()),
                       (root / "b.json").write_text((root.parent / "a.json").read_text())],
         "holds 2 COCO files; name one"),
        (lambda root: [root.mkdir(), (root / "a.json").write_text(json.dumps(
            {"images": [], "annotations": [], "categories": []}))], "names no categories"),
    ],
)  # fmt: skip
def test_what_is_no_export_is_one_sentence(
    make: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "in")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "in"), str(tmp_path / "out")])
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = coco(tmp_path, ANNOTATIONS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        main([str(file), str(tmp_path / "out")])
    assert "is not empty" in capsys.readouterr().err


def test_lines_of_rows_in_one_line_and_with_the_key_inside_a_value() -> None:
    text = '{"info": "\\"rows\\": [1]", "more": {"rows": [5]}, "rows": [\n1,\n {"a":\n 2},\n"x"]}'
    rows = rows_of(json.loads(text), text, "rows")
    assert [(row.line, row.value) for row in rows] == [(2, 1), (3, {"a": 2}), (5, "x")]
    assert [row.line for row in rows_of({"rows": [1, 2]}, '{"rows": [1, 2]}', "rows")] == [1, 1]
    text = '{"kind": "rows", "more": [1, 2], "rows":\n [1,\n 2]}'  # the key as a value, equal rows
    assert [row.line for row in rows_of(json.loads(text), text, "rows")] == [2, 3]
