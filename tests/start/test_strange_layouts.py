"""Folders as people have them beside the usual: one clear reading is taken, two true ones asked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlseg.commands.start import build_parser, request_of
from nlseg.errors import UserError
from nlseg.start.layout import Layout, Where, find_layout
from nlseg.start.planning import read_folder
from nlseg.start.readings import Unclear
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
    "different depths": [(f"images/{i}.png", f"annotations/trimaps/{i}.png") for i in range(4)],
    "masks below the images": [(f"{i}.png", f"masks/{i}.png") for i in range(4)],
    "split in the names of folders": [
        (f"{s}/{i}.png", f"{s}_labels/{i}_L.png") for s, i in SPLITS
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


@pytest.mark.parametrize("kind", ["split in the names of folders", "split and kind in one word"])
def test_a_split_in_the_names_of_folders_is_given(kind: str, tmp_path: Path) -> None:
    lay_out(tmp_path, *STRANGE[kind])
    splits = find_layout(tmp_path, HERE).splits()
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize("folder", ["validated_masks", "latest_masks", "contest"])
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
