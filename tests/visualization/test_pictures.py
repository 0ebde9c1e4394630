import cv2
import numpy as np
import pytest

from nlseg.errors import ConfigError
from nlseg.visualization.pictures import (
    as_palette,
    legend,
    make_palette,
    overlay,
    paint,
    side_by_side,
    text_colour,
    text_size,
    write_class_names,
    write_text,
)

RED_GREEN = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)


def test_paint_by_hand():
    label = np.array([[0, 1], [255, -1]])
    painted = paint(label, RED_GREEN, other=(9, 9, 9))
    assert painted.tolist() == [[[255, 0, 0], [0, 255, 0]], [[9, 9, 9], [9, 9, 9]]]


def test_overlay_by_hand():
    image = np.full((1, 2, 3), 100, np.uint8)
    # 100 * 0.2 + 255 * 0.8 = 224; ignored pixels keep a fifth of the image
    assert overlay(image, np.array([[0, 255]]), RED_GREEN, 0.8).tolist() == [
        [[224, 20, 20], [20, 20, 20]]
    ]


def test_overlay_refuses_another_size():
    with pytest.raises(ValueError, match=r"image is \(4, 4\), the label map \(2, 2\)"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2), int), RED_GREEN)


def test_name_is_written_on_the_largest_region():
    label = np.zeros((200, 300), np.uint8)
    label[5:15, 5:15] = 1  # small region of class 1
    label[100:190, 150:290] = 1  # its large one
    image = np.zeros((200, 300, 3), np.uint8)
    write_class_names(image, label, ["a", "bb"], RED_GREEN)
    changed = (image == RED_GREEN[1]).all(2)
    rows, columns = np.nonzero(changed)
    assert changed.any()
    assert set(rows) <= set(range(100, 190))
    assert set(columns) <= set(range(150, 290))


def test_ignored_pixels_get_no_name():
    image = np.zeros((50, 50, 3), np.uint8)
    write_class_names(image, np.full((50, 50), 255, np.uint8), ["a", "b"], RED_GREEN)
    assert not image.any()


def test_text_stays_inside_and_changes_only_its_box():
    image = np.full((40, 100, 3), 255, np.uint8)
    write_text(image, "abc", (1000, -50), size=12, colour=(0, 0, 0))
    height, width = text_size("abc", 12)
    assert (image[40 - height :, :width] < 128).any()
    image[40 - height :, :width] = 255
    assert (image == 255).all()


def test_legend_shows_every_colour_once():
    palette = make_palette(30)
    picture = legend([f"class {i}" for i in range(30)], palette, width=300)
    assert picture.shape[1] == 300
    for colour in palette:
        regions, _ = cv2.connectedComponents((picture == colour).all(2).astype(np.uint8))
        assert regions >= 2  # background and a box


def test_made_up_colours_differ():
    palette = make_palette(256)
    assert palette.shape == (256, 3)
    assert len({tuple(colour) for colour in palette.tolist()}) == 256
    distance = np.linalg.norm(palette[:20, None].astype(int) - palette[None, :20], axis=2)
    assert distance[~np.eye(20, dtype=bool)].min() > 30


def test_palette_must_hold_a_colour_for_every_class():
    assert as_palette([[1, 2, 3], [4, 5, 6]], 1).tolist() == [[1, 2, 3]]
    with pytest.raises(ConfigError, match=r"3 classes need 3 RGB colours.*shape \(2, 3\)"):
        as_palette([[1, 2, 3], [4, 5, 6]], 3)


def test_text_colour_contrasts():
    assert text_colour((255, 255, 0)) == (0, 0, 0)
    assert text_colour((0, 0, 142)) == (255, 255, 255)


def test_pictures_are_joined_with_a_gap():
    joined = side_by_side([np.zeros((2, 3, 3), np.uint8)] * 2, gap=4)
    assert joined.shape == (2, 10, 3)
    assert (joined[:, 3:7] == 255).all()
    assert not joined[:, 7:].any()
