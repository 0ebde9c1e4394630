"""The images that a page shows: which are kept, in one process or several, and their file."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from nlseg.commands.main import main
from nlseg.errors import DataError
from nlseg.report.examples import Example, Examples, shrunk
from nlseg.report.facts import ImageFacts, gather, write_facts
from nlseg.report.page import shades_of
from tests.run.prepared import run_ranks


def image_of(name: str, right: int, wrong: int) -> tuple[ImageFacts, np.ndarray, np.ndarray]:
    label = np.zeros((1, right + wrong), int)
    pred = np.arange(right + wrong)[None] >= right
    return gather(name, label, pred.astype(int), 2, 255, detailed=False), label, pred.astype(int)


def names(examples: Examples) -> dict[str, list[str]]:
    return {key: [one.facts.image for one in found] for key, found in examples.chosen().items()}


def test_worst_and_best_are_kept_in_any_order_and_of_any_parts() -> None:
    rng = np.random.RandomState(0)
    shares = {
        f"{i}.png": (int(n), 10 - int(n)) for i, n in enumerate(rng.permutation(11).repeat(2))
    }
    ordered = sorted(shares, key=lambda name: (shares[name][0], name))
    best = [*reversed(ordered)][:3]
    worst = sorted(shares, key=lambda name: (-shares[name][0], name), reverse=True)[:3]
    whole, one, other = Examples(3), Examples(3), Examples(3)
    for i, (name, counts) in enumerate(shares.items()):
        whole.offer(*image_of(name, *counts))
        (one if i % 2 else other).offer(*image_of(name, *counts))
    assert names(whole) == {"worst": worst, "best": best}
    for example in other:
        one.add(example)
    assert names(one) == names(whole)
    assert [round(example.share, 6) for example in whole.chosen()["best"]] == [1.0, 1.0, 0.9]
    assert len(list(Examples(0))) == 0
    none = Examples(0)
    none.offer(*image_of("a.png", 1, 1))
    assert list(none) == []


def test_file_holds_the_examples_without_their_images(tmp_path: Path) -> None:
    kept = Examples(1)
    kept.offer(*image_of("good.png", 9, 1))
    kept.offer(*image_of("middle.png", 5, 5))
    facts, label, pred = image_of("bad.png", 2, 8)
    kept.offer(facts, label, pred, np.full(label.shape, 0.504, np.float32))
    kept.save(tmp_path / "examples.npz")
    again = Examples.read(tmp_path / "examples.npz")
    assert names(again) == names(kept) == {"worst": ["bad.png"], "best": ["good.png"]}
    (worst,) = again.chosen()["worst"]
    assert worst.facts == facts
    assert worst.label.tolist() == label.tolist()
    assert worst.pred.tolist() == pred.tolist()
    assert worst.confidence is not None
    assert worst.confidence.tolist() == [[50] * 10]
    assert again.chosen()["best"][0].confidence is None
    content = (tmp_path / "examples.npz").read_bytes()
    damaged = bytearray(content)
    damaged[200:260] = b"?" * 60
    for broken in (content[:-40], b"", b"{}", bytes(damaged)):
        (tmp_path / "broken.npz").write_bytes(broken)
        with pytest.raises(DataError, match=r"broken\.npz: holds no examples of a report"):
            Examples.read(tmp_path / "broken.npz")


def test_page_written_again_shows_the_images_that_are_still_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, facts = Examples(2), []
    for name, right in (("there.png", 60), ("gone.png", 30)):
        made = image_of(str(tmp_path / name), right, 80 - right)
        facts.append(made[0])
        kept.offer(*made)
    cv2.imwrite(str(tmp_path / "there.png"), np.full((1, 80, 3), 90, np.uint8))
    write_facts(tmp_path / "images.jsonl", facts, {"classes": ["a", "b"]})
    kept.save(tmp_path / "examples.npz")
    assert main(["report", str(tmp_path)]) == 0
    capsys.readouterr()
    page = (tmp_path / "report.html").read_text()
    assert page.count("there.png <span") == 2  # among the worst and among the best
    assert page.count("gone.png <span") == 0
    (tmp_path / "there.png").write_bytes(b"no image")
    assert Example(*image_of(str(tmp_path / "there.png"), 1, 1)).image() is None


def test_pictures_are_shrunk_to_what_the_page_shows() -> None:
    label = np.kron(np.arange(2), np.ones((700, 700), int))
    small = shrunk(label)
    assert small.shape == (280, 560)
    assert small[:, :280].max() == 0  # no value in between
    assert small[:, 280:].min() == 1
    assert shrunk(np.zeros((700, 1400, 3), np.uint8)).shape == (280, 560, 3)
    assert shrunk(np.full((560, 3), 200)).tolist() == np.full((560, 3), 200).tolist()
    assert shrunk(np.full((2, 2), 1000)).tolist() == np.full((2, 2), 1000).tolist()


def test_confidence_is_drawn_from_dark_to_bright() -> None:
    dark, same, middle, bright = shades_of(np.array([[0, 20, 60, 100]], np.uint8))[0].astype(int)
    assert dark.tolist() == same.tolist()
    assert dark.sum() < middle.sum() < bright.sum()


@pytest.mark.slow
def test_examples_come_from_all_processes(tmp_path: Path) -> None:
    script = ("-m", "tests.report.rank_script")
    run_ranks(1, *script, str(tmp_path / "one"), "none")
    run_ranks(2, *script, str(tmp_path / "two"), "pytorch")
    one, two = (Examples.read(tmp_path / name / "examples.npz") for name in ("one", "two"))
    assert names(two) == names(one)
    assert {int(Path(example.facts.image).stem) % 2 for example in two} == {0, 1}
    assert not list((tmp_path / "two").glob(".*.jsonl.*"))
    assert not list((tmp_path / "two").glob(".*.npz.*"))
