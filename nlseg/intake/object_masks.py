"""Masks of one object each, all of one class: several an image, and not of the same number.

Such as ``7/images/7.png`` with all of ``7/masks``, or ``images/7.png`` with ``masks/7_0.png``,
``masks/7_1.png`` and so on. What is not 0 or black in one of them is of the class.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, permutations
from pathlib import Path

from nlseg.datasets.pairs import walk
from nlseg.errors import UserError
from nlseg.intake.class_masks import look_at, read_mask
from nlseg.intake.rows import Export, Labelled, split_in
from nlseg.intake.shapes import Mask
from nlseg.pictures import IMAGE_SUFFIXES


def find_object_masks(root: Path, names: Iterable[str] | None = None) -> dict[Path, list[Path]]:
    """Return the masks of each image, nothing where a folder holds something else.

    Args:
        root: The folder.
        names: Its files, as paths from there; None for all.
    """
    files = [Path(name) for name in sorted(walk(str(root)) if names is None else names)]
    files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    for found in (_beside(files), _numbered(files)):
        masks = list(chain.from_iterable(found.values()))
        if len(masks) <= len(found) or len(masks) + len(found) < len(files) / 2:
            continue
        kinds = look_at([root / file for file in found]), look_at([root / file for file in masks])
        if kinds[0] != "mask" and kinds[1] == "mask":  # a dark image has few values, but not two
            return {root / image: [root / mask for mask in of_it] for image, of_it in found.items()}
    return {}


def _beside(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return the files of a folder by the one file of the folder beside it."""
    inside: dict[Path, dict[Path, list[Path]]] = {}
    for file in files:
        inside.setdefault(file.parent.parent, {}).setdefault(file.parent, []).append(file)
    return {
        one[0]: others for folders in inside.values() if len(folders) == 2
        for one, others in permutations(folders.values(), 2)
        if len(one) == 1 and (len(others) > 1 or re.search("mask", others[0].parent.name))
    }  # fmt: skip


def _numbered(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return the files whose names are that of another one and a number, by that one."""
    by_stem = {file.stem: file for file in files}
    counts = Counter(file.stem for file in files)
    found: dict[Path, list[Path]] = {}
    for file in files:
        parts = re.fullmatch(r"(.+?)[ _-]\d+", file.stem)
        if parts and parts[1] in by_stem and counts[file.stem] == 1:
            found.setdefault(by_stem[parts[1]], []).append(file)
    return found


def read_object_masks(folder: Path, *, unlabelled: int) -> tuple[Export, Iterator[Labelled]]:
    """Read a folder of images and of masks of one object each.

    Args:
        folder: The folder.
        unlabelled: 0: what no mask covers is class 0, ``background``; 255: it is ignored.

    Returns:
        The classes and what could not be read, and the images; the second fills the first while it
        is walked through.

    Raises:
        UserError: The folder holds no such masks.
    """
    found = find_object_masks(folder)
    if not found:
        raise UserError(
            f"{folder}: holds no images with masks of one object each; put those of an image into "
            "a folder beside the image's own, or name them after it, with a number behind"
        )
    export = Export(("background", "object") if unlabelled == 0 else ("object",))
    return export, _images(folder, found, export, unlabelled)


def _images(
    folder: Path, found: Mapping[Path, Sequence[Path]], export: Export, unlabelled: int
) -> Iterator[Labelled]:
    for image, masks in found.items():
        whole: Mask | None = None
        for path in masks:
            try:
                mask = read_mask(path)
            except (OSError, ValueError, SyntaxError) as error:
                export.leave_out(path, 1, error)
                continue
            if whole is not None and whole.shape != mask.shape:
                export.leave_out(path, 1, f"is {mask.shape}, another mask of it {whole.shape}")
                continue
            whole = mask if whole is None else whole | mask
        if whole is None:
            continue
        below = image.relative_to(folder)
        stem = below.with_suffix("").as_posix()
        if split := next(filter(None, map(split_in, below.parts[:-1])), ""):
            export.splits.setdefault(split, []).append(stem)
        label = whole.astype("uint8") * (len(export.classes) - 1)
        label[~whole] = unlabelled
        yield Labelled(stem, image, label)
