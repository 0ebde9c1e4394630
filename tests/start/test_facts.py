"""What is counted and measured of images and masks, against numbers worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nlseg.doctor.survey import survey
from nlseg.errors import DataError
from nlseg.start.facts import DataFacts, measure_data
from nlseg.start.labels import Labels
from nlseg.start.layout import Pair
from tests.start.folders import write

TWO = Labels(("ground", "thing"), (0, 1), (255,))


def stripes(height: int, width: int, low: int, high: int) -> np.ndarray:
    """Return an image whose columns are low and high in turn, alike in all channels."""
    row = np.where(np.arange(width) % 2, high, low).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def pair(root: Path, name: str, image: np.ndarray, mask: np.ndarray) -> Pair:
    return Pair(name, write(root / f"{name}.png", image), write(root / f"{name}_m.png", mask))


def measured(train: list[Pair], test: list[Pair], labels: Labels = TWO) -> DataFacts:
    files = [("image", str(p.image)) for p in (*train, *test)]
    files += [("label", str(p.mask)) for p in (*train, *test)]
    facts = survey(files, num_processes=1, cache_file=None, progress=False)
    return measure_data(train, test, labels, facts)


def test_pixels_are_counted_over_the_training_alone(tmp_path: Path) -> None:
    small, large = np.zeros((10, 10), np.uint8), np.zeros((10, 30), np.uint8)
    small[:3], small[9] = 1, 255
    large[:, :6] = 1
    a = pair(tmp_path, "a", stripes(10, 10, 0, 6), small)
    b = pair(tmp_path, "b", stripes(10, 30, 95, 105), large)
    other = pair(tmp_path, "c", stripes(20, 10, 0, 255), np.ones((20, 10), np.uint8))
    found = measured([a, b], [other])
    assert (found.num_train, found.num_test) == (2, 1)
    assert found.shares == pytest.approx((300 / 390, 90 / 390))  # of 400 pixels 10 do not count
    # 100 pixels of mean 3 and std 3, 300 of mean 100 and std 5:
    # mean 75.75; of the squares 0.25 * 18 + 0.75 * 10025 = 7523.25; 7523.25 - 75.75^2 = 42.25^2
    assert found.mean == (75.75,) * 3
    assert found.std == (42.25,) * 3
    assert sorted(found.sizes) == [((10, 10), 1), ((10, 30), 1), ((20, 10), 1)]
    assert found.size == (10, 10)  # heights 10, 10, 20, widths 10, 10, 30
    assert (found.channels, found.deep, found.most) == (3, False, 255)


def test_channels_are_in_the_order_of_rgb(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:] = (10, 20, 30)  # BGR
    one = pair(tmp_path, "a", image, np.eye(4, dtype=np.uint8))
    assert measured([one], []).mean == (30.0, 20.0, 10.0)
    deep = pair(tmp_path, "b", image.astype(np.uint16) * 100, np.eye(4, dtype=np.uint8))
    found = measured([deep], [])
    assert found.mean == (3000.0, 2000.0, 1000.0)
    assert found.std == (1.0, 1.0, 1.0)  # of one colour; nothing is divided by 0
    assert (found.channels, found.deep, found.most) == (3, True, 3000)


def test_levels_of_grey_images_of_16_bits(tmp_path: Path) -> None:
    mask = np.eye(4, dtype=np.uint8)
    images = [np.full((4, 4), level, np.uint16) for level in (1000, 3000)]
    found = measured([pair(tmp_path, str(i), image, mask) for i, image in enumerate(images)], [])
    assert (found.mean, found.std, found.channels, found.most) == ((2000.0,), (1000.0,), 1, 3000)
    grey, colour = (pair(tmp_path, name, array, mask) for name, array in (
        ("grey", images[0]), ("colour", np.ones((4, 4, 3), np.uint16))))  # fmt: skip
    with pytest.raises(DataError, match="some images are grey and some have colours"):
        measured([grey, colour], [])
    four = pair(tmp_path, "four", np.ones((4, 4, 4), np.uint16), mask)
    with pytest.raises(DataError, match=r"four\.png: has 4 channels of 16 bits"):
        measured([four], [])


def test_the_width_of_a_class_is_that_of_its_larger_parts(tmp_path: Path) -> None:
    mask = np.zeros((400, 60), np.uint8)
    mask[:, 20:28] = 1
    mask[:, 40:] = 255
    image = np.zeros((400, 60, 3), np.uint8)
    found = measured([pair(tmp_path, "a", image, mask)], []).widths
    # strips of 12, 20 and 8; OpenCV's distances are 0.955 of a step, ends are borders too
    assert found[1] == pytest.approx(8, rel=0.08)
    assert 12 < found[0] < 20
    other = Labels(TWO.classes, (0, 7), TWO.ignored)
    sevens = np.where(mask == 1, 7, mask)
    assert measured([pair(tmp_path, "s", image, sevens)], [], other).widths == found
    mask[:] = 0
    mask[:, :4] = 255
    assert measured([pair(tmp_path, "b", image, mask)], []).widths[1] == 0
    # one square of 32 px has the pixels of 64 squares of 4 px: the width is between both
    mask = np.zeros((128, 128), np.uint8)
    mask[4:36, 4:36] = 1
    alone = measured([pair(tmp_path, "c", np.zeros((128, 128, 3), np.uint8), mask)], []).widths[1]
    for y in range(64, 128, 8):
        for x in range(0, 64, 8):
            mask[y : y + 4, x : x + 4] = 1
    both = measured([pair(tmp_path, "d", np.zeros((128, 128, 3), np.uint8), mask)], []).widths[1]
    assert 0.5 * alone < both < 0.7 * alone


def test_a_photo_that_is_turned_has_the_size_that_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    turned = Pair("a", tmp_path / "a.jpg", write(tmp_path / "m.png", np.ones((8, 6), np.uint8)))
    assert measured([turned], []).sizes == (((8, 6), 1),)


def test_painted_masks_are_measured_by_their_colours(tmp_path: Path) -> None:
    mask = np.zeros((400, 60, 3), np.uint8)
    mask[:, 20:28] = (0, 0, 200)  # BGR
    mask[:, 40:] = (0, 200, 0)
    labels = Labels(("ground", "thing"), ((0, 0, 0), (200, 0, 0)), ((0, 200, 0),))
    found = measured([pair(tmp_path, "a", np.zeros((400, 60, 3), np.uint8), mask)], [], labels)
    assert found.shares == pytest.approx((32 / 40, 8 / 40))
    assert found.widths[1] == pytest.approx(8, rel=0.08)


def test_a_sample_is_spread_over_all_masks(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    nothing, thing = np.zeros((8, 8), np.uint8), np.ones((8, 8), np.uint8)
    shown: list[Any] = [pair(tmp_path, "n", image, nothing), pair(tmp_path, "t", image, thing)]
    # of 72 masks each third one is looked at: the one at 69 is, the one at 70 is not
    for place, seen in ((69, True), (70, False), (0, True)):
        train = [shown[i == place] for i in range(72)]
        assert (measured(train, []).widths[1] > 0) == seen
