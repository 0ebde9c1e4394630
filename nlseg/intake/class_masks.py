"""Masks of one class each: several an image, in folders of their classes or told apart by ends.

Such as ``masks/cat/7.png`` and ``masks/dog/7.png``, or ``7_cat.png`` and ``7_dog.png``. What is not
0 or black is of the class. The classes are in the order of the folders, or of the ends. Where masks
overlap, the one with fewer pixels lies on top.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from nlseg.datasets.pairs import walk
from nlseg.errors import UserError
from nlseg.intake.rows import Export, Labelled, split_in
from nlseg.intake.shapes import Mask, Region, draw, small_on_top
from nlseg.pictures import IMAGE_SUFFIXES, open_picture

MOST_CLASSES = 64
_LOOKED_AT = 3
_FEW = 64
"""A file of more values or colours is no label map."""


class _Key(NamedTuple):
    """What an image shares with its masks."""

    split: str
    stem: str


@dataclass(frozen=True)
class ClassMasks:
    """What lies in a folder.

    Args:
        images: Image files.
        masks: Mask files of each image, by the name of the class.
        lacking: Images without a mask.
        alone: Masks without an image.
        groups: Folder of each class, from the root, and what its names end with.
    """

    images: dict[_Key, Path]
    masks: dict[str, dict[_Key, Path]]
    lacking: list[Path]
    alone: list[Path]
    groups: dict[str, tuple[str, str]]


class _Group(NamedTuple):
    """Files that are told apart from others by the same things."""

    folders: tuple[str, ...]
    end: str


def find_class_masks(root: Path, names: Iterator[str] | None = None) -> ClassMasks | None:
    """Return images and masks of one class each; None where a folder holds something else.

    Args:
        root: The folder.
        names: Its files, as paths from there; None for all.
    """
    files = [Path(name) for name in sorted(walk(str(root)) if names is None else names)]
    files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    groups: dict[_Group, list[tuple[_Key, Path]]] = {}
    stems = {file.stem for file in files}
    for file in files:
        stem = _stem_of_image(file.stem, stems)
        splits = [split_in(part) for part in file.parts[:-1]]
        folders = tuple(p for p, split in zip(file.parts[:-1], splits, strict=True) if not split)
        key = _Key(next(filter(None, splits), ""), stem)
        groups.setdefault(_Group(folders, file.stem[len(stem) :]), []).append((key, root / file))
        if len(groups) > 2 * MOST_CLASSES:
            return None
    looks = {group: look_at([path for _, path in found]) for group, found in groups.items()}
    if "other" in looks.values():
        return None
    images = [one for group, found in groups.items() if looks[group] == "image" for one in found]
    masks = {group: dict(found) for group, found in groups.items() if looks[group] == "mask"}
    whole = all(len(masks[group]) == len(groups[group]) for group in masks)
    if not whole or len(dict(images)) < len(images):  # two files for one thing
        return None
    return _arrange(dict(images), masks)


def _arrange(
    images: dict[_Key, Path], masks: Mapping[_Group, dict[_Key, Path]]
) -> ClassMasks | None:
    names = _names_of(list(masks))
    named = {names[group]: found for group, found in sorted(masks.items(), key=_in_order)}
    alone = [path for found in named.values() for key, path in found.items() if key not in images]
    of_image = {key: sum(key in found for found in named.values()) for key in images}
    total = sum(of_image.values())
    several = len(named) == len(masks) > 1 and max(of_image.values(), default=0) > 1
    if not several or total < len(alone):
        return None
    return ClassMasks(
        images,
        named,
        [images[key] for key, count in of_image.items() if not count],
        alone,
        {names[group]: ("/".join(group.folders), group.end) for group in masks},
    )


def _stem_of_image(stem: str, stems: set[str]) -> str:
    """Return the longest other name that a name begins with, up to a sign; else the name."""
    for cut in range(len(stem) - 1, 0, -1):
        if not stem[cut].isalnum() and stem[:cut] in stems:
            return stem[:cut]
    return stem


def look_at(paths: Sequence[Path]) -> str:
    """Return what most of a few files are: ``image``, ``mask`` of one class, or ``other``."""
    kinds: Counter[str] = Counter()
    for path in paths[:: max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT]:
        try:
            values = _count_values(path)
        except (OSError, ValueError, SyntaxError):
            continue
        kinds["mask" if values <= 2 else "other" if values <= _FEW else "image"] += 1
    most = kinds.most_common(1)
    return most[0][0] if most and 2 * most[0][1] > kinds.total() else "other"


def _count_values(path: Path) -> int:
    with path.open("rb") as file, open_picture(file) as picture:
        array = np.asarray(picture)
    step = max(1, max(array.shape[:2]) // 1024)
    pixels = array[::step, ::step].reshape(-1, *array.shape[2:])
    return len(np.unique(pixels, axis=0))


def _in_order(item: tuple[_Group, object]) -> list[tuple[int, str]]:
    """Order groups by their names, numbers in them by their size."""
    text = "/".join((*item[0].folders, item[0].end))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _names_of(groups: Sequence[_Group]) -> dict[_Group, str]:
    """Name classes by the folders that differ, by the ends where these do not tell them apart."""
    folders = [group.folders for group in groups]
    same = 0
    while (
        folders
        and len({f[: same + 1] for f in folders}) == 1
        and all(len(f) > same for f in folders)
    ):
        same += 1
    below = {group: "/".join(_plain(part) for part in group.folders[same:]) for group in groups}
    if len(set(below.values())) == len(groups):
        return below
    return {group: " ".join(filter(None, (below[group], _plain(group.end)))) for group in groups}


def _plain(name: str) -> str:
    """Return a name without a number before it and signs around it."""
    return re.sub(r"^\d+[.)]?[ _-]+", "", name).strip(" _-.") or name


def read_class_masks(folder: Path, *, unlabelled: int) -> tuple[Export, Iterator[Labelled]]:
    """Read a folder of images and of masks of one class each.

    Args:
        folder: The folder.
        unlabelled: 0: what no mask covers is class 0, ``background``; 255: it is ignored.

    Returns:
        The classes and what could not be read, and the images; the second fills the first while it
        is walked through.

    Raises:
        UserError: The folder holds no such masks.
    """
    found = find_class_masks(folder)
    if found is None:
        raise UserError(
            f"{folder}: holds no images with masks of one class each; put the masks of each class "
            "into a folder of its own, with the names of the images, beside a folder of images"
        )
    names = [name for name in found.masks if name.lower() != "background"]
    export = Export(("background", *names) if unlabelled == 0 else tuple(names))
    for what, files in (
        ("images without a mask", found.lacking),
        ("masks without an image", found.alone),
    ):
        if files:
            export.notes.append(f"{len(files)} {what} are left out, such as {min(files)}")
    return export, _images(folder, found, export, unlabelled)


def _images(folder: Path, found: ClassMasks, export: Export, unlabelled: int) -> Iterator[Labelled]:
    for key, image in found.images.items():
        regions: list[Region] = []
        size = None
        for name, masks in found.masks.items():
            if key not in masks or name not in export.classes:
                continue
            try:
                mask = read_mask(masks[key])
            except (OSError, ValueError, SyntaxError) as error:
                known = not isinstance(error, UnidentifiedImageError)
                why = error if known else "is no picture that can be read"
                export.leave_out(masks[key], 1, why)
                continue
            if size not in (None, mask.shape):
                export.leave_out(masks[key], 1, f"is {mask.shape}, another mask of it {size}")
                continue
            size = mask.shape
            regions.append(Region(export.classes.index(name), mask))
        if size is not None:
            height, width = size
            label = draw(small_on_top(regions), (height, width), unlabelled)
            stem = image.relative_to(folder).with_suffix("").as_posix()
            if key.split:
                export.splits.setdefault(key.split, []).append(stem)
            yield Labelled(stem, image, label)


def read_mask(path: Path) -> Mask:
    """Return the pixels (H, W) of a class.

    Raises:
        ValueError: The file holds more than two values.
    """
    with path.open("rb") as file, open_picture(file) as picture:
        array: NDArray[np.generic] = np.asarray(picture)
        bands = picture.getbands()
    if bands[-1:] == ("A",):
        array = array[..., :-1]
    values = np.unique(array.reshape(-1, *array.shape[2:]), axis=0)
    if len(values) > 2:
        raise ValueError(f"holds {len(values)} values; a mask of one class has two")
    covered: Mask = array != 0
    return covered if covered.ndim == 2 else np.asarray(covered.any(axis=2))
