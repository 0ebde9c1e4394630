"""CVAT's "Segmentation mask" export: painted masks, and the colours of the labels in a text file.

The classes are the labels in the order of ``labelmap.txt``; ``background`` is what is not labelled.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2

from nlseg.datasets.transforms.labels import colours_to_index
from nlseg.errors import DataError
from nlseg.intake.rows import Export, Labelled

LABELS, MASKS = "labelmap.txt", "SegmentationClass"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_SPLITS = "ImageSets/Segmentation"


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
    for file in sorted((folder / _SPLITS).glob("*.txt")):
        export.splits[file.stem] = file.read_text(encoding="utf-8").split()
    places = [images] if images else [folder / "JPEGImages", folder / "images", folder]
    return export, _images(folder, places, export, table)


def _read_labels(file: Path, export: Export) -> dict[str, tuple[int, int, int]]:
    """Return the colour of each label of lines such as ``cat:128,0,0::``."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    colours: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(level) for level in rest.split(":")[0].split(","))
            if not all(0 <= level < 256 for level in (red, green, blue)):
                raise ValueError
        except ValueError:
            export.leave_out(file, number, f"{line!r} is no label with a colour (name:r,g,b::)")
            continue
        colours[name] = (red, green, blue)
    return colours


def _images(
    folder: Path, places: list[Path], export: Export, table: dict[tuple[int, int, int], int]
) -> Iterator[Labelled]:
    for file in sorted((folder / MASKS).rglob("*.png")):
        name = file.relative_to(folder / MASKS).with_suffix("")
        candidates = (place / f"{name}{suffix}" for place in places for suffix in IMAGE_SUFFIXES)
        image = next((path for path in candidates if path.is_file()), None)
        painted = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            export.leave_out(file, 1, f"its image {name}.* is in none of {_listed(places)}")
        elif painted is None:
            export.leave_out(file, 1, "cannot be decoded")
        else:
            try:
                label = colours_to_index(painted, str(file), table)
            except DataError as error:
                export.unreadable.append(str(error).replace(f"{file}:", f"{file}:1:", 1))
                continue
            yield Labelled(name.as_posix(), image, label)


def _listed(places: list[Path]) -> str:
    return ", ".join(map(str, places))
