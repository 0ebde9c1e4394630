"""Splits that list files give: ``train.txt`` beside ``val.txt`` or ``test.txt``."""

from collections.abc import Mapping
from pathlib import Path

from nlseg.errors import UserError
from nlseg.intake.rows import SPLITS, names_in, read_lines
from nlseg.start.layout import Layout, Pair, folders_between

FOLDERS = (
    "", "ImageSets/Segmentation", "ImageSets/SegmentationContext", "ImageSets", "splits", "lists",
    "annotations",
)  # fmt: skip


def take_lists(root: Path, layout: Layout) -> None:
    """Take the splits of list files, where folders do not say any.

    Args:
        root: Folder of the data.
        layout: Its pairs; those that no list names are left out.

    Raises:
        UserError: A line names no image, or one that stands in another list, too.
    """
    if layout.splits():
        return
    places = [root, *folders_between(root, [pair.image for pair in layout.pairs])]
    root, lists = next(((place, found) for place in places if (found := _lists(place))), (root, {}))
    if not lists:
        return
    known = _by_names(root, layout)
    chosen: dict[Pair, str] = {}
    for split, file in lists.items():
        _read_list(file, split, known, chosen, lists)
    left = len(layout.pairs) - len(chosen)
    if left:
        layout.notes.append(f"{left} pairs that no list names are left out")
    layout.pairs = [pair._replace(split=chosen[pair]) for pair in layout.pairs if pair in chosen]
    layout.kind += f", split by {', '.join(file.name for file in lists.values())}"


def _lists(root: Path) -> dict[str, Path]:
    """Return the list of each split, if there are that of the training and another one."""
    lists = {
        split: file
        for folder in FOLDERS
        for word, split in SPLITS.items()
        if (file := root / folder / f"{word}.txt").is_file()
    }
    both = [file for folder in FOLDERS if (file := root / folder / "trainval.txt").is_file()]
    if both and list(lists) == ["test"]:
        lists = {"train": both[0], **lists}
    return lists if "train" in lists and len(lists) > 1 else {}


def _by_names(root: Path, layout: Layout) -> dict[str, set[Pair]]:
    """Return the pairs under everything that a list may call them."""
    known: dict[str, set[Pair]] = {}
    for pair in layout.pairs:
        relative = pair.image.relative_to(root) if pair.image.is_relative_to(root) else pair.image
        for key in {
            pair.name, pair.image.name, pair.image.stem, pair.name.rpartition("/")[2],
            relative.as_posix(), relative.with_suffix("").as_posix(),
        }:  # fmt: skip
            known.setdefault(key, set()).add(pair)
    return known


def _read_list(
    file: Path, split: str, known: Mapping[str, set[Pair]], chosen: dict[Pair, str],
    lists: Mapping[str, Path],
) -> None:  # fmt: skip
    """Note the split of each pair that a list names; of two columns the first counts."""
    for number, line in read_lines(file):
        names = [name.replace("\\", "/").removeprefix("./").lstrip("/") for name in names_in(line)]
        names += [Path(name).name for name in names[:2]]  # of a column, not of all of them
        fitting = next((known[name] for name in names if name in known), set())
        if len(fitting) != 1:
            why = "fits several images" if fitting else "names no image with a mask"
            raise UserError(
                f"{file}:{number}: {line!r} {why}; correct the line, or remove the lists for a "
                "split that is made"
            )
        (pair,) = fitting
        if chosen.setdefault(pair, split) != split:
            raise UserError(
                f"{file}:{number}: {line!r} stands in {lists[chosen[pair]].name}, too; remove it "
                "from one of the two"
            )
    if split not in chosen.values():
        raise UserError(f"{file}: is empty; list names of images, or remove it")
