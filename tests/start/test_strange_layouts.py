"""Folders as people have them beside the usual: one clear reading is taken, two true ones asked."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlseg.commands.start import build_parser, request_of
from nlseg.datasets import BaseSegDataset
from nlseg.errors import DataError, UserError
from nlseg.start.labels import Said
from nlseg.start.layout import Layout, Where, find_layout
from nlseg.start.names import Colour, Names, find_names, read_names
from nlseg.start.parts import Parts
from nlseg.start.planning import read_folder
from nlseg.start.readings import Unclear
from nlseg.start.writing import place_pairs, write_lists
from tests.start.folders import draw, request, two_folders, write

HERE = Where()


def lay_out(root: Path, *pairs: tuple[str, str]) -> set[tuple[str, str]]:
    """Write the image and the mask of each pair; return the pairs."""
    for i, (image, mask) in enumerate(pairs):
        picture, label = draw(i)
        write(root / image, picture)
        write(root / mask, label)
    return set(pairs)


def found(layout: Layout, root: Path) -> set[tuple[str, str]]:
    return {
        (pair.image.relative_to(root).as_posix(), pair.mask.relative_to(root).as_posix())
        for pair in layout.pairs
    }


SPLITS = (("train", 1), ("train", 2), ("val", 3))
SEQUENCES = [(s, i) for s in ("seq1", "seq2") for i in range(3)]
ANIMALS = ("cat", "cats", "cow", "dog", "dogs", "hen")
STRANGE = {
    "both have an end": [(f"{i}_image.png", f"{i}_mask.png") for i in range(4)],
    "ends without a sign": [(f"scan{i}Image.png", f"scan{i}Label.png") for i in range(4)],
    "sequences of folders": [(f"{s}/images/{i}.png", f"{s}/masks/{i}.png") for s, i in SEQUENCES],
    "sequences of x and y": [(f"{s}/x/{i}.png", f"{s}/y/{i}.png") for s, i in SEQUENCES],
    "sequences of ends": [(f"{s}/{i}.png", f"{s}/{i}_mask.png") for s, i in SEQUENCES],
    "sequences of file types": [(f"{s}/{i}.jpg", f"{s}/{i}.png") for s, i in SEQUENCES],
    "flipped copies": [(f"{i}{f}.png", f"{i}{f}_mask.png") for i in "12" for f in ("", "_flip")],
    "names that begin alike": [(f"{name}.png", f"{name}_mask.png") for name in ANIMALS],
    "beginnings without numbers": [(f"rgb_{name}.png", f"seg_{name}.png") for name in ANIMALS],
    "a folder for each image": [(f"case{i}/image.png", f"case{i}/label.png") for i in range(4)],
    "folders named after those above": [
        (f"p{i}/p{i}_picture/p{i}.bmp", f"p{i}/p{i}_lesion/p{i}_lesion.bmp") for i in range(4)
    ],
    "numbered channels": [(f"imagesTr/c_{i}_0000.png", f"labelsTr/c_{i}.png") for i in range(4)],
    "a mask named after the file": [(f"{i}.jpg", f"{i}.jpg_mask.png") for i in range(4)],
    "numbers before the ends": [(f"train/{i}_1.png", f"train_masks/{i}_1_m.png") for i in "abc"],
    "data and truth": [(f"Train_Data/{i}.png", f"Train_1_GroundTruth/{i}_seg.png") for i in "abc"],
    "different depths": [(f"images/{i}.png", f"annotations/trimaps/{i}.png") for i in range(4)],
    "masks below the images": [(f"{i}.png", f"masks/{i}.png") for i in range(4)],
    "split in the names of folders": [
        (f"{s}/{i}.png", f"{s}_labels/{i}_L.png") for s, i in SPLITS
    ],
    "split of img and lab": [(f"{s}_img/{i}.jpg", f"{s}_lab/{i}.png") for s, i in SPLITS],
    "split of numbered sets": [
        (f"1. Photos/{s} Set/{i}.jpg", f"2. Truth/{s} Set/{i}_EX.tif")
        for s, i in (("a. Training", 1), ("a. Training", 2), ("b. Validation", 3))
    ],
    "split inside of the names": [
        (f"S1-2_{s}_Input/{i}.jpg", f"S1_{s}_Truth/{i}_seg.png")
        for s, i in (("Training", 1), ("Training", 2), ("Validation", 3))
    ],
    "split and kind without a sign": [(f"{s}crop/{i}.jpg", f"{s}crop/{i}.png") for s, i in SPLITS],
    "split after a name": [
        (f"town_{s}/sea/Images/{i}.png", f"town_{s}/sea/Labels/{i}.png") for s, i in SPLITS
    ],
    "split said again below": [
        (f"{s}/{s}-org-img/{i}.jpg", f"{s}/{s}-label-img/{i}_lab.png") for s, i in SPLITS
    ],
    "sequences below names that both say masks": [
        (f"frames-with-annotations/{s}/{s}_{i}.png", f"annotations/{s}/{s}_{i}.png")
        for s, i in SEQUENCES
    ],
    "split in the names of files": [(f"{s}B_{i}.bmp", f"{s}B_{i}_anno.bmp") for s, i in SPLITS],
    "split of both in one": [
        (f"{s}/images/{i}.png", f"{s}/masks/{i}.png")
        for s, i in (("train_val", 1), ("train_val", 2), ("val", 3))
    ],
    "split in both names": [
        (f"{s}/images/{i}_{s}.png", f"{s}/manual/{i}_manual1.png")
        for s, i in (("training", 21), ("training", 22), ("val", 1))
    ],
    "split and kind in one word": [
        (f"{s}_images/{i}.png", f"{s}_masks/{i}.png") for s, i in SPLITS
    ],
}  # fmt: skip


@pytest.mark.parametrize("pairs", STRANGE.values(), ids=STRANGE.keys())
def test_one_clear_reading_is_taken(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    wanted = lay_out(tmp_path, *pairs)
    layout = find_layout(tmp_path, HERE)
    assert found(layout, tmp_path) == wanted
    assert layout.notes == []


def test_folders_are_given_by_their_names(tmp_path: Path) -> None:
    pairs = STRANGE["split said again below"]
    lay_out(tmp_path, *((f"set/{image}", f"set/{mask}") for image, mask in pairs))
    layout = find_layout(tmp_path, Where(images="train-org-img", masks="train-label-img"))
    assert found(layout, tmp_path) == {(f"set/{a}", f"set/{b}") for a, b in pairs[:2]}


@pytest.mark.parametrize("kind", [kind for kind in STRANGE if kind.startswith("split")])
def test_a_split_in_the_names_of_folders_is_given(kind: str, tmp_path: Path) -> None:
    lay_out(tmp_path, *STRANGE[kind])
    splits = find_layout(tmp_path, HERE).splits()
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [("D-{}/D-{}-Image", "D-{}/D-{}-Mask", ("TR", "TE")), ("images{}", "labels{}", ("Tr", "Ts"))],
)
def test_short_words_for_a_split_side_by_side(
    images: str, masks: str, words: tuple[str, str], tmp_path: Path
) -> None:
    folders = [(images.format(word, word), masks.format(word, word)) for word in words]
    lay_out(tmp_path, *((f"{a}/{i}.jpg", f"{b}/{i}.png") for i, (a, b) in enumerate(folders)))
    assert find_layout(tmp_path, HERE).splits().keys() == {"train", "test"}


@pytest.mark.parametrize("folder", ["validated_masks", "latest_masks", "contest", "a_test_masks"])
def test_a_word_that_only_holds_a_split_is_none(folder: str, tmp_path: Path) -> None:
    lay_out(tmp_path, *((f"images/{i}.png", f"{folder}/{i}.png") for i in range(3)))
    layout = find_layout(tmp_path, HERE)
    assert len(layout.pairs) == 3
    assert layout.splits() == {}


def test_a_question_is_raised_where_it_pairs_more_than_what_is_clear(tmp_path: Path) -> None:
    for i in range(6):
        write(tmp_path / f"a/{i}.png", draw(i)[0])
        write(tmp_path / f"b/{i}.png", draw(i + 9)[0])
    write(tmp_path / "a/0_mask.png", draw(0)[1])
    with pytest.raises(Unclear, match="both a and b hold pictures") as unclear:
        find_layout(tmp_path, HERE)
    for reading in unclear.value.readings:
        args = build_parser().parse_args([str(tmp_path), *reading.options])
        assert len(find_layout(tmp_path, request_of(args).where).pairs) == 6


IMAGES = (("training", 21), ("training", 22), ("test", 1))
OF_DRIVE = [
    [(f"{s}/images/{i}_{s}.png", f"{s}/1st_manual/{i}_manual1.png") for s, i in IMAGES],
    [(f"{s}/images/{i}_{s}.png", f"{s}/mask/{i}_{s}_mask.png") for s, i in IMAGES],
]
OF_CHASE = [[(f"{i}{eye}.png", f"{i}{eye}_{by}HO.png") for i in "123" for eye in "LR"]
            for by in ("1st", "2nd")]  # fmt: skip


@pytest.mark.parametrize("masks", [OF_DRIVE, OF_CHASE], ids=["DRIVE", "CHASE"])
def test_two_masks_of_each_image_are_asked_about(
    masks: list[list[tuple[str, str]]], tmp_path: Path
) -> None:
    wanted = [lay_out(tmp_path, *pairs) for pairs in masks]
    with pytest.raises(Unclear, match="which files are the images") as unclear:
        find_layout(tmp_path, HERE)
    taken = []
    for reading in unclear.value.readings:
        args = build_parser().parse_args([str(tmp_path), *reading.options])
        taken.append(found(find_layout(tmp_path, request_of(args).where), tmp_path))
    assert taken == wanted


def test_clear_readings_that_differ_are_asked_and_each_answer_works(tmp_path: Path) -> None:
    lay_out(tmp_path, *((f"{i}.png", f"{i}_mask.png") for i in range(4)))
    for i in range(4):
        write(tmp_path / f"{i}_overlay.png", draw(i + 9)[0])
    with pytest.raises(Unclear, match="which files are the images") as unclear:
        find_layout(tmp_path, HERE)
    images = []
    for reading in unclear.value.readings:
        args = build_parser().parse_args([str(tmp_path), *reading.options])
        layout = find_layout(tmp_path, request_of(args).where)
        assert {mask for _, mask in found(layout, tmp_path)} == {f"{i}_mask.png" for i in range(4)}
        images.append({image for image, _ in found(layout, tmp_path)})
    assert {frozenset(one) for one in images} == {
        frozenset(f"{i}{end}.png" for i in range(4)) for end in ("", "_overlay")
    }


def test_pictures_of_no_pair_are_told(tmp_path: Path) -> None:
    two_folders(tmp_path)
    write(tmp_path / "logo.png", draw(9)[0])
    (note,) = find_layout(tmp_path, HERE).notes
    assert note == f"1 other pictures are left out, such as {tmp_path / 'logo.png'}"


def test_masks_alone_leave_the_other_files_as_images(tmp_path: Path) -> None:
    wanted = lay_out(tmp_path, *STRANGE["masks below the images"])
    assert found(find_layout(tmp_path, Where(masks="masks")), tmp_path) == wanted


def test_a_file_beside_a_partner_of_the_same_name_is_still_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, *STRANGE["sequences of folders"])
    write(tmp_path / "seq1/images/1.jpg", draw(9)[0])
    with pytest.raises(UserError, match=r"images/1\.png: .*images/1\.jpg has the same name"):
        find_layout(tmp_path, HERE)


PAINT = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], np.uint8)


def paint(root: Path, colours: np.ndarray) -> Path:
    """Write images and masks painted in colours."""
    two_folders(root, values=tuple(range(len(colours))))
    for file in (root / "masks").iterdir():
        with Image.open(file) as label:
            Image.fromarray(colours[np.asarray(label)]).save(file)
    return root


def test_names_alone_are_not_given_to_colours(tmp_path: Path) -> None:
    root = paint(tmp_path / "data", PAINT)
    (root / "classes.txt").write_text("sea\nred\ngreen\n")
    with pytest.raises(UserError, match=r"painted in 0,0,255 \(.*such as sea,0,0,255") as refused:
        read_folder(request(root), progress=False)
    assert "name,red,green,blue on each line" in str(refused.value)
    table = tmp_path / "colours.txt"
    table.write_text("sea,0,0,255\nred,255,0,0\ngreen,0,255,0\n")
    args = ["--classes", str(table), "--out", str(tmp_path / "my_data.py")]
    labels = read_folder(request_of(build_parser().parse_args([str(root), *args]))).labels
    named = dict(zip(labels.values, labels.classes, strict=True))
    assert named == {(0, 0, 255): "sea", (255, 0, 0): "red", (0, 255, 0): "green"}


@pytest.mark.parametrize(
    ("colour", "names", "wanted"),
    [
        (255, "ground\nsnow\n", ("ground", "snow")),  # greys have an order
        (255, "snow\n", ("background", "snow")),
        ((9, 0, 0), "snow\n", ("background", "snow")),  # black is the other one
    ],
)
def test_names_of_black_and_one_colour_need_no_table(
    colour: object, names: str, wanted: tuple[str, ...], tmp_path: Path
) -> None:
    paints = np.zeros((2, 3), np.uint8)
    paints[1] = colour
    root = paint(tmp_path / "data", paints)
    (root / "classes.txt").write_text(names)
    assert read_folder(request(root), progress=False).labels.classes == wanted


def smooth(label: np.ndarray) -> np.ndarray:
    """Save a mask as JPEG and read it again."""
    stream = io.BytesIO()
    Image.fromarray(label).save(stream, "JPEG", quality=90)
    return np.asarray(Image.open(stream))


def blurred(label: np.ndarray) -> np.ndarray:
    """Resize a mask to eight times its size, smoothly."""
    return np.asarray(Image.fromarray(label).resize((256, 192), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("damage", [smooth, blurred])
def test_black_and_white_masks_with_greys_are_refused_and_the_remedy_helps(
    damage: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for i in range(4):
        image, label = draw(i)
        label = damage(label)
        write(root / f"images/{i}.png", np.resize(image, (*label.shape, 3)))
        write(root / f"masks/{i}.png", label)
    with pytest.raises(DataError, match=r"masks/0\.png: the masks hold \d+ greys") as refused:
        read_folder(request(root), progress=False)
    assert "store 0 below 128 and 255 above" in str(refused.value)
    for file in (root / "masks").iterdir():
        with Image.open(file) as label:
            write(file, np.where(np.asarray(label) < 128, 0, 255).astype(np.uint8))
    assert read_folder(request(root), progress=False).labels.values == (0, 255)


def test_many_classes_and_an_ignored_border_are_no_blur(tmp_path: Path) -> None:
    root = two_folders(tmp_path / "data", values=(*range(24), 255))
    said = Said(background=0, ignore=(255,))
    labels = read_folder(request(root, said=said), progress=False).labels
    assert labels.values == tuple(range(24))


def test_folders_whose_names_say_it_need_no_question_beside_others(tmp_path: Path) -> None:
    two_folders(tmp_path)
    for i in range(4):
        write(tmp_path / f"overlays/{i}.png", draw(i + 9)[0])
    layout = find_layout(tmp_path, HERE)
    assert {pair.image.parent.name for pair in layout.pairs} == {"images"}
    assert layout.notes == [f"4 other pictures are left out, such as {tmp_path / 'overlays/0.png'}"]


def test_masks_of_single_objects_are_no_images_of_each_other(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"images/{i}.png", draw(i)[0])
        for part in range(3):
            write(tmp_path / f"masks/{i}_{part}.png", draw(i)[1])
    with pytest.raises(UserError, match="no image and mask have the same name"):
        find_layout(tmp_path, HERE)
    for path in (tmp_path / "masks").iterdir():  # are of two kinds now, beside images of others
        path.rename(path.with_name(f"x{path.stem[0]}_{'abc'[int(path.stem[2])]}.png"))
    for old, new in zip("012", ("cow", "dog", "hen"), strict=True):
        (tmp_path / f"images/{old}.png").rename(tmp_path / f"images/{new}.png")
    with pytest.raises(UserError, match=r"same name .* such as .*images/cow.png and .*masks/x0_a"):
        find_layout(tmp_path, HERE)


def test_images_of_one_name_in_folders_of_their_own_train(tmp_path: Path) -> None:
    root = tmp_path / "data"
    lay_out(root, *STRANGE["a folder for each image"])
    asked = request(root)
    pairs = find_layout(root, HERE).pairs
    place, note = place_pairs(root, pairs, asked.files)
    parts = Parts(pairs[:3], pairs[3:], pairs[3:], "")
    lists = write_lists(parts, place, asked.files)
    dataset = BaseSegDataset(
        ann_file=str(lists["train"]), data_root=str(place.root), img_suffix=place.image_suffix,
        seg_map_suffix=place.mask_suffix, metainfo={"classes": ("a", "b")},
        data_prefix={"img_path": place.images, "seg_map_path": place.masks},
    )  # fmt: skip
    assert [(Path(dataset[i]["img_path"]), Path(dataset[i]["seg_map_path"])) for i in range(3)] == [
        (pair.image, pair.mask) for pair in pairs[:3]
    ]
    assert note == ""


def test_photos_that_differ_by_a_word_are_no_masks_of_each_other(tmp_path: Path) -> None:
    for i in range(3):
        for time in ("day", "night"):
            write(tmp_path / f"{i}_{time}.png", draw(i)[0])
    with pytest.raises(UserError, match=r"holds 6 pictures .* and no masks for them"):
        find_layout(tmp_path, HERE)


@pytest.mark.parametrize("copied", [np.fliplr, np.flipud, np.rot90], ids=lambda f: f.__name__)
def test_augmented_copies_are_not_split_from_their_image(
    copied: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for i in range(6):
        image, label = (np.repeat(np.repeat(x, 4, 0), 4, 1) for x in draw(i))
        for end, change in (("", np.array), ("_copy", copied)):
            write(root / f"{i}{end}.png", change(image))
            write(root / f"{i}{end}_mask.png", change(label))
    found = read_folder(request(root), progress=False)
    assert "6 groups, the largest of 2" in found.parts.reason
    sides = [
        {pair.image.name[0] for pair in part} for part in (found.parts.train, found.parts.test)
    ]
    assert sides[0] & sides[1] == set()


SKY_SEA = {"sky": (1, 2, 3), "open sea": (4, 5, 6)}


@pytest.mark.parametrize(
    ("text", "values", "colours"),
    [
        ("id,name,r,g,b\n0,sky,1,2,3\n7,open sea,4,5,6\n", {"sky": 0, "open sea": 7}, SKY_SEA),
        ("id;name\n0;sky\n7;open sea\n", {"sky": 0, "open sea": 7}, {}),
        ("name,index\nsky,0\nopen sea,7\n", {"sky": 0, "open sea": 7}, {}),
        ("Class, Red, Green, Blue\nsky, 1, 2, 3\nopen sea, 4, 5, 6\n", {}, SKY_SEA),
        ("0 sky 1 2 3\n7 open sea 4 5 6\n", {"sky": 0, "open sea": 7}, SKY_SEA),
        ("sky 1 2 3\nopen sea\t4\t5\t6\n", {}, SKY_SEA),
        ("sky;1;2;3\nopen sea;4;5;6\n", {}, SKY_SEA),
        ("sky:1,2,3:part:act\nopen sea:4,5,6::\n", {}, SKY_SEA),
    ],
)
def test_tables_of_names(
    text: str, values: dict[str, int], colours: dict[str, Colour], tmp_path: Path
) -> None:
    file = tmp_path / "classes.csv"
    file.write_text(text)
    assert read_names(file) == Names(str(file), ["sky", "open sea"], values, colours)


def test_a_name_that_begins_with_a_number_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("2 wheeler,1,2,3\nclass 1,4,5,6\n7 8 9 4wd\n")
    colours = {"2 wheeler": (1, 2, 3), "class 1": (4, 5, 6), "4wd": (7, 8, 9)}
    assert read_names(file).colours == colours


def test_names_that_are_given(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("name r g b\nwhite 255 255 255\nroad 256 0 0\n")
    with pytest.raises(UserError, match="mine: 'road 256 0 0' has no colour of three levels"):
        find_names(tmp_path, "mine")
    (tmp_path / "mine").write_text("name r g b\nwhite 255 255 255\n")
    assert find_names(tmp_path, "mine").colours == {"white": (255, 255, 255)}  # type: ignore[union-attr]
    assert find_names(tmp_path, "sea, sky").listed == ["sea", "sky"]  # type: ignore[union-attr]
    described = [
        {"name": "nature--sea", "readable": "Sea", "color": [1, 2, 3]},
        {"name": "void--unlabeled", "readable": "Unlabeled", "color": [4, 5, 6]},
    ]
    (tmp_path / "config.json").write_text(json.dumps({"labels": described, "version": "1.1"}))
    of_mapillary = find_names(tmp_path, None)
    assert of_mapillary is not None
    assert of_mapillary.colours == {"Sea": (1, 2, 3), "Unlabeled": (4, 5, 6)}
    assert of_mapillary.listed == ["Sea", "Unlabeled"]
    (tmp_path / "config.json").write_text('{"labels": 3}')  # of another program
    assert find_names(tmp_path, None) is None
    for given, why in {
        "sea": "is neither a file nor names with commas between",
        "sea,,sky": "holds an empty name", "sea,sky,sea": "names 'sea' twice",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=why):
            find_names(tmp_path, given)


def test_a_row_that_does_not_fit_its_titles_is_named(tmp_path: Path) -> None:
    file = tmp_path / "classes.csv"
    for row in ("seven,sea", "7"):
        file.write_text(f"id,name\n0,sky\n{row}\n")
        with pytest.raises(UserError, match=f"row 3, '{row}', does not fit the titles 'id,name'"):
            read_names(file)
