"""Splits that are made: whole sequences, every class in both parts."""

from pathlib import Path

import numpy as np
import pytest

from nlseg.errors import UserError
from nlseg.start.layout import Layout, Pair
from nlseg.start.lists import take_lists
from nlseg.start.parts import SIDE, alike_groups, choose_groups, small_picture, split_pairs
from nlseg.start.planning import read_folder
from tests.start.folders import request, two_folders, write


def pairs(number: int, split: str = "") -> list[Pair]:
    return [Pair(f"{split}{i:02d}", Path(f"{i}.png"), Path(f"m{i}.png"), split)
            for i in range(number)]  # fmt: skip


def film(lengths: list[int], drift: float = 0.02) -> list[np.ndarray]:
    """Return frames of several scenes: noise of its own each, and a little of it a frame."""
    rng = np.random.RandomState(0)
    found = []
    for length in lengths:
        scene = rng.randn(SIDE, SIDE)
        found += [(scene + drift * rng.randn(SIDE, SIDE)).astype(np.float32) for _ in range(length)]
    return found


def test_scenes_stay_together() -> None:
    lengths = [4, 1, 6, 3, 2, 4]
    groups = alike_groups(film(lengths))
    assert [len(group) for group in groups] == lengths
    assert [i for group in groups for i in group] == list(range(20))
    assert len(alike_groups(film([1] * 12))) == 12
    assert len(alike_groups(film([1] * 12, drift=0.0))) == 12
    assert len(alike_groups(film([12]))) == 12  # all differ as much as neighbours do
    assert alike_groups(film([2, 1])) == [[0, 1], [2]]


def test_no_scene_is_in_both_parts_and_it_is_said() -> None:
    listed, lengths = pairs(20), [4, 1, 6, 3, 2, 4]
    small = dict(zip(listed, film(lengths), strict=True))
    present = dict.fromkeys(listed, frozenset({0, 1}))
    parts = split_pairs(Layout("", listed), 0.2, present, small)
    scene = np.repeat(np.arange(6), lengths)
    test = {scene[listed.index(pair)] for pair in parts.test}
    assert not test & {scene[listed.index(pair)] for pair in parts.train}
    assert 3 <= len(parts.test) <= 6
    assert "similar frames stay together: 6 groups, the largest of 6" in parts.reason
    assert sorted(parts.train + parts.test) == listed
    parts = split_pairs(
        Layout("", listed), 0.2, present, dict(zip(listed, film([1] * 20), strict=True))
    )
    assert parts.reason == (
        "made: 16 train, 4 test (20 %); no neighbours in the order of names are alike"
    )


def test_a_part_of_the_training_that_tests_has_scenes_of_its_own() -> None:
    listed = pairs(8, "train")
    small = dict(zip(listed, film([3, 3, 2]), strict=True))
    parts = split_pairs(Layout("", listed), 0.3, {}, small)
    assert [pair.name for pair in parts.test] in (["train00", "train01", "train02"],
                                                  ["train03", "train04", "train05"],
                                                  ["train06", "train07"])  # fmt: skip
    assert "3 groups" in parts.reason


def test_a_small_picture_is_grey_and_in_units_of_its_spread(tmp_path: Path) -> None:
    half = np.zeros((SIDE * 4, SIDE * 4), np.uint8)
    half[:, SIDE * 2 :] = 200
    want = np.repeat([[-1.0, 1.0]], SIDE // 2, axis=1) * np.ones((SIDE, 1))
    noise = np.random.RandomState(0).randint(0, 255, half.shape).astype(np.uint8)
    for name, array in (
        ("grey.png", half), ("deep.png", half.astype(np.uint16) * 200), ("colour.png", [half] * 3),
        ("alpha.png", [half, half, half, noise]),
    ):  # fmt: skip
        stored = array if isinstance(array, np.ndarray) else np.stack(array, axis=2)
        np.testing.assert_allclose(small_picture(write(tmp_path / name, stored)), want, atol=1e-4)
    assert (small_picture(write(tmp_path / "flat.png", half * 0)) == 0).all()


def test_one_sequence_is_cut_once_and_it_is_said() -> None:
    listed = pairs(10)
    # neighbours are 1 apart and images five places away 5: below 0.35 of it
    ramp = {p: np.full((SIDE, SIDE), float(i), np.float32) for i, p in enumerate(listed)}
    parts = split_pairs(Layout("", listed), 0.2, {}, ramp)
    assert parts.test == listed[-2:]
    assert "one sequence" in parts.reason
    assert split_pairs(Layout("", listed), 0.99, {}, ramp).train == listed[:1]


def test_a_rare_class_is_in_both_parts_or_in_training() -> None:
    groups = [[i] for i in range(10)]
    present = [frozenset({0})] * 10
    present[3] = present[8] = frozenset({0, 1})  # twice: once each
    present[5] = frozenset({0, 2})  # once: trains
    chosen = choose_groups(groups, present, 2)
    assert len(chosen) == 2
    assert len(chosen & {3, 8}) == 1
    assert 5 not in chosen


def test_a_class_of_one_group_trains_wherever_it_is() -> None:
    for place in range(10):
        present = [frozenset({0})] * 10
        present[place] = frozenset({0, 1})
        chosen = choose_groups([[i] for i in range(10)], present, 5)
        assert len(chosen) == 5
        assert place not in chosen


def test_the_test_has_the_wanted_size_and_is_spread() -> None:
    nothing = [frozenset[int]()] * 40
    chosen = sorted(choose_groups([[i] for i in range(40)], nothing, 8))
    assert len(chosen) == 8
    gaps = np.diff([-1, *chosen, 40])
    assert gaps.max() <= 10  # twice the mean
    one = [frozenset({0})] * 40
    assert len(choose_groups([[i] for i in range(4)], one[:4], 3)) == 3
    assert len(choose_groups([[0], [1]], nothing[:2], 5)) == 1  # never all
    # each of three classes is in two groups of its own: two groups are enough
    several = [frozenset({0, 1 + i // 2}) for i in range(6)]
    assert len(choose_groups([[i] for i in range(6)], several, 2)) == 2


@pytest.mark.parametrize(
    ("sizes", "wanted", "chosen"),
    # looked at in the order 1, 0, 2; taken up to 1.5 times the wanted size, the first in any case
    [((3, 2, 2), 1, (1,)), ((3, 2, 2), 3, (1, 2)), ((3, 2, 2), 4, (0, 1)), ((2, 1, 4), 2, (0, 1)),
     ((4, 4, 1), 6, (0, 1))],
)  # fmt: skip
def test_whole_groups_come_near_to_the_wanted_size(
    sizes: tuple[int, ...], wanted: int, chosen: tuple[int, ...]
) -> None:
    places = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    found = choose_groups([group.tolist() for group in places], [frozenset()] * sum(sizes), wanted)
    assert found == {i for number in chosen for i in places[number].tolist()}


def test_given_splits_are_kept() -> None:
    layout = Layout("", [*pairs(3, "train"), *pairs(2, "val"), *pairs(4, "test")])
    parts = split_pairs(layout, 0.5, {}, None)
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [3, 2, 4]
    parts = split_pairs(Layout("", [*pairs(3, "train"), *pairs(2, "val")]), 0.5, {}, None)
    assert parts.test == pairs(2, "val")
    assert "val is the test" in parts.notes[0]
    parts = split_pairs(Layout("", pairs(5, "train")), 0.2, {}, {})
    assert len(parts.train) == 4
    assert "only train is given" in parts.reason


def test_copies_are_left_out_and_told(tmp_path: Path) -> None:
    two_folders(tmp_path / "data", 6)
    copy = tmp_path / "data/images/5.png"
    copy.write_bytes((tmp_path / "data/images/1.png").read_bytes())
    found = read_folder(request(tmp_path / "data"), progress=False)
    assert [pair.name for pair in found.layout.pairs] == ["0", "1", "2", "3", "4"]
    assert f"such as {copy}" in found.layout.notes[0]


def test_lists_count_where_folders_say_nothing_and_one_of_them_is_train(tmp_path: Path) -> None:
    found = pairs(4, "test")
    layout = Layout("", found)
    for name, lines in (("train", "0\n1\n"), ("val", "2\n3\n")):
        (tmp_path / f"{name}.txt").write_text(lines)
    take_lists(tmp_path, layout)
    assert layout.splits() == {"test": found}
    (tmp_path / "train.txt").rename(tmp_path / "test.txt")
    layout = Layout("", pairs(4))
    take_lists(tmp_path, layout)
    assert layout.splits() == {}


def test_two_images_are_enough() -> None:
    parts = split_pairs(Layout("", pairs(2)), 0.2, {}, {})
    assert (len(parts.train), len(parts.test)) == (1, 1)


def test_one_image_is_too_few() -> None:
    with pytest.raises(UserError, match="two are needed"):
        split_pairs(Layout("", pairs(1)), 0.2, {}, {})
