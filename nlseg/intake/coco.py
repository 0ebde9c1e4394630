"""COCO's JSON: polygons and run lengths.

The classes are the categories in the order of their ids. Several polygons of one annotation are
parts of one object, and are joined. Of overlapping objects the smaller one lies on top; crowds
(``iscrowd``) lie below all others. Holes are kept where the format has them: in run lengths.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nlseg.errors import DataError
from nlseg.intake.rows import Export, Labelled, Row, checked_size, read_json, rows_of
from nlseg.intake.shapes import (
    Mask,
    Region,
    draw,
    polygon_mask,
    run_length_mask,
    run_lengths,
    small_on_top,
)
from nlseg.ops.resize import Size


def read_coco(
    file: Path, images: Sequence[Path], *, unlabelled: int
) -> tuple[Export, Iterator[Labelled]]:
    """Read a COCO file.

    Args:
        file: The JSON file.
        images: Folders in which its ``file_name`` are looked for.
        unlabelled: 0: what no object covers is class 0, ``background``; 255: it is ignored.

    Returns:
        The classes and what could not be read, and the images; the second fills the first while it
        is walked through.

    Raises:
        DataError: The file is no such JSON, or names no category.
    """
    values, text = read_json(file)
    categories = rows_of(values, text, "categories")
    named = {
        row.value["id"]: str(row.value["name"])
        for row in categories
        if isinstance(row.value, dict) and {"id", "name"} <= row.value.keys()
    }
    if not named:
        raise DataError(f"{file}: names no categories; it is no COCO export of labelled objects")
    first = 1 if unlabelled == 0 else 0
    label_of = {key: first + i for i, key in enumerate(sorted(named))}
    names = tuple(named[key] for key in sorted(named))
    export = Export(("background", *names) if first else names)
    annotations: dict[Any, list[Row]] = {}
    image_rows = rows_of(values, text, "images")
    known = {row.value.get("id") for row in image_rows if isinstance(row.value, dict)}
    for row in rows_of(values, text, "annotations"):
        image = row.value.get("image_id") if isinstance(row.value, dict) else None
        if image not in known:
            export.leave_out(file, row.line, f"annotation of image {image!r}, which is not there")
        else:
            annotations.setdefault(image, []).append(row)
    return export, _images(file, export, image_rows, annotations, label_of, images, unlabelled)


def _images(
    file: Path, export: Export, image_rows: Sequence[Row], annotations: Mapping[Any, list[Row]],
    label_of: Mapping[Any, int], folders: Sequence[Path], unlabelled: int,
) -> Iterator[Labelled]:  # fmt: skip
    for row in image_rows:
        try:
            size = checked_size(row.value.get("height"), row.value.get("width"))
            name = Path(str(row.value["file_name"]))
            found = next((f / name for f in folders if (f / name).is_file()), None)
            if found is None:
                raise ValueError(f"image {name} is in none of {', '.join(map(str, folders))}")
        except (AttributeError, KeyError, ValueError) as error:
            export.leave_out(file, row.line, error)
            continue
        regions: list[Region] = []
        crowds: list[Region] = []
        for one in annotations.get(row.value["id"], ()):
            try:
                region = _region(one.value, size, label_of)
            except (TypeError, KeyError, ValueError) as error:
                name_of = f"annotation {one.value.get('id', '?')} of {name}"
                export.leave_out(file, one.line, f"{name_of}: {error}")
                continue
            (crowds if one.value.get("iscrowd") else regions).append(region)
        label = draw([*small_on_top(crowds), *small_on_top(regions)], size, unlabelled)
        stem = name.with_suffix("").as_posix().lstrip("/").replace("../", "")
        yield Labelled(stem, found, label)


def _region(annotation: Mapping[str, Any], size: Size, label_of: Mapping[Any, int]) -> Region:
    category = annotation.get("category_id")
    if category not in label_of:
        raise ValueError(f"there is no category {category!r}")
    shape = annotation.get("segmentation")
    if not shape:
        raise ValueError("has no segmentation")
    return Region(label_of[category], _mask(shape, size))


def _mask(shape: Any, size: Size) -> Mask:
    if isinstance(shape, Mapping):
        given = tuple(shape.get("size") or ())
        if given != size:
            raise ValueError(f"its mask is {given}, the image {size} (height, width)")
        counts = shape.get("counts")
        return run_length_mask(run_lengths(counts) if isinstance(counts, str) else counts, size)  # type: ignore[arg-type]
    mask = np.zeros(size, np.bool_)
    for part in shape:
        if len(part) < 6 or len(part) % 2:
            raise ValueError(f"a polygon of {len(part)} numbers; at least three x and y are needed")
        mask |= polygon_mask(list(zip(part[::2], part[1::2], strict=True)), size)
    return mask
