"""One label map as files: indexed mask, polygons, run lengths, painted pictures."""

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nlseg.predict.outputs import Writer, polygons, run_lengths, write_summary
from nlseg.visualization.painter import Painter
from tests.cases import each_case

CLASSES = ("background", "road", "car")
PALETTE = [[0, 0, 0], [200, 0, 0], [0, 200, 0]]


def inside(ring: list[list[float]], x: float, y: float) -> bool:
    """Cast a ray to the right; a slow rule of even and odd."""
    crossings = 0
    for (x0, y0), (x1, y1) in pairwise(ring):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            crossings += 1
    return crossings % 2 == 1


@each_case("seed", range(12))
def test_polygons_hold_exactly_the_pixels_of_the_mask(seed: int) -> None:
    rng = np.random.RandomState(seed)
    mask = rng.rand(rng.randint(1, 12), rng.randint(1, 12)) < rng.choice([0.3, 0.5, 0.8])
    drawn = np.zeros(mask.shape, int)
    for rings in polygons(mask):
        for y, x in np.ndindex(mask.shape):
            drawn[y, x] += sum(inside(ring, x + 0.5, y + 0.5) for ring in rings) % 2
    assert (drawn == mask).all()


def test_polygons_by_hand() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    outer = [[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]]
    (rings,) = polygons(ring)
    assert rings[0] == outer
    assert sorted(rings[1][:-1]) == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert len(list(polygons(np.eye(3, dtype=bool)))) == 3  # touching in a corner is apart


def test_run_lengths_by_hand() -> None:
    mask = np.array([[1, 0], [1, 1]], bool)
    assert run_lengths(mask) == [0, 2, 1, 1]  # columns: 1 1 0 1
    assert run_lengths(~mask) == [2, 1, 1]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]


def label_map() -> NDArray[np.int64]:
    label = np.zeros((20, 30), np.int64)
    label[5:15, 4:12] = 1
    label[2:8, 20:28] = 2
    return label


def test_files_of_one_image(tmp_path: Path) -> None:
    writer = Writer(
        tmp_path, ("overlay", "mask", "beside", "geojson", "coco", "probabilities"),
        Painter(CLASSES, PALETTE),
    )  # fmt: skip
    image = np.full((20, 30, 3), 120, np.uint8)
    probabilities = np.full((3, 20, 30), 1 / 3, np.float32)
    record = writer.write(Path("sub/a"), image, label_map(), probabilities)
    assert record["shares"] == {"background": 472 / 600, "road": 80 / 600, "car": 48 / 600}
    with Image.open(tmp_path / "masks/sub/a.png") as mask:
        assert mask.mode == "P"
        assert (np.asarray(mask) == label_map()).all()
        assert np.asarray(mask.convert("RGB"))[10, 5].tolist() == PALETTE[1]
    assert cv2.imread(str(tmp_path / "overlays/sub/a.jpg")).shape[1] == 30
    assert cv2.imread(str(tmp_path / "side_by_side/sub/a.jpg")).shape[1] == 68
    features = json.loads((tmp_path / "polygons/sub/a.geojson").read_text())["features"]
    assert [feature["properties"]["class"] for feature in features] == ["road", "car"]
    assert [item["bbox"] for item in record["coco"]] == [[4, 5, 8, 10], [20, 2, 8, 6]]
    with np.load(tmp_path / "probabilities/sub/a.npz") as kept:
        assert kept["probabilities"].dtype == np.float16
        assert kept["classes"].tolist() == list(CLASSES)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and "tmp" in p.suffix) == []


def test_summary_has_a_row_for_each_file(tmp_path: Path) -> None:
    records = [
        {"source": "a.png", "size": [2, 2], "shares": {"road": 0.25, "background": 0.75}},
        {"source": "b.png", "error": "b.png: is broken"},
    ]
    counts = write_summary(tmp_path / "summary.csv", records, CLASSES)
    assert counts == {"labelled": 1, "failed": 1}
    assert (tmp_path / "summary.csv").read_text().splitlines() == [
        "file,height,width,background,road,car,error",
        "a.png,2,2,0.750000,0.250000,0.000000,",
        "b.png,,,,,,b.png: is broken",
    ]


def test_background_and_ignored_pixels_keep_the_image() -> None:
    painter = Painter(CLASSES, PALETTE, alpha=0.5)
    image = np.full((40, 40, 3), 100, np.uint8)
    label = np.zeros((40, 40), int)
    label[:, 20:] = 1
    label[30:] = 255
    picture = painter.draw(image, label, captions=False)
    assert picture[5, 5].tolist() == [100, 100, 100]
    assert picture[5, 30].tolist() == [150, 50, 50]  # (100 + 200) / 2, (100 + 0) / 2
    ignored = picture[31:]
    assert (ignored == 100).all(2).mean() > 0.8
    assert (ignored == 150).all(2).any()  # the hatch
    assert picture[5, 20].tolist() == [100, 0, 0]  # the contour: half of the class's colour
    assert painter.shares(label) == {"background": 0.5, "road": 0.5}
