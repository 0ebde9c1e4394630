"""CVAT's "Segmentation mask" export: painted masks, and the colours of the labels in a text file.

The classes are the labels in the order of ``labelmap.txt``; ``background`` is what is not labelled.
Its lists ``train.txt`` and so on give the split.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from nlseg.datasets.transforms.labels import colours_to_index
from nlseg.errors import DataError
from nlseg.intake.rows import SPLITS, TEXT, Export, Labelled, lost, names_in, read_lines
from nlseg.pictures import IMAGE_SUFFIXES

LABELS, MASKS = "labelmap.txt", "SegmentationClass"
_LISTS = "ImageSets/Segmentation"
_LABEL = re.compile(r"(.+?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?::.*)?")


def read_cvat(
    folder: Path, images: Path | None, *, unlabelled: int
) -> tuple[Export, Iterator[Labelled]]:
    """Read a mask export.

    Args:
        folder: With ``labelmap.txt`` and ``SegmentationClass``.
        images: Folder of the images; None for ``JPEGImages``, ``images`` or the export itself.
        unlabelled: 0: the label background is class 0; 255: it is ignored.

    Returns:
        The classes and what could not be read, and the images; the second fills the first while it
        is walked through.

    Raises:
        DataError: The file of the labels is missing or holds none.
    """
    export = Export(())
    colours = _read_labels(folder / LABELS, export)
    names = [name for name in colours if name != "background"]
    if not names:
        raise DataError(f"{folder / LABELS}: names no label beside background")
    first = 1 if unlabelled == 0 else 0
    export.classes = ("background", *names) if first else tuple(names)
    black = colours.get("background", (0, 0, 0))
    export.palette = [colours.get(name, black) for name in export.classes]
    table = {black: unlabelled, **{colours[n]: first + i for i, n in enumerate(names)}}
    masks = {
        file.relative_to(folder / MASKS).with_suffix("").as_posix(): file
        for file in sorted((folder / MASKS).rglob("*.png"))
    }
    _read_lists(folder / _LISTS, masks, export)
    places = [images] if images else [folder / "JPEGImages", folder / "images", folder]
    return export, _images(masks, places, export, table)


def _read_lists(folder: Path, masks: Mapping[str, Path], export: Export) -> None:
    """Take the splits of lists.

    Raises:
        DataError: A list is no text, or an image is in two splits.
    """
    for file in sorted(folder.glob("*.txt")):
        split = SPLITS.get(file.stem.lower())
        if split is None:  # CVAT's own word for images of no subset is default
            continue
        listed = export.splits.setdefault(split, [])
        for number, line in read_lines(file):
            name = next((name for name in names_in(line) if name in masks), None)
            if name is None:
                export.leave_out(file, number, f"{line!r} names no mask in {MASKS}")
            else:
                listed.append(name)
    for one, other in combinations([split for split in SPLITS if split in export.splits], 2):
        for name in sorted({*export.splits[one]} & {*export.splits[other]}):
            raise DataError(
                f"{name}: stands in the lists of {one} and {other}; remove it from one of the two"
            )


def _read_labels(file: Path, export: Export) -> dict[str, tuple[int, int, int]]:
    """Return the colour of each label of lines such as ``cat:128,0,0::``.

    Raises:
        DataError: The file cannot be read, or two labels have one name or one colour.
    """
    try:
        lines = file.read_text(encoding=TEXT).splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no text in UTF-8; store it again as such") from error
    colours: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LABEL.fullmatch(line.strip())
        levels = [int(level) for level in found.groups()[1:]] if found else [256]
        if found is None or max(levels) > 255:
            export.leave_out(file, number, f"{line!r} is no label with a colour (name:r,g,b::)")
            continue
        name, (red, green, blue) = found[1].strip(), levels
        same = [other for other, c in colours.items() if c == (red, green, blue) or other == name]
        if same:
            what = "name" if same[0] == name else f"colour of {same[0]!r}"
            raise DataError(
                f"{file}:{number}: {name!r} has the {what} once more; each needs its own"
            )
        colours[name] = (red, green, blue)
    return colours


def _images(
    masks: Mapping[str, Path], places: list[Path], export: Export,
    table: dict[tuple[int, int, int], int],
) -> Iterator[Labelled]:  # fmt: skip
    suffixes = [spelt for suffix in IMAGE_SUFFIXES for spelt in (suffix, suffix.upper())]
    for name, file in masks.items():
        candidates = (place / f"{name}{suffix}" for place in places for suffix in suffixes)
        image = next((path for path in candidates if path.is_file()), None)
        data = np.frombuffer(file.read_bytes(), np.uint8)
        painted = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if image is None:
            export.leave_out(file, 1, lost(f"its image {name}.*", places))
        elif painted is None:
            export.leave_out(file, 1, "cannot be decoded")
        else:
            try:
                label = colours_to_index(painted, str(file), table)
            except DataError as error:
                told = str(error).partition("; add them")[0].removeprefix(f"{file}: ")
                export.leave_out(file, 1, told)
                continue
            yield Labelled(name, image, label)
