"""Exports from other machines and of other habits: read whole, or each loss told."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nlseg.commands.import_ import main
from nlseg.config import load_config
from nlseg.registry import DATASETS
from nlseg.start.exports import read_layout
from tests.intake.test_import import BOX, coco, grid, label, labelme, marked, picture, shape
from tests.start.folders import request

BOM = b"\xef\xbb\xbf"
CORNER = [[0, 0, 4, 0, 4, 2, 0, 2]]
DRAWN = "1111.... 1111.... ........ ........ ........ ........"


def with_bom(file: Path) -> None:
    """Store a text as Windows' programs do."""
    file.write_bytes(BOM + file.read_bytes().replace(b"\n", b"\r\n"))


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def samples(out: Path, split: str = "train") -> list[dict[str, Any]]:
    """Return what training, validation or test get of an imported data set."""
    dataset = load_config(out / "config.py")[f"{split}_dataloader"].dataset
    built = DATASETS.build({**dataset, "pipeline": dataset.pipeline[:2]})
    return [built[i] for i in range(len(built))]


def cvat(root: Path, names: list[str], **lists: list[str]) -> Path:
    """Write a mask export of images of the names, and its lists."""
    for i, name in enumerate(names):
        painted = np.zeros((6, 8, 3), np.uint8)
        painted[:2, :4] = (9, 8, 7)
        mask = root / f"SegmentationClass/{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painted).save(mask)
        picture(root / f"JPEGImages/{name}.jpg", i)
    (root / "labelmap.txt").write_text("background:0,0,0::\ncar:9,8,7::\n")
    for split, listed in lists.items():
        file = root / f"ImageSets/Segmentation/{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(listed) + "\n")
    return root


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return what an import says that ends without a result."""
    with pytest.raises(SystemExit, match="2"):
        main([str(word) for word in words])
    return capsys.readouterr().err


def test_cvats_lists_name_images_with_blanks(tmp_path: Path) -> None:
    names = ["my photo 0", "my photo 1", "s 1/x", "x 2"]
    root = cvat(tmp_path / "in", names, val=["my photo 0"], train=['"my photo 1"', "s 1/x", "x 2"])
    with_bom(root / "ImageSets/Segmentation/train.txt")
    out = tmp_path / "out"
    assert main([str(root), str(out)]) == 0
    assert lines(out / "train.txt") == names[1:]
    assert lines(out / "val.txt") == names[:1]
    assert len(samples(out)) == 3


def test_lines_of_cvats_lists_that_cannot_be_used_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = cvat(tmp_path / "in", list("abcd"), train=["a", "e", "b"], val=["c", "a"])
    out = tmp_path / "out"
    told = refused(capsys, root, out)
    assert "a: stands in the lists of train and val; remove it from one of the two" in told
    assert not out.exists()
    (root / "ImageSets/Segmentation/val.txt").write_text("c\n")
    assert main([str(root), str(out)]) == 1
    assert (lines(out / "train.txt"), lines(out / "val.txt")) == (["a", "b"], ["c"])
    assert "1 images are in no list, such as d" in capsys.readouterr().out
    (left,) = lines(out / "unreadable.txt")
    assert left.endswith("train.txt:2: 'e' names no mask in SegmentationClass")


def test_cvats_images_may_have_capital_suffixes(tmp_path: Path) -> None:
    root = cvat(tmp_path / "in", ["a", "b"])
    for name in "ab":
        (root / f"JPEGImages/{name}.jpg").rename(root / f"JPEGImages/{name}.JPG")
    assert main([str(root), str(tmp_path / "out")]) == 0
    assert len(samples(tmp_path / "out")) == 1


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    with_bom(coco(tmp_path / "coco", [shape(1, 0, 3, CORNER)]))
    assert main([str(tmp_path / "coco"), str(tmp_path / "out")]) == 0
    assert (label(tmp_path / "out", "0") == grid(DRAWN)).all()
    root = tmp_path / "labelme"
    picture(root / "a.jpg")
    labelme(root, "a", [marked("road", BOX)])
    with_bom(root / "a.json")
    (tmp_path / "names.txt").write_text("road\ncar\n")
    with_bom(tmp_path / "names.txt")
    words = ["--classes", str(tmp_path / "names.txt")]
    assert main([str(root), str(tmp_path / "two"), *words]) == 0
    assert load_config(tmp_path / "two/config.py").metainfo.classes == ("background", "road", "car")
    with_bom(tmp_path / "two/train.txt")  # as an editor leaves it
    assert len(samples(tmp_path / "two")) == 1


def test_json_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    file = coco(root, [shape(1, 0, 3, CORNER)])
    whole = file.read_text()
    file.write_text(whole.replace('"annotations": [', '"annotations": [,'))
    line = next(i for i, row in enumerate(lines(file), 1) if '"annotations"' in row)
    assert f"\n  not read: {file}:{line}: Expecting value" in refused(
        capsys, root, tmp_path / "out"
    )
    (root / "good.json").write_text(whole)  # and is told where another file is read
    assert main([str(root), str(tmp_path / "out")]) == 1
    (told,) = lines(tmp_path / "out/unreadable.txt")
    assert told.startswith(f"{file}:{line}: ")


@pytest.mark.parametrize("above", [
    "photos\\", "C:\\data\\photos\\", "/home/me/photos/", "../../up/3/photos/", "http://host/photos/",
])  # fmt: skip
def test_coco_paths_of_other_machines(above: str, tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{above}{i}.png", "height": 6, "width": 8} for i in range(2)]
    coco(tmp_path / "in", [shape(1, 1, 3, CORNER)], images=images)
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert (label(tmp_path / "out", "photos/1") == grid(DRAWN)).all()


def test_cocos_own_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = coco(tmp_path, [shape(1, 1, 3, CORNER)])
    (tmp_path / "annotations").mkdir()
    train = file.rename(tmp_path / "annotations/instances_train2017.json")
    photos = (tmp_path / "photos").rename(tmp_path / "train2017")
    assert main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert (label(tmp_path / "out", "1") == grid(DRAWN)).all()
    val = coco(tmp_path, [shape(1, 0, 3, CORNER)]).rename(
        tmp_path / "annotations/instances_val2017.json"
    )
    other = (tmp_path / "photos").rename(tmp_path / "val2017")  # images of the same names
    for path in other.iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    assert main([str(tmp_path), str(tmp_path / "both")]) == 0
    both = tmp_path / "both"
    assert (label(both, "train/1") == grid(DRAWN)).all()
    assert (label(both, "val/0") == grid(DRAWN)).all()
    for split, folder in (("train", photos), ("val", other)):
        assert (both / f"{split}.txt").read_text() == f"{split}/0\n{split}/1\n"
        image = both / f"images/{split}/0.png"
        assert image.read_bytes() == (folder / "0.png").read_bytes()
    unsaid = train.rename(train.with_name("mine.json"))
    val.unlink()
    told = refused(capsys, unsaid, tmp_path / "two")  # two images may be meant
    assert f"image 0.png is both {photos / '0.png'} and {other / '0.png'}" in told
    assert "say which: --images DIR" in told
    assert main([str(unsaid), str(tmp_path / "two"), "--images", str(photos)]) == 0
    assert (tmp_path / "two/images/0.png").read_bytes() == (photos / "0.png").read_bytes()


def test_a_file_of_coco_in_the_folder_of_each_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = {"id": 0, "name": "traffic", "supercategory": "none"}
    car, tree = ({"name": name, "supercategory": "traffic"} for name in ("car", "tree"))
    categories = {
        "train": [group, {"id": 1, **car}],
        "valid": [{"id": 5, **car}, {"id": 2, **tree}, {**group, "id": 9}],  # its own numbers
        "test": [group, {"id": 1, **car}],
    }
    for split, named in categories.items():
        rows = [shape(1, 1, named[-1 if split != "valid" else 0]["id"], CORNER)]
        if split == "valid":
            rows.append(shape(2, 0, 2, CORNER))
        file = coco(tmp_path / "in" / split, rows, categories=named)
        file.rename(file.with_name("_annotations.coco.json"))
        for photo in (file.parent / "photos").iterdir():
            photo.rename(file.parent / photo.name).open("ab").write(split.encode())
    out = tmp_path / "out"
    assert main([str(tmp_path / "in"), str(out)]) == 0
    told = capsys.readouterr().out
    assert "3 classes: background, car, tree\nimages: 2 for train, 2 for val, 2 for test" in told
    assert "note: 'traffic': no object is one" in told
    assert f"{tmp_path / 'in/valid/_annotations.coco.json'}: also names 'tree', which" in told
    assert told.count("also names") == 1
    for split in ("train", "val", "test"):
        assert (label(out, f"{split}/1") == grid(DRAWN)).all()
        assert (out / f"{split}.txt").read_text() == f"{split}/0\n{split}/1\n"
    assert (label(out, "val/0") == 2 * grid(DRAWN)).all()
    images = tmp_path / "elsewhere"  # all in one place, in folders of their splits
    for split in categories:
        for photo in (tmp_path / "in" / split).glob("*.png"):
            (images / split).mkdir(parents=True, exist_ok=True)
            photo.rename(images / split / photo.name)
    assert main([str(tmp_path / "in"), str(tmp_path / "o2"), "--images", str(images)]) == 0
    assert (tmp_path / "o2/val.txt").read_text() == "val/0\nval/1\n"
    for folder, split in (("out", "val"), ("o2", "val"), ("o2", "train")):
        image = (tmp_path / folder / f"images/{split}/0.png").read_bytes()
        assert image.endswith(split.encode() if split == "train" else b"valid")
    (tmp_path / "in/train/_annotations.coco.json").rename(tmp_path / "in/valid/more.json")
    told = refused(capsys, tmp_path / "in", tmp_path / "o3")
    assert "holds 3 COCO files; name one (" in told
    assert "or leave one for each split, with train, val or test in its name" in told


@pytest.mark.parametrize("kind", ["coco", "cvat"])
def test_images_elsewhere_are_said_with_an_option(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, away = tmp_path / "in", tmp_path / "far/away"
    if kind == "coco":
        coco(root, [shape(1, 1, 3, CORNER)])
        photos = root / "photos"
    else:
        photos = cvat(root, ["0", "1"]) / "JPEGImages"
    away.mkdir(parents=True)
    for file in photos.glob("*.*g"):
        file.rename(away / file.name)
    assert "say where: --images DIR" in refused(capsys, root, tmp_path / "out")
    told = refused(capsys, root, tmp_path / "out", "--images", tmp_path / "farr")
    assert f"--images: there is no folder {tmp_path / 'farr'}" in told
    assert main([str(root), str(tmp_path / "out"), "--images", str(away)]) == 0
    assert len(samples(tmp_path / "out")) == 1


def turned(file: Path, tag: int, seed: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    pixels = np.random.RandomState(seed).randint(0, 255, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, exif=exif, quality=95)


@pytest.mark.parametrize("mixed", [False, True])
def test_photos_with_a_tag_of_orientation(mixed: bool, tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 6} for i in range(2)]
    if mixed:  # all become PNG
        images.append({"id": 2, "file_name": "2.png", "height": 6, "width": 8})
    file = coco(tmp_path / "in", [shape(1, 0, 3, CORNER)], images=images)
    for i in range(2):
        turned(tmp_path / f"in/photos/{i}.jpg", 6, i)
    picture(tmp_path / "in/photos/2.png")
    out = tmp_path / "out"
    assert main([str(file), str(out)]) == 0
    (found,) = (s for s in samples(out) if Path(s["img_path"]).stem == "0")
    assert found["img"].shape[:2] == found["gt_seg_map"].shape == (8, 6)
    assert found["gt_seg_map"][:2, :4].all()
    with Image.open(tmp_path / "in/photos/0.jpg") as photo:
        upright = np.asarray(photo.transpose(Image.Transpose.ROTATE_270))
    assert np.abs(upright[..., ::-1].astype(int) - found["img"]).max() <= 2  # two JPEG decoders


def test_photos_labelled_as_they_are_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 6, "width": 8} for i in range(2)]
    file = coco(tmp_path / "in", [shape(1, 0, 3, CORNER)], images=images)
    for i in range(2):  # which way their labels lie, nobody can know
        turned(tmp_path / f"in/photos/{i}.jpg", 6, i)
    told = refused(capsys, file, tmp_path / "out")
    why = "is 8 x 6 px, as its EXIF tag turns it, labelled as 6 x 8; remove the tag, or label it"
    assert f"0.jpg:1: {why} as it is shown" in told
    for i in range(2):
        with Image.open(tmp_path / f"in/photos/{i}.jpg") as photo:
            photo.load()
        photo.save(tmp_path / f"in/photos/{i}.jpg", exif=Image.Exif())
    assert main([str(file), str(tmp_path / "out")]) == 0
    assert (label(tmp_path / "out", "0") == grid(DRAWN)).all()


def test_classes_are_given_once_and_to_labelme_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    picture(root / "a.jpg")
    labelme(root, "a", [marked("road", BOX)])
    names = tmp_path / "labels.txt"
    names.write_text("road\nroad\n")
    told = refused(capsys, root, tmp_path / "two", "--classes", names)
    assert "--classes: names 'road' twice" in told
    coco(tmp_path / "coco", [shape(1, 0, 3, CORNER)])
    told = refused(capsys, tmp_path / "coco", tmp_path / "two", "--classes", names)
    assert "names its classes itself; leave the option out" in told


def test_labelme_files_of_no_list_of_shapes_are_told(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in "abc":
        picture(root / f"{name}.jpg")
        labelme(root, name, [marked("road", BOX)])
    values = json.loads((root / "c.json").read_text())
    (root / "c.json").write_text(json.dumps({**values, "shapes": None}))
    assert main([str(root), str(tmp_path / "out")]) == 1
    assert lines(tmp_path / "out/unreadable.txt") == [
        f"{root / 'c.json'}:1: its shapes are no list"
    ]


def test_names_that_no_file_can_have_are_told(tmp_path: Path) -> None:
    size = {"height": 6, "width": 8}
    names = ["0.png", "a\0b.png", "data:image/png;base64," + "A" * 5000, "1.png"]
    images = [{"id": i, "file_name": name, **size} for i, name in enumerate(names)]
    file = coco(tmp_path / "in", [shape(1, 0, 3, CORNER)], images=images)
    assert main([str(file), str(tmp_path / "out")]) == 1
    assert len(lines(tmp_path / "out/unreadable.txt")) == 2


def test_the_format_may_be_said_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco(tmp_path / "in", [shape(1, 0, 3, CORNER)])
    picture(tmp_path / "in/a.jpg")
    labelme(tmp_path / "in", "a", [marked("road", BOX)])
    assert "beside 1 files of LabelMe" in refused(capsys, tmp_path / "in", tmp_path / "out")
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), "--format", "coco"]) == 0
    assert load_config(tmp_path / "out/config.py").metainfo.classes[1] == "car"


def test_lists_beside_folders_name_images_with_blanks(tmp_path: Path) -> None:
    names = ["my photo 0", "my photo 1", "a/my photo 2", "3", "4"]
    for i, name in enumerate(names):
        picture(tmp_path / f"images/{name}.png", i)
        (mask := tmp_path / f"masks/{name}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(6, 8, dtype=np.uint8) * 255).save(mask)
    rows = ["my photo 0", "images/my photo 1.png masks/my photo 1.png", "a\\my photo 2.png"]
    (tmp_path / "train.txt").write_text("\n".join(rows))
    (tmp_path / "val.txt").write_text("3\n/data/images/4.png /data/masks/3.png\n")
    for split in ("train", "val"):
        with_bom(tmp_path / f"{split}.txt")
    layout, _ = read_layout(request(tmp_path))
    found = {s: [p.name for p in pairs] for s, pairs in layout.splits().items()}
    assert found == {"val": ["3", "4"], "train": ["a/my photo 2", "my photo 0", "my photo 1"]}


def test_printed_commands_may_be_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco(tmp_path / "in", [shape(1, 0, 3, CORNER)])
    out = tmp_path / "my data"
    assert main([str(tmp_path / "in"), str(out)]) == 0
    told = [shlex.split(line) for line in capsys.readouterr().out.splitlines()[-2:]]
    assert told == [["nlseg", word, str(out / "config.py")] for word in ("check-data", "train")]
    (tmp_path / "file").write_text("mine")
    told = refused(capsys, tmp_path / "in", tmp_path / "file")
    assert "file: is a file; give a new folder" in told


def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    root = cvat(tmp_path / "in", ["a", "b", "c"])
    for folder, suffix in (("SegmentationClass", ".png"), ("JPEGImages", ".jpg")):
        file = os.fsencode(root / folder)
        os.rename(file + f"/c{suffix}".encode(), file + b"/B\xe4ume" + suffix.encode())
    assert main([str(root), str(tmp_path / "out")]) == 1
    (told,) = lines(tmp_path / "out/unreadable.txt")
    assert "B\\udce4ume.jpg:1: its image: has a name that is not UTF-8; rename it" in told
    assert len(samples(tmp_path / "out")) == 1


def test_classes_in_another_encoding_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "in/a.jpg")
    labelme(tmp_path / "in", "a", [marked("road", BOX)])
    (tmp_path / "names.txt").write_bytes("Straße\n".encode("latin-1"))
    told = refused(capsys, tmp_path / "in", tmp_path / "out", "--classes", tmp_path / "names.txt")
    assert "names.txt: cannot be read: " in told
    assert "write it as UTF-8 text" in told


def test_large_pictures_are_no_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own limit
    coco(tmp_path / "in", [shape(1, 0, 3, CORNER)])
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
