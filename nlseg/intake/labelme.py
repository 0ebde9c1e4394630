"""LabelMe's JSON files, one an image.

Classes are in the order of their names, or of a list. A later shape lies over an earlier one, as
LabelMe draws them. Labels ``__ignore__`` become 255, ``_background_`` (and, where there is such a
class, ``background``) is what is not labelled, so that such a shape cuts a hole.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from nlseg.errors import DataError
from nlseg.intake.rows import Export, Labelled, checked_size, read_json, rows_of
from nlseg.intake.shapes import (
    Mask,
    Region,
    checked_region,
    circle,
    draw,
    polygon_mask,
    rectangle,
)
from nlseg.ops.resize import Size

IGNORED, BACKGROUND = "__ignore__", "_background_"
_RINGS = ("polygon", "oriented_rectangle", "rotation")
_WITH_AREA = (*_RINGS, "mask", "rectangle", "circle")
"""Kinds of shapes that cover pixels; a label that only others have is no class."""


def read_labelme(
    folder: Path, images: Path | None = None, *, unlabelled: int,
    classes: Sequence[str] | None = None,
) -> tuple[Export, Iterator[Labelled]]:  # fmt: skip
    """Read a folder of LabelMe files.

    Args:
        folder: Searched with all folders below.
        images: Folder of the images; None for where each file says, or beside the file.
        unlabelled: 0: what no shape covers is class 0, ``background``; 255: it is ignored.
        classes: Names in their order, as LabelMe's own list may have them with the two labels that
            are no classes; None takes all that occur, sorted.

    Returns:
        The classes and what could not be read, and the images; the second fills the first while it
        is walked through.

    Raises:
        DataError: No file names a class, or the list names one twice.
    """
    export = Export(())
    files: list[Path] = []  # read again one by one: they may hold all images
    found: set[str] = set()
    for file in sorted(folder.rglob("*.json")):
        try:
            values, _ = read_json(file)
        except DataError as error:
            export.unreadable.append(str(error))
            continue
        if not isinstance(values, dict) or "shapes" not in values:
            continue  # some other file
        if not isinstance(values["shapes"], list):
            export.leave_out(file, 1, "its shapes are no list")
        else:
            files.append(file)
            shapes = (shape for shape in values["shapes"] if isinstance(shape, dict))
            labels = (
                shape.get("label")
                for shape in shapes
                if (shape.get("shape_type") or "polygon") in _WITH_AREA
            )
            found |= {label for label in labels if isinstance(label, str)}
    no_classes = (IGNORED, BACKGROUND)
    names = tuple(name for name in classes or sorted(found) if name not in no_classes)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"--classes: names {twice[0]!r} twice; give each class a name of its own")
    if not names:
        raise DataError(f"{folder}: no LabelMe file in it names a class")
    if unlabelled == 0:
        names = ("background", *(name for name in names if name != "background"))
    label_of = {name: i for i, name in enumerate(names)}
    label_of.update({IGNORED: 255, BACKGROUND: unlabelled})
    export.classes = names
    return export, _images(folder, images, files, export, label_of, unlabelled)


def _images(
    folder: Path, images: Path | None, files: Sequence[Path], export: Export,
    label_of: Mapping[str, int], unlabelled: int,
) -> Iterator[Labelled]:  # fmt: skip
    for file in files:
        values, text = read_json(file)
        try:
            size = checked_size(values.get("imageHeight"), values.get("imageWidth"))
            image = _image(values, file.parent if images is None else images)
        except (ValueError, OSError) as error:  # such as a name that no file can have
            export.leave_out(file, 1, error)
            continue
        regions = []
        for row in rows_of(values, text, "shapes"):
            try:
                regions.append(_region(row.value, size, label_of))
            except ValueError as error:
                label = row.value.get("label", "?") if isinstance(row.value, dict) else "?"
                export.leave_out(file, row.line, f"shape {label!r}: {error}")
        name = file.relative_to(folder).with_suffix("").as_posix()
        yield Labelled(name, image, draw(regions, size, unlabelled), file)


def _image(values: Mapping[str, Any], folder: Path) -> Path | bytes:
    """Return the image, by its path from the folder, by its name in it, or as it is in the file."""
    given, data = values.get("imagePath"), values.get("imageData")
    path = folder / str(given).replace("\\", "/")
    if given:
        for candidate in (path, folder / path.name):  # the path may be that of another machine
            if candidate.is_file():
                return candidate
    if not data:
        lost = f"its image {path} is not there (see --images)" if given else "it names no image"
        raise ValueError(f"{lost}, and the file holds none")
    return _decoded(data, "imageData")


def _decoded(data: object, name: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"its {name} cannot be decoded: {error}") from error


def _region(shape: object, size: Size, label_of: Mapping[str, int]) -> Region:
    if not isinstance(shape, dict):
        raise ValueError("is no shape")
    kind, name = shape.get("shape_type") or "polygon", shape.get("label")
    if kind not in _WITH_AREA:
        raise ValueError(f"a {kind} has no area")
    if not isinstance(name, str) or name not in label_of:
        raise ValueError("is none of the classes")
    return checked_region(label_of[name], _mask(kind, shape, size))


def _mask(kind: str, shape: Mapping[str, Any], size: Size) -> Mask:
    points = shape.get("points")
    if not isinstance(points, list):
        raise ValueError("has no points")
    if kind in _RINGS or (kind == "rectangle" and len(points) == 4):  # its corners, in turn
        return polygon_mask(points, size)
    if kind == "mask":
        return _painted(shape, points, size)
    if len(points) != 2:
        raise ValueError(f"a {kind} has two points, given {len(points)}")
    return polygon_mask(rectangle(points) if kind == "rectangle" else circle(points), size)


def _painted(shape: Mapping[str, Any], points: list[Any], size: Size) -> Mask:
    """Return a mask that is kept as a PNG of its bounding box, both of whose corners belong to it.

    Raises:
        ValueError: The PNG cannot be read, or is not as large as the box.
    """
    try:
        with PillowImage.open(BytesIO(_decoded(shape.get("mask"), "mask"))) as picture:
            part = np.asarray(picture) != 0
    except OSError as error:
        raise ValueError("its mask is no picture") from error
    try:
        (left, top), (right, bottom) = [[round(side) for side in point] for point in points]
    except (TypeError, ValueError) as error:
        raise ValueError("a mask has the two corners of its box") from error
    height, width = bottom - top + 1, right - left + 1
    if part.shape != (height, width):
        raise ValueError(f"its mask is {part.shape}, its box {(height, width)} (height, width)")
    if left < 0 or top < 0 or bottom >= size[0] or right >= size[1]:
        raise ValueError("its box lies outside of the image")
    mask = np.zeros(size, np.bool_)
    mask[top : bottom + 1, left : right + 1] = part
    return mask
