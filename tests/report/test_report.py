"""The report: facts of an image by hand, what follows from them, and the page that shows it."""

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from nlseg.commands.main import main
from nlseg.errors import UserError
from nlseg.ops.confusion import confusion_matrix
from nlseg.report.analysis import analyse, bootstrap, iou_of, put_right, where_points_went
from nlseg.report.examples import Example
from nlseg.report.facts import (
    ImageFacts,
    as_matrix,
    gather,
    near_borders,
    object_areas,
    read_facts,
    write_facts,
)
from nlseg.report.page import errors_of, write_report

CLASSES = ["sky", "<script>alert(1)</script>", "pole"]


def facts_of(pairs: list[list[int]], image: str = "a.png", **more: object) -> ImageFacts:
    return ImageFacts(image, [2, 2], pairs, **more)


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(seed)
    label = np.kron(rng.randint(0, 3, (6, 8)), np.ones((10, 10), int))
    label[:5, :5] = 255
    pred = np.where(rng.rand(*label.shape) < 0.8, label, rng.randint(0, 3, label.shape))
    return label, np.where(pred == 255, 0, pred)


def test_near_borders_by_a_slow_loop() -> None:
    label, _ = maps(1)
    label = label[:20, :30]
    near = near_borders(label, 3)
    for y, x in np.ndindex(label.shape):
        window = label[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
        assert near[y, x] == (window != label[y, x]).any(), (y, x)


def test_object_areas_by_hand() -> None:
    label = np.array([[0, 0, 1], [1, 0, 1], [1, 255, 0]])
    area = object_areas(label, label != 255)
    # regions touch in corners, too: the four 0 are one, the 1 are two
    assert area.tolist() == [[4, 4, 2], [2, 4, 2], [2, 0, 4]]


def test_object_areas_are_those_of_the_whole_image() -> None:
    label, _ = maps(4)
    area = object_areas(label, label != 255)
    seen = np.zeros(label.shape, bool)
    for start in np.argwhere(label != 255):
        if seen[tuple(start)]:
            continue
        region, todo = [], [tuple(start)]  # a flood fill over the eight neighbours
        seen[tuple(start)] = True
        while todo:
            y, x = todo.pop()
            region.append((y, x))
            for v, u in np.ndindex(3, 3):
                place = (y + v - 1, x + u - 1)
                inside = 0 <= place[0] < label.shape[0] and 0 <= place[1] < label.shape[1]
                if inside and not seen[place] and label[place] == label[y, x]:
                    seen[place] = True
                    todo.append(place)
        assert {int(area[place]) for place in region} == {len(region)}


def test_counts_of_an_image_add_up() -> None:
    label, pred = maps(2)
    confidence = np.full(label.shape, 0.95, np.float32)
    facts = gather("a.png", label, pred, 3, 255, confidence)
    import torch

    expected = confusion_matrix(torch.from_numpy(pred), torch.from_numpy(label), 3).numpy()
    whole = as_matrix(facts.pairs, 3)
    assert (whole == expected).all()
    by_size = sum(as_matrix(pairs, 3) for pairs in facts.objects.values())
    assert (by_size == whole).all()
    assert (as_matrix(facts.band, 3) <= whole).all()
    pixels, right, sure = np.array(facts.calibration).sum(0)
    assert pixels == whole.sum()
    assert right == np.trace(whole)
    assert sure == pytest.approx(0.95 * pixels, rel=1e-6)


def test_boundary_counts_by_a_slow_loop() -> None:
    label, pred = maps(3)
    counted = label != 255
    reach = round(0.02 * float(np.hypot(*label.shape)))
    near_label, near_pred = near_borders(label, reach), near_borders(pred, reach)
    facts = gather("a.png", label, pred, 3, 255)
    for k in range(3):
        shared = labelled = predicted = 0
        for y, x in np.argwhere(counted):
            of_label = bool(near_label[y, x]) and label[y, x] == k
            of_pred = bool(near_pred[y, x]) and pred[y, x] == k
            shared += of_label and of_pred
            labelled += of_label
            predicted += of_pred
        assert facts.boundary[str(k)] == [shared, labelled, predicted]


def test_confidence_falls_into_its_bin() -> None:
    label = np.zeros((1, 3), int)
    confidence = np.array([[0.05, 0.5, 1.0]], np.float32)
    bins = gather("a", label, np.array([[0, 1, 0]]), 2, 255, confidence).calibration
    filled = {i: row for i, row in enumerate(bins) if row[0]}
    assert {i: row[:2] for i, row in filled.items()} == {0: [1, 1], 7: [1, 0], 14: [1, 1]}
    assert filled[7][2] == pytest.approx(0.5)


def test_confused_both_ways_is_one_kind_of_error() -> None:
    counts = np.array([[8, 2], [2, 8]])
    pairs = [[0, 0, 8], [0, 1, 2], [1, 0, 2], [1, 1, 8]]
    (loss,) = where_points_went([facts_of(pairs)], ["a", "b"], counts)
    assert loss.points == pytest.approx(100 * (1 - 8 / 12))


def test_regions_that_the_network_is_sure_of() -> None:
    label = np.zeros((60, 60), int)
    pred = label.copy()
    pred[10:30, 10:30] = 1  # one region far from labelled borders
    sure = np.full(label.shape, 0.99, np.float32)
    unsure = np.full(label.shape, 0.5, np.float32)
    assert gather("a", label, pred, 2, 255, sure).disagreement == [[0, 1, 400]]
    assert gather("a", label, pred, 2, 255, unsure).disagreement == []
    assert gather("a", label, pred, 2, 255).calibration == []


def test_points_by_substitution_by_hand() -> None:
    # class 0: 8 found, 2 taken for class 1; class 1: 10 found
    counts = np.array([[8, 2], [0, 10]])
    now = (8 / 10 + 10 / 12) / 2
    (loss,) = where_points_went([facts_of([[0, 0, 8], [0, 1, 2], [1, 1, 10]])], ["a", "b"], counts)
    assert loss.cause == "a taken for b, or the other way round"
    assert loss.points == pytest.approx(100 * (1 - now))
    assert loss.pixels == pytest.approx(2 / 20)
    assert (put_right(counts, np.array([[0, 2], [0, 0]])) == [[10, 0], [0, 10]]).all()


def test_interval_holds_the_score_and_narrows_with_images() -> None:
    rng = np.random.RandomState(0)
    found = rng.randint(50, 100, (40, 1))
    areas = np.stack([found, np.full_like(found, 100), np.full_like(found, 100)], 1)
    score = float(iou_of(areas.sum(0))[0])
    (low, high), _ = bootstrap(areas)
    assert low < score < high
    (fewer_low, fewer_high), _ = bootstrap(areas[:5])
    assert fewer_high - fewer_low > high - low
    same = np.repeat(areas[:1], 10, 0)
    assert bootstrap(same)[0][0] == pytest.approx(bootstrap(same)[0][1])


def test_details_of_some_images_are_put_right_among_these() -> None:
    first = facts_of([[0, 0, 8], [0, 1, 2], [1, 1, 10]], band=[[0, 0, 1], [0, 1, 1]])
    second = facts_of([[0, 0, 10], [1, 0, 10]], "b.png", detailed=False)
    counts = np.array([[18, 2], [10, 10]])
    found = {one.cause: one for one in where_points_went([first, second], ["a", "b"], counts)}
    band = found["within 3 px of a border of a labelled region"]
    now = (8 / 10 + 10 / 12) / 2
    right = (9 / 10 + 10 / 11) / 2
    assert band.points == pytest.approx(100 * (right - now))
    assert band.pixels == pytest.approx(1 / 20)
    analysis = analyse([first, second], ["a", "b"])
    assert (analysis.num_detailed, analysis.num_confident) == (1, 0)


def test_class_that_is_never_predicted_is_named() -> None:
    found = analyse([facts_of([[0, 0, 5], [2, 0, 5]])], CLASSES)
    assert found.missing == ["pole"]
    assert math.isnan(found.per_class["IoU"][1])
    assert found.scores["mIoU"] == pytest.approx((0.5 + 0) / 2)


def confusion_of(facts: ImageFacts) -> list[list[int]]:
    counts = [[0] * 3 for _ in range(3)]
    for true, predicted, number in facts.pairs:
        counts[true][predicted] = number
    return counts


def test_page_escapes_names_and_holds_everything(tmp_path: Path) -> None:
    facts = []
    for seed in range(3):
        label, pred = maps(seed)
        name = str(tmp_path / f"<b>{seed}</b>.png")
        facts.append(gather(name, label, pred, 3, 255, np.full(label.shape, 0.8)))
    image = tmp_path / "<b>0</b>.png"
    image.parent.mkdir()
    cv2.imwrite(str(image), np.zeros((60, 80, 3), np.uint8))
    example = Example(facts[0], *maps(0), np.full((60, 80), 80, np.uint8))
    meta = {"classes": CLASSES, "palette": None, "config": "tiny.py"}
    write_report(tmp_path / "report.html", facts, meta, examples={"worst": [example]})
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;b&gt;0&lt;/b&gt;.png" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    right = sum(n for true, predicted, n in facts[0].pairs if true == predicted)
    share = 100 * right / sum(n for _, _, n in facts[0].pairs)
    assert f"{share:.2f} % of pixels right" in text
    assert text.count("<figure>") == 7  # confusion, calibration, five of the image
    assert "Where the points went" in text
    counts = sum(np.array(confusion_of(each)) for each in facts)
    table = text.partition("Confusion in pixels")[2].partition("</table>")[0]
    assert [int(n) for n in re.findall(r'"number">(\d+)<', table)] == counts.ravel().tolist()


def test_errors_are_red_and_ignored_pixels_dark() -> None:
    label, pred = np.array([[0, 1, 255]]), np.array([[0, 0, 0]])
    picture = errors_of(np.full((1, 3, 3), 120, np.uint8), label, pred)
    assert picture.tolist() == [[[150, 150, 150], [215, 48, 39], [40, 40, 40]]]


def test_report_is_written_again_from_its_facts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = [facts_of([[0, 0, 6], [0, 1, 2], [1, 1, 8]], calibration=[])]
    meta = {"classes": CLASSES, "palette": None, "config": "c.py"}
    (tmp_path / "run/one").mkdir(parents=True)
    write_facts(tmp_path / "run/one/images.jsonl", facts, meta)
    assert read_facts(tmp_path / "run/one/images.jsonl") == (meta, facts)
    assert main(["report", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "mIoU 77.50" in said  # (6/8 + 8/10) / 2
    assert f", without a score of {CLASSES[2]}\n" in said
    page = " ".join((tmp_path / "run/one/report.html").read_text().split())
    assert "<strong>over 2 of 3 classes</strong>: neither labels nor predictions hold" in page
    assert "confidence of none; their points" in page  # so that there is no such error
    assert "calibration error" not in page
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path / "empty")])
    (tmp_path / "bad.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match="holds no facts of a test"):
        read_facts(tmp_path / "bad.jsonl")
