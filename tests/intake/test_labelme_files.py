"""LabelMe's files: which of a folder's JSON files they are, and the images inside of them."""

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlseg.commands.import_ import main
from nlseg.intake.shapes import circle, polygon_mask
from tests.intake.test_import import BOX, grid, label, labelme, marked, picture


def encoded(array: np.ndarray, kind: str) -> str:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def test_other_json_files_beside_labelmes_are_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "in"
    picture(root / "a.jpg")
    labelme(root, "a", [marked("road", BOX)])
    for name, content in (("list", [1]), ("settings", {"zoom": 2}), ("text", "shapes")):
        (root / f"{name}.json").write_text(json.dumps(content))
    assert main([str(root), str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out/unreadable.txt").exists()


def test_labels_that_a_given_list_lacks_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "in"
    picture(root / "a.jpg")
    labelme(root, "a", [marked("road", BOX), marked("car", [[2, 2], [4, 4]], "rectangle")])
    (tmp_path / "names.txt").write_text("road\n")
    words = [str(root), str(tmp_path / "out"), "--classes", str(tmp_path / "names.txt")]
    assert main(words) == 1
    (told,) = (tmp_path / "out/unreadable.txt").read_text().splitlines()
    assert told.endswith("shape 'car': is none of the classes")
    want = grid("........ .111111. .111111. .111111. .111111. ........")
    assert (label(tmp_path / "out", "a") == want).all()


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg")])
def test_images_inside_of_the_files_get_the_suffix_of_their_format(
    kind: str, suffix: str, tmp_path: Path
) -> None:
    root = tmp_path / "in"
    inside = encoded(np.zeros((6, 8, 3), np.uint8), kind)
    for name in ("a", "b"):
        labelme(root, name, [marked("road", BOX)], imagePath="gone.tif", imageData=inside)
    assert main([str(root), str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out/images").iterdir()) == [
        f"a{suffix}",
        f"b{suffix}",
    ]


def test_a_circle_is_round() -> None:
    disc = polygon_mask(circle([(12, 12), (18, 20)]), (24, 24))  # radius 10
    across = np.arange(24) - 11.5
    far = np.hypot(across[:, None], across[None])
    assert disc[far < 9.9].all()
    assert not disc[far > 10].any()


@pytest.mark.parametrize(
    ("corner", "fits"),
    [((5, 3), True), ((6, 3), True), ((7, 3), False), ((6, 4), False), ((-1, 0), False),
     ((0, -1), False)],
)  # fmt: skip
def test_a_painted_box_lies_inside_of_the_image(
    corner: tuple[int, int], fits: bool, tmp_path: Path
) -> None:
    root = tmp_path / "in"
    picture(root / "a.png")
    left, top = corner
    painted = marked("road", [[left, top], [left + 1, top + 2]], "mask")
    painted["mask"] = encoded(np.full((3, 2), 255, np.uint8), "PNG")
    labelme(root, "a", [marked("car", BOX), painted], imagePath="a.png")
    assert main([str(root), str(tmp_path / "out")]) == (0 if fits else 1)
    want = grid("........ .111111. .111111. .111111. .111111. ........")
    if fits:
        want[top : top + 3, left : left + 2] = 2
    else:
        (told,) = (tmp_path / "out/unreadable.txt").read_text().splitlines()
        assert told.endswith("shape 'road': its box lies outside of the image")
    assert (label(tmp_path / "out", "a") == want).all()
