"""Folder to pairs: which files are images, which are their masks, and which split they are in."""

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PillowImage

from nlseg.datasets.pairs import walk
from nlseg.doctor.listing import IMAGE_SUFFIXES
from nlseg.errors import DataError, UserError
from nlseg.intake.rows import SPLITS
from nlseg.start.readings import Reading, Unclear

VOC = ("JPEGImages", "SegmentationClass")
CITYSCAPES = ("leftImg8bit", "gtFine")
MOST_VALUES = 64
"""A file of more values or colours is taken for a picture."""
_IMAGE_WORDS = r"ima?ge?s?\b|photos?|jpe?g|rgb|pictures?|input|leftimg|raw"
_MASK_WORDS = r"masks?|labels?|lbl|annot|gt|truth|seg|manual|target"
_LOOKED_AT = 3


class Pair(NamedTuple):
    """An image and its mask.

    Args:
        name: Of both, unique in the layout; with the folders between, without a suffix.
        image: File of the image.
        mask: File of the mask.
        split: ``train``, ``val``, ``test``, or nothing where the folders do not say.
    """

    name: str
    image: Path
    mask: Path
    split: str = ""


@dataclass
class Layout:
    """The pairs of a folder.

    Args:
        kind: How the folder was understood.
        pairs: In the order of their names.
        notes: What was left out, and what a user should know.
        voc: Whether 255 is the border between objects, as VOC's format says.
        cityscapes: ``ids`` or ``train ids`` where the masks hold Cityscapes' labels.
    """

    kind: str
    pairs: list[Pair]
    notes: list[str] = field(default_factory=list)
    voc: bool = False
    cityscapes: str = ""

    def splits(self) -> dict[str, list[Pair]]:
        """Return the pairs of each split that is given."""
        found: dict[str, list[Pair]] = {}
        for pair in self.pairs:
            if pair.split:
                found.setdefault(pair.split, []).append(pair)
        return found


class Where(NamedTuple):
    """What a user says about the places of files; None where nothing is said.

    Args:
        images: Folder of the images, the name of such folders, or what names of images begin with.
        masks: The same for masks.
        image_suffix: End of the names of images.
        mask_suffix: End of the names of masks.
    """

    images: str | None = None
    masks: str | None = None
    image_suffix: str | None = None
    mask_suffix: str | None = None


class _File(NamedTuple):
    path: Path
    split: str
    folders: tuple[str, ...]  # below the root, without the one of the split
    stem: str

    @property
    def suffix(self) -> str:
        return self.path.suffix


Group = dict[str, Path]
"""Place and stem to file."""


def find_layout(root: Path, where: Where) -> Layout:
    """Find the pairs of images and masks below a folder.

    Args:
        root: The folder.
        where: What the user says about it.

    Returns:
        At least one pair.

    Raises:
        UserError: It is no folder, or holds no pairs; names files and what to do.
        Unclear: It can be understood in several ways.
    """
    files = pictures_below(root)
    if not any(where):
        if all((root / name).is_dir() for name in CITYSCAPES):
            return _cityscapes(root)
        if all((root / name).is_dir() for name in VOC):
            where = where._replace(images=VOC[0], masks=VOC[1])
            layout = _of_groups(root, *_given_groups(root, files, where), "the layout of VOC")
            layout.voc = True
            return layout
    if any(where):
        groups = _given_groups(root, files, where)
        return _of_groups(root, *groups, "as the options say")
    (first, images), (second, masks), kind = _roles(root, files)
    return _of_groups(root, images, masks, f"{kind}: {first} and {second}")


def check_there(root: Path) -> None:
    """Refuse a path that leads nowhere.

    Raises:
        UserError: There is neither a folder nor a file.
    """
    if not root.exists():
        raise UserError(f"{root}: there is no such folder; check the path")


def pictures_below(root: Path) -> list[_File]:
    """List the picture files below a folder.

    Raises:
        UserError: There is none; or a file is no regular one, or a folder cannot be opened.
    """
    check_there(root)
    if not root.is_dir():
        raise UserError(f"{root}: is a file; give the folder that holds images and masks")
    try:
        names = sorted(walk(str(root)))
    except DataError as error:
        raise UserError(f"{error}; remove the link") from error
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: {error.strerror}; mend it or remove it"
        ) from None
    _check_readable(root)
    pictures = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    if not pictures:
        counts = Counter(os.path.splitext(name)[1] or "no suffix" for name in names)
        held = ", ".join(f"{n} x {suffix}" for suffix, n in counts.most_common(5))
        raise UserError(
            f"{root}: holds no pictures ({held or 'the folder is empty'}); images and masks are "
            f"files such as {', '.join(IMAGE_SUFFIXES[:6])}"
        )
    return [_describe(root, name) for name in pictures]


def _check_readable(root: Path) -> None:
    """Refuse folders that cannot be listed: their files would be missing without a word."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be opened: {error.strerror}; change its permissions "
            "(chmod u+rx)"
        )

    for _ in os.walk(root, onerror=refuse):
        pass


def _describe(root: Path, name: str) -> _File:
    path = root / name
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; remove it, or mend the link") from error
    if not stat.S_ISREG(kind):
        raise UserError(f"{path}: is no regular file; remove it")
    *folders, base = Path(name).parts
    split = next((SPLITS[part.lower()] for part in folders if part.lower() in SPLITS), "")
    rest, dropped = [], False
    for part in folders:
        if split and not dropped and part.lower() in SPLITS:
            dropped = True
        else:
            rest.append(part)
    return _File(path, split, tuple(rest), Path(base).stem)


# ---- which group of files is which


def _roles(root: Path, files: Sequence[_File]) -> tuple[tuple[str, Group], tuple[str, Group], str]:
    """Find the one way to take a group of files for images and another for their masks."""
    found: list[tuple[int, tuple[str, Group], tuple[str, Group], str, Callable[..., Reading]]] = []
    for kind, groups, reading in _partitions(files):
        if len(groups) < 2:
            continue
        for (a, first), (b, second) in _ordered_pairs(groups):
            count = len(_match(first, second)[0])
            if count and _is_image_and_mask(a, first, b, second, root, reading):
                found.append((count, (a, first), (b, second), kind, reading))
        if found:
            break
    if not found:
        raise UserError(_nothing_pairs(root, files))
    most = max(count for count, *_ in found)
    best = [one for one in found if 2 * one[0] > most]
    if len(best) > 1:
        raise Unclear(
            f"{root}: which files are the images, and which their masks?",
            [reading(a[0], b[0], f"{a[0]} are images and {b[0]} their masks ({n} pairs)")
             for n, a, b, _, reading in best],
        )  # fmt: skip
    _, images, masks, kind, _ = best[0]
    return images, masks, kind


def _partitions(
    files: Sequence[_File],
) -> Iterable[tuple[str, dict[str, Group], Callable[..., Reading]]]:
    """Yield ways to sort files by what may tell images from masks."""

    def by_folder(a: str, b: str, meaning: str) -> Reading:
        return Reading(meaning, ("--images", a, "--masks", b))

    def by_end(a: str, b: str, meaning: str) -> Reading:
        return Reading(meaning, ("--image-suffix", a, "--mask-suffix", b))

    for level in range(max((len(file.folders) for file in files), default=0)):
        deep = [file for file in files if len(file.folders) > level]
        yield (
            "two folders",
            _grouped(deep, [file.folders[level] for file in deep], level),
            by_folder,
        )
    ends = _ends(files)
    told = "one folder, told apart by the ends of names"
    yield told, _grouped(files, [_end_of(file, ends) for file in files]), by_end
    starts = [str(re.split(r"\d", file.stem, maxsplit=1)[0]) for file in files]
    told = "one folder, told apart by the beginnings of names"
    yield told, _grouped(files, starts), by_folder


def _grouped(
    files: Sequence[_File], roles: Sequence[str], level: int | None = None
) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for file, name in zip(files, roles, strict=True):
        folders = list(file.folders)
        if level is not None:
            folders.pop(level)
        cut = len(name) - len(file.suffix) if level is None and name.endswith(file.suffix) else 0
        stem = file.stem[: len(file.stem) - cut] if cut else file.stem
        key = "/".join([*([file.split] if file.split else []), *folders, stem])
        _put(groups.setdefault(name, {}), key, file.path)
    return groups


def _put(group: Group, key: str, path: Path) -> None:
    taken = group.setdefault(key, path)
    if taken != path:
        raise UserError(f"{path}: {taken} has the same name; keep one of the two, or rename one")


def _ends(files: Sequence[_File]) -> list[str]:
    """Return what follows the stem of another file in names of one folder, with the suffix."""
    stems = {(file.split, file.folders, file.stem) for file in files}
    counts: Counter[str] = Counter()
    for file in files:
        for length in range(1, len(file.stem)):
            if (file.split, file.folders, file.stem[:length]) in stems:
                end = file.stem[length:]
                if not end[0].isdigit():
                    counts[end + file.suffix] += 1
    return [end for end, _ in counts.most_common()]


def _end_of(file: _File, ends: Sequence[str]) -> str:
    fitting = [end for end in ends if file.path.name.endswith(end)]
    return max(fitting, key=len) if fitting else file.suffix


def _ordered_pairs(
    groups: Mapping[str, Group],
) -> Iterable[tuple[tuple[str, Group], tuple[str, Group]]]:
    return [(a, b) for a in groups.items() for b in groups.items() if a is not b and a[0] != b[0]]


def _is_image_and_mask(
    a: str, first: Group, b: str, second: Group, root: Path, reading: Callable[..., Reading]
) -> bool:
    """Return whether names or contents say that one group are images and the other masks.

    Raises:
        Unclear: Names say one thing and contents the opposite, or neither says anything.
    """
    by_name = _kind_of_name(a), _kind_of_name(b)
    masks = tuple(_look_like_masks(group) for group in (first, second))
    if by_name == ("image", "mask"):
        if masks == (True, False):
            raise Unclear(
                f"{root}: {a} holds files of few values and {b} holds pictures; which are masks?",
                [reading(a, b, f"{a} are the images, as the names say"),
                 reading(b, a, f"{b} are the images, as the pixels say")],
            )  # fmt: skip
        return True
    if by_name[0] == "mask" or by_name[1] == "image":
        return False
    if masks == (False, True):
        return True
    if masks[0] == masks[1] and by_name == ("", "") and a < b:
        what = "files of few values" if masks[0] else "pictures of many colours"
        raise Unclear(
            f"{root}: both {a} and {b} hold {what}; which are the masks?",
            [reading(a, b, f"{b} are the masks"), reading(b, a, f"{a} are the masks")],
        )
    return False


def _kind_of_name(name: str) -> str:
    is_mask = re.search(_MASK_WORDS, name, re.IGNORECASE) is not None
    is_image = re.search(_IMAGE_WORDS, name, re.IGNORECASE) is not None
    return "" if is_mask == is_image else "mask" if is_mask else "image"


def _look_like_masks(group: Group) -> bool:
    files = sorted(group.values())
    chosen = files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]
    return all(looks_like_mask(path) for path in chosen)


def looks_like_mask(path: Path) -> bool:
    """Return whether a file holds few values or colours; one that cannot be read does not."""
    try:
        with PillowImage.open(path) as picture:
            array = np.asarray(picture)
    except (OSError, ValueError, SyntaxError):
        return False
    step = max(1, max(array.shape[:2]) // 1024)
    pixels = array[::step, ::step].reshape(-1, *array.shape[2:])
    if array.dtype.kind == "f":
        return False
    return len(np.unique(pixels, axis=0)) <= MOST_VALUES


# ---- pairs of two groups


def _match(images: Group, masks: Group) -> tuple[dict[str, tuple[Path, Path]], str]:
    """Pair files by their names: equal, or equal without what all names of a group have in common.

    Returns:
        Name -> image and mask; and how the names were made equal.
    """
    best: dict[str, tuple[Path, Path]] = {}
    how = ""
    for told, cut in _CUTS.items():
        first, second = cut(images), cut(masks)
        found = {key: (first[key], second[key]) for key in sorted(first.keys() & second.keys())}
        if len(found) > len(best):
            best, how = found, told
    return best, how


def _common(group: Group) -> tuple[str, str]:
    """Return what all names of a group begin and end with, without digits beside the rest."""
    names = [key.rpartition("/")[2] for key in group]
    if len(names) < 2:
        return "", ""
    start = re.sub(r"\d+$", "", shared_start(names))
    end = re.sub(r"^\d+", "", shared_start([name[::-1] for name in names])[::-1])
    return start, end


def shared_start(names: Sequence[str]) -> str:
    """Return the letters that all names begin with."""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[:length] if length is not None else min(first, last, key=len)


def _cut(group: Group, start: int, end: int) -> Group:
    found: Group = {}
    for key, path in group.items():
        folder, slash, name = key.rpartition("/")
        short = name[start : len(name) - end]
        if not short or f"{folder}{slash}{short}" in found:
            return {}
        found[f"{folder}{slash}{short}"] = path
    return found


def _without_end(group: Group) -> Group:
    return _cut(group, 0, len(_common(group)[1]))


def _without_start(group: Group) -> Group:
    return _cut(group, len(_common(group)[0]), 0)


def _bare(group: Group) -> Group:
    start, end = _common(group)
    return _cut(group, len(start), len(end))


_CUTS: dict[str, Callable[[Group], Group]] = {
    "": dict, "without the ends": _without_end, "without the beginnings": _without_start,
    "without beginnings and ends": _bare,
}  # fmt: skip


def _of_groups(root: Path, images: Group, masks: Group, kind: str) -> Layout:
    matched, how = _match(images, masks)
    if not matched:
        raise UserError(
            f"{root}: no image and mask have the same name, such as {_first(images)} and "
            f"{_first(masks)}; rename them, or say where they are with --images and --masks"
        )
    pairs = [
        Pair(name, image, mask, _split_of(name)) for name, (image, mask) in sorted(matched.items())
    ]
    layout = Layout(f"{kind}{', names ' + how if how else ''}", pairs)
    for what, group, taken in (
        ("images without a mask", images, {pair.image for pair in pairs}),
        ("masks without an image", masks, {pair.mask for pair in pairs}),
    ):
        lacking = sorted(set(group.values()) - taken)
        if lacking:
            layout.notes.append(f"{len(lacking)} {what} are left out, such as {lacking[0]}")
    return layout


def _split_of(name: str) -> str:
    first = name.partition("/")[0]
    return first if "/" in name and first in SPLITS.values() else ""


def _first(group: Group) -> str:
    return str(min(group.values(), default="none"))


def _given_groups(root: Path, files: Sequence[_File], where: Where) -> tuple[Group, Group]:
    """Return the groups that the user names."""
    groups = []
    for what, place, suffix, other in (
        ("images", where.images, where.image_suffix, where.mask_suffix),
        ("masks", where.masks, where.mask_suffix, where.image_suffix),
    ):
        group: Group = {}
        for file in files:
            inside = _inside(root, file, place)
            name = file.path.name
            if inside is None or (suffix is not None and not name.endswith(suffix)):
                continue
            longer = other is not None and suffix is not None and other.endswith(suffix)
            if longer and other is not None and name.endswith(other):
                continue
            stem = name[: len(name) - len(suffix)] if suffix else file.stem
            split = [file.split] if file.split else []
            _put(group, "/".join([*split, *inside, stem]), file.path)
        if not group:
            ends = f" ending in {suffix}" if suffix else ""
            at = f"{root / place}" if place else f"{root}"
            raise UserError(
                f"{at}: holds no pictures{ends}; --{what} and --{what[:-1]}-suffix name a folder "
                "and the end of file names"
            )
        groups.append(group)
    if set(groups[0].values()) & set(groups[1].values()):
        file_ = _first(groups[0])
        raise UserError(
            f"{file_}: would be both image and mask; give --images and --masks two folders, or "
            "--image-suffix and --mask-suffix two ends of names"
        )
    return groups[0], groups[1]


def _inside(root: Path, file: _File, place: str | None) -> tuple[str, ...] | None:
    """Return a file's folders below a named one; None where neither it nor its name is there."""
    if place is None:
        return file.folders
    parts = tuple(p for p in Path(place).parts if p.lower() not in SPLITS and p != ".")
    for start in range(len(file.folders) - len(parts) + 1):
        if file.folders[start : start + len(parts)] == parts:
            return (*file.folders[:start], *file.folders[start + len(parts) :])
    given = Path(place)
    for folder in (root / given, given):
        if folder.is_dir() and file.path.resolve().is_relative_to(folder.resolve()):
            return file.path.resolve().relative_to(folder.resolve()).parts[:-1]
    return file.folders if file.path.name.startswith(place) else None


def _nothing_pairs(root: Path, files: Sequence[_File]) -> str:
    masks = [file for file in files if looks_like_mask(file.path)][:1]
    folders = Counter("/".join(file.folders) or "." for file in files)
    held = ", ".join(f"{n} in {folder}" for folder, n in folders.most_common(4))
    if not masks:
        return (
            f"{root}: holds {len(files)} pictures ({held}) and no masks for them; put masks of the "
            "same names into a folder of their own"
        )
    other = next((file.path for file in files if file.path != masks[0].path), masks[0].path)
    return (
        f"{root}: no image and mask have the same name ({held}), such as {other} and "
        f"{masks[0].path}; rename them, or say which folders with --images and --masks"
    )


# ---- published layouts


def _cityscapes(root: Path) -> Layout:
    images = root / CITYSCAPES[0]
    ends = {"train ids": "_gtFine_labelTrainIds.png", "ids": "_gtFine_labelIds.png"}
    for kind, end in ends.items():
        pairs = []
        for image in sorted(images.rglob("*_leftImg8bit.png")):
            name = image.relative_to(images).as_posix().removesuffix("_leftImg8bit.png")
            mask = root / CITYSCAPES[1] / f"{name}{end}"
            split = SPLITS.get(name.partition("/")[0], "")
            if mask.is_file() and split != "test":
                pairs.append(Pair(name, image, mask, split))
        if pairs:
            layout = Layout(f"the layout of Cityscapes, label {kind}", pairs, cityscapes=kind)
            layout.notes.append("Cityscapes' test split has no public labels; val is the test")
            return layout
    raise UserError(
        f"{root}: looks like Cityscapes, but no {' or '.join(ends.values())} lies in "
        f"{root / CITYSCAPES[1]}; unpack gtFine_trainvaltest.zip there"
    )
