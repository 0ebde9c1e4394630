"""LabelMe's JSON files, one an image.

Classes are in the order of their names, or of a list. A later shape lies over an earlier one, as
LabelMe draws them. Labels ``__ignore__`` become 255, ``_background_`` is what is not labelled, so
that such a shape cuts a hole.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nlseg.errors import DataError
from nlseg.intake.rows import Export, Labelled, checked_size, read_json, rows_of
from nlseg.intake.shapes import Mask, Region, circle, draw, polygon_mask, rectangle
from nlseg.ops.resize import Size

IGNORED, BACKGROUND = "__ignore__", "_background_"


def read_labelme(
    folder: Path, *, unlabelled: int, classes: Sequence[str] | None = None
) -> tuple[Export, Iterator[Labelled]]:
    """Read a folder of LabelMe files.

    Args:
        folder: Searched with all folders below.
        unlabelled: 0: what no shape covers is class 0, ``background``; 255: it is ignored.
        classes: Names in their order; None takes all that occur, sorted.

    Returns:
        The classes and what could not be read, and the images; the second fills the first while it
        is walked through.

    Raises:
        DataError: No file names a class.
    """
    export = Export(())
    files: dict[Path, tuple[Any, str]] = {}
    found: set[str] = set()
    for file in sorted(folder.rglob("*.json")):
        try:
            values, text = read_json(file)
        except DataError as error:
            export.unreadable.append(str(error))
            continue
        if isinstance(values, dict) and isinstance(values.get("shapes"), list):
            files[file] = values, text
            shapes = (shape for shape in values["shapes"] if isinstance(shape, dict))
            found |= {str(shape["label"]) for shape in shapes if "label" in shape}
    names = tuple(classes) if classes else tuple(sorted(found - {IGNORED, BACKGROUND}))
    if not names:
        raise DataError(f"{folder}: no LabelMe file in it names a class")
    first = 1 if unlabelled == 0 else 0
    label_of = {name: first + i for i, name in enumerate(names)}
    label_of.update({IGNORED: 255, BACKGROUND: unlabelled})
    export.classes = ("background", *names) if first else names
    return export, _images(folder, files, export, label_of, unlabelled)


def _images(
    folder: Path, files: Mapping[Path, tuple[Any, str]], export: Export,
    label_of: Mapping[str, int], unlabelled: int,
) -> Iterator[Labelled]:  # fmt: skip
    for file, (values, text) in files.items():
        try:
            size = checked_size(values.get("imageHeight"), values.get("imageWidth"))
            image = _image(file, values)
        except ValueError as error:
            export.leave_out(file, 1, error)
            continue
        regions = []
        for row in rows_of(values, text, "shapes"):
            try:
                regions.append(_region(row.value, size, label_of))
            except (AttributeError, TypeError, KeyError, ValueError) as error:
                label = row.value.get("label", "?") if isinstance(row.value, dict) else "?"
                export.leave_out(file, row.line, f"shape {label!r}: {error}")
        name = file.relative_to(folder).with_suffix("").as_posix()
        yield Labelled(name, image, draw(regions, size, unlabelled))


def _image(file: Path, values: Mapping[str, Any]) -> Path | bytes:
    path = file.parent / str(values.get("imagePath", "")).replace("\\", "/")
    if path.is_file():
        return path
    data = values.get("imageData")
    if not data:
        raise ValueError(f"its image {path} is not there, and the file holds none")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError(f"its imageData cannot be decoded: {error}") from error


def _region(shape: Mapping[str, Any], size: Size, label_of: Mapping[str, int]) -> Region:
    name = str(shape["label"])
    if name not in label_of:
        raise ValueError("is none of the classes")
    return Region(label_of[name], _mask(shape, size))


def _mask(shape: Mapping[str, Any], size: Size) -> Mask:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "polygon":
        return polygon_mask(points, size)
    if kind in ("rectangle", "circle"):
        if len(points) != 2:
            raise ValueError(f"a {kind} has two points, given {len(points)}")
        return polygon_mask(rectangle(points) if kind == "rectangle" else circle(points), size)
    raise ValueError(f"a {kind} has no area")
