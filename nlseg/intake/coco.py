"""COCO's JSON: polygons and run lengths, in one file, or in one for each split.

The classes are the categories in the order of their ids, numbers before texts; a category
``background`` is what no object covers, and one without objects in which others are grouped is
none. Several files agree by the categories' names. Several polygons of one annotation are
parts of one object, and are joined. Of overlapping objects the smaller one lies on top; crowds
(``iscrowd``) lie below all others. Holes are kept where the format has them: in run lengths.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from PIL import UnidentifiedImageError

from nlseg.datasets.transforms.decode import shown_size
from nlseg.errors import DataError
from nlseg.intake.rows import (
    SPLITS,
    Export,
    Labelled,
    Row,
    checked_size,
    lost,
    read_json,
    rows_of,
    split_in,
)
from nlseg.intake.shapes import (
    Mask,
    Region,
    checked_region,
    draw,
    polygon_mask,
    run_length_mask,
    run_lengths,
    small_on_top,
)
from nlseg.ops.resize import Size
from nlseg.pictures import open_picture

BACKGROUND = "background"


def find_splits(files: Sequence[Path]) -> dict[str, Path]:
    """Return the file of each split, by the words in names and folders.

    Args:
        files: Such as ``annotations/instances_val2017.json`` and ``valid/_annotations.coco.json``.

    Returns:
        The files; one alone is that of the split ``""``; none where two are of one split.
    """
    if len(files) == 1:
        return {"": files[0]}
    found: dict[str, Path] = {}
    for file in files:
        split = split_in(file.stem) or split_in(file.parent.name)
        if not split or split in found:
            return {}
        found[split] = file
    return {split: found[split] for split in SPLITS.values() if split in found}


@dataclass(frozen=True)
class _File:
    """A file, read.

    Args:
        path: Where it is.
        split: What its images are for; empty if it holds all there are.
        names: Name of each category by its id.
        groups: Names of categories that others have as their ``supercategory``.
        images: Rows of images that have an id of their own.
        annotations: Rows of each image, by its id.
    """

    path: Path
    split: str
    names: dict[Any, str]
    groups: set[str]
    images: list[Row]
    annotations: dict[Any, list[Row]]

    def used(self) -> set[str | None]:
        """Return the names of the categories of its annotations."""
        rows = (row for rows in self.annotations.values() for row in rows)
        keys = (row.value.get("category_id") for row in rows)
        return {self.names.get(key) for key in keys if _is_id(key)}


def read_coco(
    files: Mapping[str, Path], images: Path | None, *, unlabelled: int
) -> tuple[Export, Iterator[Labelled]]:
    """Read a COCO file, or one for each split.

    Args:
        files: The JSON file of each split, see ``find_splits``; names of images begin with the
            split where there are several.
        images: Folder in which each ``file_name`` is looked for; None for those around the file.
        unlabelled: 0: what no object covers is class 0, ``background``; 255: it is ignored.

    Returns:
        The classes and what could not be read, and the images; the second fills the first while it
        is walked through.

    Raises:
        DataError: A file is no such JSON, names no category, or two of one name or id.
    """
    export = Export(())
    read = [_read(path, split, export) for split, path in files.items()]
    groups = set().union(*(one.groups for one in read))
    names = _classes(read, groups.difference(*(one.used() for one in read)), export)
    if unlabelled == 0:
        names = (BACKGROUND, *(name for name in names if name != BACKGROUND))
    export.classes = names
    return export, _all_images(read, export, images, unlabelled)


def _read(file: Path, split: str, export: Export) -> _File:
    values, text = read_json(file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(values, dict) or not isinstance(values.get(key), list):
            raise DataError(f"{file}: {key!r} is no list; it is no COCO export of labelled objects")
    categories = rows_of(values, text, "categories")
    named = _categories(categories, file, export)
    if not named:
        raise DataError(f"{file}: names no categories; it is no COCO export of labelled objects")
    rows = [row.value for row in categories if isinstance(row.value, dict)]
    above = [
        row.get("supercategory") for row in rows if row.get("supercategory") != row.get("name")
    ]
    groups = {name for name in named.values() if name in above}
    annotations: dict[Any, list[Row]] = {}
    image_rows = _images_once(rows_of(values, text, "images"), file, export)
    known = {row.value["id"] for row in image_rows}
    for row in rows_of(values, text, "annotations"):
        image = row.value.get("image_id") if isinstance(row.value, dict) else None
        if not _is_id(image) or image not in known:
            export.leave_out(file, row.line, f"annotation of image {image!r}, which is not there")
        else:
            annotations.setdefault(image, []).append(row)
    return _File(file, split, named, groups, image_rows, annotations)


def _classes(files: Sequence[_File], empty: set[str], export: Export) -> tuple[str, ...]:
    """Return the names of the classes: the first file's by their ids, then what others add.

    Args:
        files: All files.
        empty: Categories that only group others.
        export: Is told what is no class, and what not all files name.
    """
    names: list[str] = []
    if all(name in empty for file in files for name in file.names.values()):
        empty = set()  # each is said to be a kind of another
    for file in files:
        keys = sorted(file.names, key=lambda key: (isinstance(key, str), key))
        listed = [file.names[key] for key in keys if file.names[key] not in empty]
        added = [name for name in listed if name not in names]
        if names and added:
            told = ", ".join(map(repr, added))
            export.notes.append(f"{file.path}: also names {told}, which {files[0].path} does not")
        names += added
    if empty:
        told = ", ".join(map(repr, sorted(empty)))
        export.notes.append(f"{told}: no object is one, other categories are kinds of it; no class")
    return tuple(names)


def _all_images(
    files: Sequence[_File], export: Export, images: Path | None, unlabelled: int
) -> Iterator[Labelled]:
    for file in files:
        label_of = {
            key: export.classes.index(name)
            for key, name in file.names.items()
            if name in export.classes
        }
        places = _inside(images, file.split) if images else _around(file.path)
        for one in _images(file, export, label_of, places, unlabelled):
            if file.split:
                one = one._replace(name=f"{file.split}/{one.name}")
                export.splits.setdefault(file.split, []).append(one.name)
            yield one


class _Places(NamedTuple):
    """Folders of images: the first of ``usual`` counts, one of ``further`` if it alone has it."""

    usual: list[Path]
    further: list[Path]


def _folders(*tops: Path) -> list[Path]:
    return sorted(path for top in tops if top.is_dir() for path in top.iterdir() if path.is_dir())


def _around(file: Path) -> _Places:
    """Return where images lie: beside the file or its folder, or in any folder beside it.

    Beside ``annotations/instances_train2017.json`` these are ``train2017`` and its neighbours, in
    ``images`` too; of folders that name a split those of the file's come first.
    """
    above = file.parent
    tops = [above, *([above.parent] if above.name == "annotations" else [])]
    further = _folders(*tops, *(top / "images" for top in tops))
    split = split_in(file.stem)
    own = [folder for folder in further if split and split_in(folder.name) == split]
    return _Places([above, *own, above / "images", above.parent / "images", above.parent], further)


def _inside(images: Path, split: str) -> _Places:
    """Return where images lie in a given folder: in it, or in its folder of a split."""
    own = [folder for folder in _folders(images) if split and split_in(folder.name) == split]
    return _Places([*own, images], [])


def _find(given: str, places: _Places) -> tuple[str, Path]:
    """Return an image's path below its folder, with slashes, and its file.

    Paths may be those of Windows; of one that begins at a root, leads up, or is an address in the
    web, any end may be there.

    Raises:
        ValueError: It is not there, or twice.
    """
    path = PureWindowsPath(given)
    names = [given, path.as_posix()]
    if path.anchor or ".." in path.parts or "://" in given:
        names += ["/".join(path.parts[i:]) for i in range(1, len(path.parts))]
    for name in names:
        usual = [folder / name for folder in places.usual if (folder / name).is_file()][:1]
        found = usual or [folder / name for folder in places.further if (folder / name).is_file()]
        if len(found) > 1:
            raise ValueError(
                f"image {name} is both {found[0]} and {found[1]}; say which: --images DIR"
            )
        if found:
            return PureWindowsPath(name).as_posix(), found[0]
    raise ValueError(lost(f"image {given}", (*places.usual, *places.further)))


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _categories(rows: Sequence[Row], file: Path, export: Export) -> dict[Any, str]:
    """Return the name of each category by its id.

    Raises:
        DataError: Two categories have one id or one name: which is meant is not to be guessed.
    """
    named: dict[Any, str] = {}
    for row in rows:
        one = row.value if isinstance(row.value, dict) else {}
        key, name = one.get("id"), one.get("name")
        if not _is_id(key) or not isinstance(name, str):
            export.leave_out(file, row.line, "a category needs an id and a name")
        elif named.get(key, name) != name:
            raise DataError(f"{file}:{row.line}: id {key!r} is both {named[key]!r} and {name!r}")
        elif key not in named and name in named.values():
            raise DataError(f"{file}:{row.line}: a second category is named {name!r}; rename one")
        else:
            named[key] = name
    return named


def _images_once(rows: Sequence[Row], file: Path, export: Export) -> list[Row]:
    """Return the rows of images that have an id of their own."""
    found: dict[Any, Row] = {}
    for row in rows:
        key = row.value.get("id") if isinstance(row.value, dict) else None
        if not _is_id(key):
            export.leave_out(file, row.line, "an image needs an id")
        elif key in found:
            export.leave_out(file, row.line, f"a second image of the id {key!r}")
        else:
            found[key] = row
    return list(found.values())


def _images(
    file: _File, export: Export, label_of: Mapping[Any, int], places: _Places, unlabelled: int
) -> Iterator[Labelled]:
    for row in file.images:
        try:
            name, found = _find(str(row.value["file_name"]), places)
            given = row.value.get("height"), row.value.get("width")
            size = _size_of(found) if given == (None, None) else checked_size(*given)
        except KeyError:
            export.leave_out(file.path, row.line, "an image needs a file_name")
            continue
        except (ValueError, OSError) as error:  # such as a name that no file can have
            export.leave_out(file.path, row.line, error)
            continue
        regions: list[Region] = []
        crowds: list[Region] = []
        for one in file.annotations.get(row.value["id"], ()):
            try:
                region = _region(one.value, size, label_of)
            except ValueError as error:
                name_of = f"annotation {one.value.get('id', '?')} of {name}"
                export.leave_out(file.path, one.line, f"{name_of}: {error}")
                continue
            (crowds if one.value.get("iscrowd") else regions).append(region)
        label = draw([*small_on_top(crowds), *small_on_top(regions)], size, unlabelled)
        stem = str(Path(name).with_suffix("")).lstrip("/").replace("../", "")
        yield Labelled(stem, found, label)


def _size_of(image: Path) -> Size:
    """Return the size in which an image is shown.

    Raises:
        ValueError: It is no image.
    """
    try:
        with image.open("rb") as file, open_picture(file) as picture:
            return shown_size(picture)
    except UnidentifiedImageError as error:
        raise ValueError(f"{image}: is no picture that can be read") from error


def _region(annotation: Mapping[str, Any], size: Size, label_of: Mapping[Any, int]) -> Region:
    category = annotation.get("category_id")
    if not _is_id(category) or category not in label_of:
        raise ValueError(f"there is no category {category!r}")
    shape = annotation.get("segmentation")
    if not shape:
        raise ValueError("has no segmentation")
    return checked_region(label_of[category], _mask(shape, size))


def _mask(shape: Any, size: Size) -> Mask:
    if isinstance(shape, Mapping):
        given, counts = shape.get("size"), shape.get("counts")
        if given != list(size):
            raise ValueError(f"its mask is {given}, the image {list(size)} [height, width]")
        return run_length_mask(run_lengths(counts) if isinstance(counts, str) else counts, size)  # type: ignore[arg-type]
    if not isinstance(shape, list) or not all(isinstance(part, list) for part in shape):
        raise ValueError("its segmentation is neither lists of numbers nor run lengths")
    mask = np.zeros(size, np.bool_)
    for part in shape:
        if len(part) < 6 or len(part) % 2:
            raise ValueError(f"a polygon of {len(part)} numbers; at least three x and y are needed")
        mask |= polygon_mask(list(zip(part[::2], part[1::2], strict=True)), size)
    return mask
