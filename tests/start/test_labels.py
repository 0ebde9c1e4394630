"""Values of masks to classes, by small tables of values; what may be two things is asked."""

import os
from pathlib import Path
from typing import Any

import cv2
import pytest

from nlseg.errors import UserError
from nlseg.start.labels import Labels, Said, Value, parse_value, read_labels
from nlseg.start.layout import Layout, Pair
from nlseg.start.names import Names, find_names, read_names
from nlseg.start.planning import read_folder
from nlseg.start.readings import Unclear
from nlseg.start.writing import place_pairs
from tests.start.folders import draw, request, write

PAIR = Pair("a", Path("images/a.png"), Path("masks/a.png"))


def decide(values: dict[Any, int], names: Names | None = None, *, said: Said = Said(),  # noqa: B008
           **layout: Any) -> Labels:  # fmt: skip
    facts: dict[str, Any] = {"error": None, "dtype": "uint8", "format": "PNG"}
    if isinstance(next(iter(values)), tuple):
        facts |= {"colours": [[*c, n] for c, n in values.items()], "num_colours": len(values)}
    else:
        facts["values"] = {str(v): n for v, n in values.items()}
    return read_labels(
        Layout("", [PAIR], **layout), {("label", str(PAIR.mask)): facts}, names, said
    )


def named(*names: str, **more: Any) -> Names:
    return Names("classes.txt", list(names), **more)


def dense(*values: Value) -> dict[Value, int]:
    return dict.fromkeys(values, 100)


@pytest.mark.parametrize(
    ("values", "names", "said", "classes", "table"),
    [
        (dense(0, 255), None, Said(), ("background", "foreground"), {255: 1}),
        (dense(0, 255), named("skin", "mole"), Said(), ("skin", "mole"), {255: 1}),
        (dense(0, 255), named("mole"), Said(), ("background", "mole"), {255: 1}),
        (dense(0, 1), None, Said(), ("background", "foreground"), {}),
        (dense(0, 1, 2), named("sky", "sea", "sand"), Said(), ("sky", "sea", "sand"), {}),
        (dense(0, 1, 2, 255), named("sky", "sea", "sand"), Said(), ("sky", "sea", "sand"), {}),
        (dense(0, 1, 2, 9), named("sky", "sea", "sand"), Said(ignore=(9,)),
         ("sky", "sea", "sand"), {9: 255}),
        (dense(0, 1, 2), None, Said(background=0), ("background", "class_1", "class_2"), {}),
        (dense(0, 1, 2), None, Said(ignore=(0,)), ("class_1", "class_2"), {1: 0, 2: 1, 0: 255}),
        (dense(0, 1, 2, 255), None, Said(ignore=(255,)), ("class_0", "class_1", "class_2"), {}),
        (dense(0, 1, 2), named("void", "sea", "sand"), Said(), ("sea", "sand"),
         {1: 0, 2: 1, 0: 255}),
        (dense(0, 1), named("sky", "sea", colours={"sky": (9, 9, 9), "sea": (0, 0, 9)}), Said(),
         ("sky", "sea"), {}),
        (dense(3, 7), named("a", "b", values={"a": 7, "b": 3}), Said(), ("b", "a"), {3: 0, 7: 1}),
        (dense((0, 0, 0), (255, 255, 255)), None, Said(), ("background", "foreground"),
         {(0, 0, 0): 0, (255, 255, 255): 1}),
        (dense((0, 0, 9), (0, 9, 0)), named("x", "y", colours={"x": (0, 9, 0), "y": (0, 0, 9)}),
         Said(), ("y", "x"), {(0, 0, 9): 0, (0, 9, 0): 1}),
    ],
)  # fmt: skip
def test_classes_and_table(
    values: dict[Value, int], names: Names | None, said: Said, classes: tuple[str, ...],
    table: dict[Value, int],
) -> None:  # fmt: skip
    labels = decide(values, names, said=said)
    assert labels.classes == classes
    assert {v: n for v, n in labels.table().items() if v != n} == table
    assert len(labels.palette) == len(classes)


@pytest.mark.parametrize(
    ("values", "names", "options"),
    [
        (dense(0, 1, 2, 255), None, [("--ignore", "255"), ("--keep", "255")]),
        (dense(0, 1, 2), None, [("--background", "0"), ("--ignore", "0")]),
        (dense(0, 1, 2), named("sea", "sand"), [("--background", "0"), ("--ignore", "0")]),
        (dense(0, 1, 255), named("a", "b", "c"), [("--keep", "255"), ("--ignore", "255")]),
        (dense((0, 0, 0), (255, 0, 0), (0, 255, 0)), None,
         [("--background", "0,0,0"), ("--ignore", "0,0,0")]),
    ],
)  # fmt: skip
def test_what_may_be_two_things_is_asked_and_each_answer_is_taken(
    values: dict[Value, int], names: Names | None, options: list[tuple[str, str]]
) -> None:
    with pytest.raises(Unclear) as unclear:
        decide(values, names)
    assert [reading.options for reading in unclear.value.readings] == options
    taken = set()
    for option, value in options:
        given = parse_value(value)
        said = Said(**{option[2:]: given if option == "--background" else (given,)})
        while True:
            try:
                labels = decide(values, names, said=said)
                break
            except Unclear as next_one:  # what 0 is comes after what 255 is
                more = next_one.readings[0].options
                said = said._replace(background=parse_value(more[1]))
        taken.add((labels.classes, labels.ignored))
    assert len(taken) == 2


def test_numbers_of_objects_may_be_one_class(tmp_path: Path) -> None:
    for count in (2, 3, 4):
        image, mask = draw(count, tuple(range(count)))
        write(tmp_path / f"images/{count}.png", image)
        write(tmp_path / f"masks/{count}.png", mask)
    with pytest.raises(Unclear) as unclear:
        read_folder(request(tmp_path), progress=False)
    assert unclear.value.readings[-1].options == ("--binary", "1")
    found = read_folder(request(tmp_path, binary=1), progress=False)
    assert found.labels.classes == ("background", "foreground")
    pair = found.layout.pairs[-1]
    assert ((cv2.imread(str(pair.mask), -1) > 0) == (mask > 0)).all()
    pairs = [one._replace(mask=Path(os.path.relpath(one.mask))) for one in found.layout.pairs]
    place, note = place_pairs(tmp_path, pairs, tmp_path)  # beside a config that is given so
    for folder, path in ((place.images, pair.image), (place.masks, pair.mask)):
        assert (place.root / folder / f"{place.stems[pair.name]}.png").samefile(path)
    assert place.root == tmp_path
    assert note == ""


def test_a_question_says_who_names_the_classes_and_how_many_pixels_it_is_about() -> None:
    with pytest.raises(Unclear, match=r"and no file names the classes; what is 0 \(25.0 % of"):
        decide({0: 100, 1: 200, 2: 100})
    with pytest.raises(Unclear, match=r"and the names do not count it; what is 0 \(25.0 % of"):
        decide({0: 100, 1: 200, 2: 100}, named("sea", "sand"))


def test_colours_of_classes_are_the_files_own_where_they_differ() -> None:
    facts = {"error": None, "dtype": "uint8", "format": "PNG", "values": {"0": 9, "1": 9}}

    def palette(stored: dict[str, list[int]], names: Names | None = None) -> Any:
        own = {("label", str(PAIR.mask)): {**facts, "palette": stored}}
        return read_labels(Layout("", [PAIR]), own, names, Said()).palette

    assert palette({"0": [1, 2, 3], "1": [4, 5, 6]}) == ((1, 2, 3), (4, 5, 6))
    named_so = named("a", "b", colours={"a": (7, 7, 7), "b": (8, 8, 8)})
    assert palette({"0": [1, 2, 3], "1": [4, 5, 6]}, named_so) == ((7, 7, 7), (8, 8, 8))
    drawn = palette({})
    assert len(set(drawn)) == 2
    assert palette({"0": [9, 9, 9], "1": [9, 9, 9]}) == drawn  # a grey file's palette says nothing


def test_greys_in_even_steps_are_classes_and_voc_ignores_255() -> None:
    labels = decide(dense(0, 85, 170, 255), said=Said(background=0))
    assert labels.values == (0, 85, 170, 255)
    assert decide(dense(0, 1, 2, 255), voc=True).ignored == (255,)
    assert "border" in " ".join(decide(dense(0, 1, 2, 255), voc=True).reasons)


def test_what_is_said_must_be_there_and_be_one_thing() -> None:
    with pytest.raises(UserError, match="--ignore 7: no mask holds it; the masks hold 0, 1"):
        decide(dense(0, 1), said=Said(ignore=(7,)))
    with pytest.raises(UserError, match="is named as a class, too"):
        decide(dense(0, 1, 2), said=Said(ignore=(0,), background=0))
    with pytest.raises(UserError, match="has no name for 5"):
        decide(dense(0, 1, 5), named("a", "b", values={"a": 0, "b": 1}))
    with pytest.raises(UserError, match="neither a value"):
        parse_value("red")


def test_a_mask_of_nearly_all_values_is_none() -> None:
    assert len(decide(dense(*range(250)), said=Said(background=0)).classes) == 250
    with pytest.raises(UserError, match="holds 251 values: it was saved with loss, or is no mask"):
        decide(dense(*range(251)), said=Said(background=0))


BY_VALUE = named("sky", "the sea", values={"sky": 0, "the sea": 5})
BY_COLOUR = named("sky", "sea", colours={"sky": (1, 2, 3), "sea": (4, 5, 6)})


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("classes.txt", "sky\nsea\n", named("sky", "sea")),
        ("labels.txt", "0 sky\n5: the sea\n", BY_VALUE),
        ("class_dict.csv", "name,r,g,b\nsky,1,2,3\nsea,4,5,6\n", BY_COLOUR),
        ("labelmap.txt", "# label:color_rgb\nsky:1,2,3::\nsea:4,5,6::\n", BY_COLOUR),
        ("label_colors.txt", "1 2 3\tsky\n4 5 6\tsea\n", BY_COLOUR),
        ("classes.json", '{"0": "sky", "5": "the sea"}', BY_VALUE),
        ("classes.json", '["sky", "sea"]', named("sky", "sea")),
        ("train/_classes.csv", "Pixel Value, Class\n0, sky\n5, the sea\n", BY_VALUE),
    ],
)
def test_files_of_names(name: str, text: str, wanted: Names, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    found = read_names(file)
    assert (found.listed, found.values, found.colours) == (
        wanted.listed, wanted.values, wanted.colours,
    )  # fmt: skip
    assert find_names(tmp_path, None) == found


def test_two_files_of_names_are_refused(tmp_path: Path) -> None:
    for name in ("classes.txt", "labels.txt"):
        (tmp_path / name).write_text("a\nb\n")
    with pytest.raises(UserError, match="say which: --classes"):
        find_names(tmp_path, None)
    for name, text in (("train", "a\nb\n"), ("val", "a\nb\n"), ("test", "b\na\n")):
        (tmp_path / "split" / name).mkdir(parents=True)
        (tmp_path / "split" / name / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=r"test/classes.txt and .*val/classes.txt both name"):
        find_names(tmp_path / "split", None)
    (tmp_path / "split/test/classes.txt").unlink()
    named_so = find_names(tmp_path / "split", None)
    assert named_so is not None
    assert named_so.listed == ["a", "b"]
    assert find_names(tmp_path, "labels.txt") == Names(str(tmp_path / "labels.txt"), ["a", "b"])
