"""Two evaluations compared: scores by hand, tests against enumeration, and what is refused."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nlseg.commands.main import main
from nlseg.errors import UserError
from nlseg.evaluation.image_counts import CountedImages
from nlseg.report.analysis import iou_of
from nlseg.report.comparison import (
    DRAWS,
    Evaluation,
    check_comparable,
    compare,
    moved_most,
    read_evaluation,
)
from nlseg.report.facts import ImageFacts, write_facts
from nlseg.zoo.receipt import write_receipt

CLASSES = ("sky", "<script>")


def evaluation(seed: int, gain: int, number: int = 30, name: str = "B") -> Evaluation:
    """Make images of 100 + 50 labelled pixels, of which about 60 % and ``gain`` more are found."""
    labels, rng = np.array([100, 50]), np.random.default_rng(seed)
    found = np.clip((labels * rng.uniform(0.5, 0.7, (number, 2))).astype(int) + gain, 0, labels)
    wrong = labels - found
    areas = np.stack([found, np.broadcast_to(labels, found.shape), found + wrong[:, ::-1]], 1)
    return Evaluation(name, CLASSES, tuple(f"{i:02}.png" for i in range(number)), areas)


def test_difference_is_that_of_the_scores() -> None:
    one, two = evaluation(0, 0, name="A"), evaluation(1, 5)
    found = compare(one, two)
    before, after = iou_of(one.areas.sum(0)), iou_of(two.areas.sum(0))
    assert found.miou.baseline == pytest.approx(before.mean())
    assert found.miou.gain == pytest.approx(after.mean() - before.mean())
    assert [each.name for each in found.classes] == list(CLASSES)
    assert found.classes[1].other == pytest.approx(after[1])
    low, high = found.miou.interval
    assert low < found.miou.gain < high


def test_p_value_is_the_share_of_swaps_that_differ_as_much() -> None:
    one, two = evaluation(3, 0, 7, "A"), evaluation(4, 4, 7)
    found = compare(one, two)

    def gain(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.mean(iou_of(second.sum(0))) - np.mean(iou_of(first.sum(0))))

    as_large = 0
    for coins in itertools.product((False, True), repeat=7):
        swap = np.array(coins)[:, None, None]
        first, second = (
            np.where(swap, b, a) for a, b in ((one.areas, two.areas), (two.areas, one.areas))
        )
        as_large += abs(gain(first, second)) >= abs(gain(one.areas, two.areas)) - 1e-12
    exact = as_large / 2**7
    assert found.miou.p_value == pytest.approx(
        exact, abs=4 * (exact * (1 - exact) / DRAWS) ** 0.5 + 1e-3
    )


def test_interval_is_that_of_paired_resampling_by_a_slow_loop() -> None:
    one, two = evaluation(5, 0, 20, "A"), evaluation(6, 3, 20)
    rng = np.random.default_rng(9)
    gains = []
    for _ in range(1000):
        chosen = rng.integers(0, 20, 20)
        sums = [each.areas[chosen].sum(0) for each in (one, two)]
        gains.append(iou_of(sums[1]).mean() - iou_of(sums[0]).mean())
    low, high = compare(one, two).miou.interval
    width = high - low
    assert np.percentile(gains, [2.5, 97.5]) == pytest.approx([low, high], abs=0.15 * width)


def test_equal_ones_do_not_differ_and_a_large_gain_is_no_chance() -> None:
    one = evaluation(0, 0, name="A")
    same = compare(one, one)
    assert same.miou.p_value == 1
    assert same.miou.interval == (0, 0)
    assert moved_most(same, 5) == {"images that lost most": [], "images that gained most": []}
    better = compare(one, evaluation(0, 10))
    assert better.miou.p_value == pytest.approx(1 / (1 + DRAWS))
    assert better.miou.interval[0] > 0
    assert len(moved_most(better, 5)["images that gained most"]) == 5


def test_test_rejects_equal_networks_as_often_as_it_says() -> None:
    values = [
        compare(evaluation(2 * i, 0, name="A"), evaluation(2 * i + 1, 0)).miou.p_value
        for i in range(60)
    ]
    assert sum(value < 0.05 for value in values) <= 9  # more with probability 0.001
    assert 0.3 < float(np.mean(values)) < 0.7


def test_class_without_pixels_has_no_difference() -> None:
    one, two = evaluation(0, 0, name="A"), evaluation(1, 5)
    for each in (one, two):
        each.areas[:, :, 1] = 0
    found = compare(one, two)
    assert np.isnan(found.classes[1].p_value)
    assert found.miou.gain == pytest.approx(found.classes[0].gain)


def test_other_classes_images_and_labels_are_refused_by_name() -> None:
    one = evaluation(0, 0, name="A")
    two = evaluation(1, 0)
    with pytest.raises(UserError, match="compared with A: class 1 is 'sea', not '<scr"):
        check_comparable(one, replace(two, classes=("sky", "sea")))
    with pytest.raises(UserError, match="3 classes, not 2"):
        check_comparable(one, replace(two, classes=(*CLASSES, "sea")))
    names = (*two.images[:-1], "other.png")
    with pytest.raises(
        UserError, match=r"1 images are missing, such as 29\.png; 1 images are others, such as o"
    ):
        check_comparable(one, replace(two, images=names))
    changed = two.areas.copy()
    changed[4, 1, 0] -= 3
    with pytest.raises(UserError, match=r"labels of 04\.png differ: 97 px of 'sky', not 100"):
        check_comparable(one, replace(two, areas=changed))


def write_run(folder: Path, wrong: int, images: int = 4) -> None:
    facts = [
        ImageFacts(
            f"{folder}/val/city/{i}.png", [1, 20],
            [[0, 0, 9 - i], [0, 1, i + 1], [1, 1, 10 - wrong], [1, 0, wrong]],
        )
        for i in range(images)
    ]  # fmt: skip
    folder.mkdir()
    write_facts(folder / "images.jsonl", facts, {"classes": list(CLASSES), "palette": None})


def test_command_prints_tables_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, wrong in (("a", 1), ("b", 4), ("c", 0)):
        write_run(tmp_path / name, wrong)
    assert main(["compare", *(str(tmp_path / name) for name in "abc")]) == 0
    said = capsys.readouterr().out
    # the baseline: 30 of 40 sky pixels are found, 36 of 40 of the other class
    before = 50 * (30 / (40 + 4) + 36 / (40 + 10))
    after = 50 * (30 / (40 + 16) + 24 / (40 + 10))
    row = next(line for line in said.splitlines() if line.startswith(str(tmp_path / "b")))
    assert row.split()[1:4] == [f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"]
    assert "4 images" in said
    assert "images that lost most" in said
    page = (tmp_path / "c/compare.html").read_text()
    assert str(tmp_path / "c/compare.html") in said
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count(" against ") == 2


def test_command_refuses_other_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", 1)
    write_run(tmp_path / "b", 1, images=3)
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert "1 images are missing, such as 3.png" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(tmp_path / "a"), str(tmp_path / "empty")])
    assert "holds no images.jsonl and no receipt.json" in capsys.readouterr().err


def test_receipt_of_a_test_is_compared_with_the_facts_of_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1)
    names = tuple(f"val/city/{i}.png" for i in range(4))
    rows = [
        (i, *pair)
        for i in range(4)
        for pair in ((0, 0, 9 - i), (0, 1, i + 1), (1, 1, 9), (1, 0, 1))
    ]
    images = CountedImages(names, np.array(rows, np.int64))
    write_receipt(tmp_path / "receipt.json", {"classes": list(CLASSES)}, images, [""] * 4)
    found = compare(
        read_evaluation(tmp_path / "a"), read_evaluation(tmp_path / "receipt.json", "receipt")
    )
    assert found.miou.gain == 0
    assert found.miou.p_value == 1
