"""Folders that cannot be used: one sentence with the file and what to do, which then helps."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nlseg.commands.start import main
from nlseg.start.planning import read_folder
from tests.start.folders import SIZE, draw, fifo, loop, request, rewrite, two_folders, write

Mend = Callable[[Path], object]


def empty(root: Path) -> Mend:
    root.mkdir()
    return two_folders


def arrays_only(root: Path) -> Mend:
    root.mkdir()
    np.save(root / "a.npy", np.zeros(3))
    return two_folders


def a_file(root: Path) -> Mend:
    root.write_text("x")
    return lambda root: (root.unlink(), two_folders(root))


def missing(root: Path) -> Mend:
    return two_folders


def no_masks(root: Path) -> Mend:
    two_folders(root)
    kept = {p.name: p.read_bytes() for p in (root / "masks").iterdir()}
    shutil.rmtree(root / "masks")
    (root / "a.xml").write_text("<a/>")

    def add(root: Path) -> None:
        (root / "masks").mkdir()
        for name, data in kept.items():
            rewrite(root / "masks" / name, data)

    return add


def other_names(root: Path) -> Mend:
    two_folders(root, 3)
    for i, word in enumerate(("first", "next", "last")):
        (root / f"masks/{i}.png").rename(root / f"masks/{word}.png")

    def rename(root: Path) -> None:
        for i, word in enumerate(("first", "next", "last")):
            (root / f"masks/{word}.png").rename(root / f"masks/{i}.png")

    return rename


def same_stem(root: Path) -> Mend:
    two_folders(root)
    other = write(root / "images/1.jpg", draw(9)[0])
    return lambda root: other.unlink()


def other_size(root: Path) -> Mend:
    two_folders(root)
    write(root / "masks/1.png", np.zeros((SIZE[0], SIZE[1] - 1), np.uint8))
    return lambda root: write(root / "masks/1.png", draw(1)[1])


def cut_off_mask(root: Path) -> Mend:
    two_folders(root)
    path = root / "masks/1.png"
    rewrite(path, path.read_bytes()[:-20])
    return lambda root: (path.unlink(), (root / "images/1.png").unlink())


def text_as_image(root: Path) -> Mend:
    two_folders(root)
    (root / "images/1.png").write_text("not an image")
    return lambda root: [(root / folder / "1.png").unlink() for folder in ("images", "masks")]


def one_value(root: Path) -> Mend:
    two_folders(root)
    for path in (root / "masks").iterdir():
        write(path, np.zeros(SIZE, np.uint8))
    return two_folders


def one_colour(root: Path) -> Mend:
    two_folders(root)
    for path in (root / "masks").iterdir():
        alpha = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write(path, np.dstack([np.full((*alpha.shape, 3), 255, np.uint8), alpha]))
    return two_folders


def smooth_colours(root: Path) -> Mend:
    two_folders(root)
    noise = np.random.RandomState(0).randint(0, 255, (*SIZE, 3)).astype(np.uint8)
    for i in range(4):
        write(root / f"masks/{i}.png", noise)
    return two_folders


def fractions_as_masks(root: Path) -> Mend:
    two_folders(root)
    for i in range(4):
        (root / f"masks/{i}.png").unlink()
        Image.fromarray(draw(i)[1] / np.float32(255)).save(root / f"masks/{i}.tif")

    def as_png(root: Path) -> None:
        shutil.rmtree(root / "masks")
        two_folders(root)

    return as_png


def fractions_as_images(root: Path) -> Mend:
    two_folders(root)
    for i in range(4):
        (root / f"images/{i}.png").unlink()
        Image.fromarray(draw(i)[0][..., 0] / np.float32(255)).save(root / f"images/{i}.tif")

    def as_png(root: Path) -> None:
        shutil.rmtree(root / "images")
        two_folders(root)

    return as_png


def jpeg_masks(root: Path) -> Mend:
    two_folders(root)
    for i in range(4):
        path = root / f"masks/{i}.png"
        cv2.imwrite(str(path.with_suffix(".jpg")), draw(i)[1], [cv2.IMWRITE_JPEG_QUALITY, 60])
        path.unlink()

    def as_black_and_white(root: Path) -> None:
        for path in sorted((root / "masks").iterdir()):
            levels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            write(path.with_suffix(".png"), np.where(levels < 128, 0, 255).astype(np.uint8))
            path.unlink()

    return as_black_and_white


def object_ids(root: Path) -> Mend:
    two_folders(root)
    write(root / "masks/1.png", draw(1)[1].astype(np.uint16) * 100)
    return lambda root: write(root / "masks/1.png", draw(1)[1])


def coco_without_images(root: Path) -> Mend:
    root.mkdir()
    ring = [[2, 2, 20, 2, 20, 20, 2, 20]]
    images = [{"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in range(2)]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "segmentation": ring} for i in (0, 1)]
    values = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (root / "instances.json").write_text(json.dumps(values))
    return lambda root: [write(root / f"{i}.png", draw(i)[0]) for i in range(2)]


def broken_json(root: Path) -> Mend:
    coco_without_images(root)(root)
    file = root / "instances.json"
    text = file.read_text()
    file.write_text(text[:-3])
    return lambda root: file.write_text(text)


def link_loop(root: Path) -> Mend:
    two_folders(root)
    loop(root / "images/again")
    return lambda root: (root / "images/again").unlink()


def link_to_nothing(root: Path) -> Mend:
    two_folders(root)
    (root / "images/lost.png").symlink_to(root / "away.png")
    return lambda root: (root / "images/lost.png").unlink()


def named_pipe(root: Path) -> Mend:
    two_folders(root)
    fifo(root / "images/pipe.png")
    return lambda root: (root / "images/pipe.png").unlink()


def closed_folder(root: Path) -> Mend:
    two_folders(root)
    (root / "masks").chmod(0)
    return lambda root: (root / "masks").chmod(0o700)


def one_pair(root: Path) -> Mend:
    two_folders(root, 1)
    return two_folders


def wrong_list(root: Path) -> Mend:
    two_folders(root)
    (root / "train.txt").write_text("0\n1\nnowhere\n")
    (root / "val.txt").write_text("2\n3\n")
    return lambda root: (root / "train.txt").write_text("0\n1\n")


def list_twice(root: Path) -> Mend:
    two_folders(root)
    (root / "train.txt").write_text("0\n1\n2\n")
    (root / "val.txt").write_text("2\n3\n")
    return lambda root: (root / "train.txt").write_text("0\n1\n")


def wrong_names(root: Path) -> Mend:
    two_folders(root)
    (root / "classes.txt").write_text("a\nb\nc\nd\n")
    return lambda root: (root / "classes.txt").write_text("a\nb\n")


def two_kinds_of_masks(root: Path) -> Mend:
    two_folders(root)
    write(root / "masks/1.png", cv2.merge([draw(1)[1]] * 3))
    return lambda root: write(root / "masks/1.png", draw(1)[1])


def two_depths(root: Path) -> Mend:
    two_folders(root)
    write(root / "images/1.png", draw(1)[0].astype(np.uint16) * 256)
    return lambda root: write(root / "images/1.png", draw(1)[0])


def copy_in_both(root: Path) -> Mend:
    two_folders(root)
    (root / "images/3.png").write_bytes((root / "images/0.png").read_bytes())
    (root / "train.txt").write_text("0\n1\n")
    (root / "test.txt").write_text("2\n3\n")
    return lambda root: (root / "test.txt").write_text("2\n")


def only_test(root: Path) -> Mend:
    for i in range(4):
        image, mask = draw(i)
        write(root / f"images/test/{i}.png", image)
        write(root / f"masks/test/{i}.png", mask)
    return lambda root: [(root / f / "test").rename(root / f / "all") for f in ("images", "masks")]


CASES = {
    empty: ("images", "empty"),
    arrays_only: (".npy", "such as .jpg"),
    a_file: ("is a file", "give the folder"),
    missing: ("no such folder", "check the path"),
    no_masks: ("images", "put masks", "its 1 .xml files are no export that is read"),
    other_names: ("masks", "rename them"),
    same_stem: ("images/1.", "keep one"),
    other_size: ("masks/1.png", "export the mask"),
    cut_off_mask: ("masks/1.png", "remove it and its image"),
    text_as_image: ("images/1.png", "remove it and its mask"),
    one_value: ("masks", "export the masks again"),
    one_colour: ("masks", "an alpha channel: --binary 128"),
    smooth_colours: ("masks/0.png", "export it again as PNG"),
    fractions_as_masks: ("masks/0.tif", "8-bit PNG"),
    fractions_as_images: ("images/0.tif", "convert"),
    jpeg_masks: ("masks/0.jpg", "store 0 below 128 and 255 above as PNG"),
    object_ids: ("masks/1.png", "export one value a class"),
    coco_without_images: ("instances.json", "image 0.png is in none of"),
    broken_json: ("instances.json:1", "correct the file"),
    link_loop: ("images/again", "remove the link"),
    link_to_nothing: ("images/lost.png", "remove it"),
    named_pipe: ("images/pipe.png", "remove it"),
    closed_folder: ("masks", "chmod"),
    one_pair: ("images/0.png", "two are needed"),
    wrong_list: ("train.txt:3", "correct the line"),
    list_twice: ("val.txt:1", "remove it from one"),
    wrong_names: ("classes.txt", "name each of them"),
    two_kinds_of_masks: ("masks/1.png", "one of the two ways"),
    two_depths: ("images/1.png", "one depth"),
    copy_in_both: ("images/3.png", "take it out"),
    only_test: ("test", "rename them"),
}


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_the_file_and_the_remedy_are_named_and_the_remedy_helps(
    make: Callable[[Path], Mend], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if make is closed_folder and os.geteuid() == 0:
        pytest.skip("root opens every folder")
    root = tmp_path / "data"
    mend = make(root)
    out = str(tmp_path / "my_data.py")
    with pytest.raises(SystemExit) as ended:
        main([str(root), "--plan-only", "--from-scratch", "--out", out])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    for words in CASES[make]:
        assert words in told
    assert not Path(out).exists()
    for level in re.findall(r"--binary ([\d.]+)", told):
        labels = read_folder(request(root, binary=float(level)), progress=False).labels
        assert labels.classes == ("background", "foreground")
    mend(root)
    found = read_folder(request(root), progress=False)
    assert found.parts.train
    assert found.parts.test
