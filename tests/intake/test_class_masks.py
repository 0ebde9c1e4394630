"""Masks of one class each become label maps; that they are such masks is asked, never guessed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlseg.commands.import_ import main
from nlseg.commands.start import build_parser, request_of
from nlseg.config import load_config
from nlseg.errors import UserError
from nlseg.intake.class_masks import find_class_masks
from nlseg.intake.object_masks import find_object_masks
from nlseg.start.exports import read_layout
from nlseg.start.facts import read_label
from nlseg.start.planning import read_folder
from nlseg.start.readings import Unclear
from nlseg.start.request import Request
from tests.cases import each_case
from tests.intake.test_import import grid, label
from tests.start.folders import request

CAT = "11111111 11111111 11111111 ........ ........ ........"
DOG = "........ .111.... .111.... .111.... ........ ........"
WANT = "11111111 12221111 12221111 .222.... ........ ........"

Names = Callable[[int, str], str]
LONG = {"cat": ("1. Big Cats", "CA"), "dog": ("10. Dogs", "DO")}
LAYOUTS: dict[str, tuple[Callable[[int], str], Names, tuple[str, str]]] = {
    "a folder each": (
        lambda i: f"images/{i}.jpg", lambda i, c: f"masks/{c}/{i}.png", ("cat", "dog")
    ),
    "folders at the top": (lambda i: f"img/{i}.jpg", lambda i, c: f"{c}/{i}.png", ("cat", "dog")),
    "ends of names": (lambda i: f"img/{i}.jpg", lambda i, c: f"gt/{i}_{c}.png", ("cat", "dog")),
    "one folder": (lambda i: f"x_{i}.jpg", lambda i, c: f"x_{i}-{c}.png", ("cat", "dog")),
    "numbered": (
        lambda i: f"1. Originals/a. Training Set/P_{i:02d}.jpg",
        lambda i, c: f"2. Truth/a. Training Set/{LONG[c][0]}/P_{i:02d}_{LONG[c][1]}.tif",
        ("Big Cats", "Dogs"),
    ),
    "splits": (
        lambda i: f"{('train', 'train', 'test')[i]}/img/{i % 2}.jpg",
        lambda i, c: f"{('train', 'train', 'test')[i]}/{c}/{i % 2}.png",
        ("cat", "dog"),
    ),
}  # fmt: skip


def large(text: str) -> np.ndarray:
    """Read a label map, each letter for 2x2 px, as images of 48 px hold few colours."""
    return np.kron(grid(text), np.ones((2, 2), int))


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.RandomState(seed).randint(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)


def mask(path: Path, text: str, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((large(text) * 255).astype(np.uint8)).convert(mode).save(path)


def write(root: Path, layout: str) -> None:
    image, name, _ = LAYOUTS[layout]
    for i in range(3):
        picture(root / image(i), i)
        mask(root / name(i, "cat"), CAT)
        if i != 1:  # this one has no dog
            mask(root / name(i, "dog"), DOG, "RGBA" if i else "RGB")


def answered(root: Path, *options: str) -> Request:
    out = str(root.parent / "my_data.py")
    return request_of(build_parser().parse_args([str(root), "--out", out, *options]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plan_asks_and_each_answer_is_followed(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, layout)
    with pytest.raises(Unclear, match="3 images have 5 masks of two values") as asked:
        read_layout(request(root))
    first, *alone, last = asked.value.readings
    names = LAYOUTS[layout][2]
    assert first.meaning == f"a class each: {', '.join(names)}"
    found = read_folder(answered(root, *first.options), progress=False)
    assert found.labels.classes == ("background", *names)
    maps = [read_label(pair.mask, found.labels) for pair in found.layout.pairs]
    assert sorted(m.tolist() for m in maps) == sorted([
        large(WANT).tolist(), large(WANT).tolist(), large(CAT).tolist(),
    ])  # fmt: skip
    assert [one.meaning for one in alone] == [
        f"{name} alone ({count} pairs)" for name, count in zip(names, (3, 2), strict=True)
    ]
    for one, count in zip(alone, (3, 2), strict=True):
        pairs = read_layout(answered(root, *one.options))[0].pairs
        assert len(pairs) == count
    assert last.options == ("--format", "masks")
    if layout == "splits":
        assert {s: len(p) for s, p in found.layout.splits().items()} == {"train": 2, "test": 1}
    elif layout == "a folder each":  # as before: two ways are as good
        with pytest.raises(Unclear, match="which files are the images"):
            read_layout(answered(root, *last.options))


def test_an_import_leaves_out_what_is_no_mask_of_one_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    write(root, "a folder each")
    picture(root / "images/9.jpg", 9)
    mask(root / "masks/dog/8.png", DOG)
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16)).save(root / "masks/dog/2.png")
    (root / "masks/cat/1.png").write_bytes(b"torn")
    mask(root / "masks/dog/1.png", f"{DOG} ........")
    words = [str(root), str(out), "--format", "class-masks"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--images", str(root / "images")])
    assert f"--images: images are looked for in {root}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(root), str(out)])
    assert "for masks of one class each: --format class-masks" in capsys.readouterr().err
    (root / "masks/cat/1.png").unlink()
    assert main([*words, "--unlabelled", "255"]) == 1
    told = capsys.readouterr().out
    assert "2 classes: cat, dog" in told
    assert "note: 1 images without a mask are left out, such as " in told
    assert "note: 1 masks without an image are left out, such as " in told
    rows = (out / "unreadable.txt").read_text()
    assert "masks/dog/2.png:1: holds 192 values; a mask of one class has two" in rows
    assert "1.jpg:1: is 12 x 16 px, labelled as 14 x 16" in rows
    assert (label(out, "images/0") == large(WANT.translate({49: "0", 50: "1", 46: "x"}))).all()
    assert (label(out, "images/2") == large(CAT.translate({49: "0", 46: "x"}))).all()
    assert load_config(out / "config.py").metainfo.classes == ("cat", "dog")


OBJECTS: dict[str, tuple[str, str]] = {
    "a folder each": ("train/c{0}/images/c{0}.png", "train/c{0}/masks/{1}f{0}.png"),
    "numbers behind": ("train/im/c{0}.png", "train/ob/c{0}_{1}.png"),
}


@pytest.mark.parametrize("layout", OBJECTS)
def test_masks_of_one_object_each_become_one_class(layout: str, tmp_path: Path) -> None:
    root, out, (image, name) = tmp_path / "data", tmp_path / "out", OBJECTS[layout]
    for i, drawn in enumerate([(CAT, DOG), (DOG,), (DOG, CAT, CAT)]):
        picture(root / image.format(i), i)
        for number, text in enumerate(drawn):
            mask(root / name.format(i, number), text)
    with pytest.raises(Unclear, match="3 images have 6 masks of two values") as asked:
        read_layout(request(root))
    *_, one, last = asked.value.readings  # a class each, where the numbers are the same
    assert (one.options, last.options) == (("--format", "object-masks"), ("--format", "masks"))
    found = read_folder(answered(root, *one.options), progress=False)
    assert found.labels.classes == ("background", "object")
    mask(root / name.format(2, 1), f"{DOG} ........")
    assert main([str(root), str(out), "--format", "object-masks", "--unlabelled", "255"]) == 1
    assert "is (14, 16), another mask of it (12, 16)" in (out / "unreadable.txt").read_text()
    for i, text in enumerate([WANT.replace("2", "1"), DOG, WANT.replace("2", "1")]):
        path = str(Path(image.format(i)).with_suffix(""))
        assert (label(out, path) == large(text.translate({49: "0", 46: "x"}))).all()
    write(tmp_path / "other", "a folder each")
    with pytest.raises(UserError, match="no images with masks of one object each; put those of"):
        read_layout(answered(tmp_path / "other", "--format", "object-masks"))


NO_OBJECTS = {  # pictures, masks
    "one mask an image": (["0.png", "1.png", "2.png"], ["0_0.png", "1_0.png", "2_0.png"]),
    "few of many": (["0.png", *(f"more/{i}.png" for i in "abcdefgh")], ["0_0.png", "0_1.png"]),
    "no images": ([], ["0.png", "0_0.png", "0_1.png"]),
    "no masks": (["0.png", "0_0.png", "0_1.png"], []),
}


@each_case("name", NO_OBJECTS)
def test_numbered_files_that_are_no_masks_of_objects(name: str, tmp_path: Path) -> None:
    pictures, masks = NO_OBJECTS[name]
    for i, path in enumerate(pictures):
        picture(tmp_path / path, i)
    for path in masks:
        mask(tmp_path / path, CAT)
    assert find_object_masks(tmp_path) == {}


@pytest.mark.parametrize("change", ["one folder", "twice", "values", "names", "pictures", "torn"])
def test_other_folders_hold_no_such_masks(change: str, tmp_path: Path) -> None:
    write(tmp_path, "a folder each")
    assert find_class_masks(tmp_path) is not None
    if change == "twice":  # two images for the same masks
        picture(tmp_path / "images/0.png", 5)
    for path in (tmp_path / "masks/dog").iterdir() if change != "twice" else ():
        if change == "one folder":
            path.unlink()
        elif change == "values":
            Image.fromarray(large(WANT).astype(np.uint8)).save(path)
        elif change == "names":
            path.rename(path.with_name(f"y{path.name}"))
        elif change == "pictures":
            picture(path, 3)
        else:
            path.write_bytes(b"torn")
    assert find_class_masks(tmp_path) is None
    with pytest.raises(UserError, match="no images with masks of one class each"):
        read_layout(answered(tmp_path, "--format", "class-masks"))
