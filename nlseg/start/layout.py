"""Folder to pairs: which files are images, which are their masks, and which split they are in."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from itertools import chain, permutations, product
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from nlseg.datasets.pairs import walk
from nlseg.errors import DataError, UserError
from nlseg.intake.rows import SPLITS
from nlseg.pictures import IMAGE_SUFFIXES, open_picture
from nlseg.start.readings import Reading, Unclear

_T = TypeVar("_T")
VOC = ("JPEGImages", "SegmentationClass")
CITYSCAPES = ("leftImg8bit", "gtFine")
MOST_VALUES = 64
"""A file of more values or colours is taken for a picture."""
RUNS = "work_dirs"
_IMAGE_WORDS = r"ima?ge?s?\b|photos?|jpe?g|rgb|pictures?|input|leftimg|raw"
_MASK_WORDS = r"masks?|labels?|lbl|(\b|_)lab\b|annot|gt|truth|seg|manual|target"
_SETS = ("data", "set")
_BOTH = ("trainval", "train_val")
_SHORT = "tr|te|ts"
_ANNOTATIONS = (".json", ".xml", ".mat", ".npy", ".csv")
_LOOKED_AT = 3
_TRIED = 60
"""Ways to sort files that are tried, those that may pair the most first."""
_MANY_PARTS = 24
_OTHERS = "the other files"
_FOLDERS = "two folders"
_SAMPLED = 100
"""Names by which it is decided what to cut off."""
_SEAMS = 3
_END_OF_NAME = r"\D*([^\W\d_]|\d+(st|nd|rd|th))"
"""A number is no kind of file, but for such as ``_1stHO``."""


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
        """Return the pairs of each split that is given: of train, val and test, in this order."""
        given = {pair.split for pair in self.pairs}
        return {split: [pair for pair in self.pairs if pair.split == split]
                for split in ("train", "val", "test") if split in given}  # fmt: skip


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

    def options(self) -> tuple[str, ...]:
        """Return the arguments of ``nlseg start`` that say so."""
        names = ("--images", "--masks", "--image-suffix", "--mask-suffix")
        said = [(name, value) for name, value in zip(names, self, strict=True) if value is not None]
        one = [[f"{name}={value}"] if value.startswith("-") else [name, value]
               for name, value in said]  # fmt: skip
        return tuple(chain.from_iterable(one))


Folders = tuple[str, ...]


class _File(NamedTuple):
    path: Path
    split: str
    folders: Folders  # below the root, without the one of the split
    named: Folders  # the same by their names, which may say the split, too
    stem: str

    @property
    def suffix(self) -> str:
        return self.path.suffix


Group = dict[str, Path]
"""Place and stem to file."""


def published_root(root: Path) -> Path | None:
    """Return the one folder, at most two below, that has the layout of VOC or Cityscapes.

    Archives are unpacked to ``VOCdevkit/VOC2012``.
    """
    found = {
        path.parent
        for names, levels in product((VOC, CITYSCAPES), ("", "*/", "*/*/"))
        for path in root.glob(f"{levels}{names[0]}")
        if all((path.parent / name).is_dir() for name in names)
    }
    return found.pop() if len(found) == 1 else None


def folders_between(root: Path, paths: Iterable[Path]) -> list[Path]:
    """Return the folders from a root, which is left out, down to the one that holds all paths."""
    common = Path(os.path.commonpath([path.parent for path in paths]))
    if not common.is_relative_to(root):
        return []
    below = common.relative_to(root).parts
    return [root.joinpath(*below[: i + 1]) for i in range(len(below))]


def find_layout(root: Path, where: Where, made: Path | None = None) -> Layout:
    """Find the pairs of images and masks below a folder.

    Args:
        root: The folder.
        where: What the user says about it.
        made: Folder of what is made of them, which may lie in the first.

    Returns:
        At least one pair.

    Raises:
        UserError: It is no folder, or holds no pairs; names files and what to do.
        Unclear: It can be understood in several ways.
    """
    files = pictures_below(root, made)
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
    found = _roles(root, files)
    first, second = found.way.names()
    layout = _of_groups(root, found.images, found.masks, f"{found.way.kind}: {first} and {second}")
    taken = {*found.images.values(), *found.masks.values()}
    rest = [file.path for file in files if file.path not in taken]
    if rest:
        layout.notes.append(f"{len(rest)} other pictures are left out, such as {rest[0]}")
    return layout


def check_there(root: Path) -> None:
    """Refuse a path that leads nowhere.

    Raises:
        UserError: There is neither a folder nor a file.
    """
    if not root.exists():
        raise UserError(f"{root}: there is no such folder; check the path")


def names_below(root: Path, made: Path | None) -> Iterator[str]:
    """Yield the files below a folder as relative paths, without those of runs.

    Args:
        root: The folder.
        made: Folder whose files are left out, too.
    """
    folders = [RUNS] if made is None else [RUNS, os.path.relpath(made, root)]
    left_out = tuple(f"{folder}{os.sep}" for folder in folders)
    return (name for name in walk(str(root)) if not name.startswith(left_out))


def pictures_below(root: Path, made: Path | None = None) -> list[_File]:
    """List the picture files below a folder, see ``names_below``.

    Raises:
        UserError: There is none; or a file is no regular one, or a folder cannot be opened.
    """
    check_there(root)
    if not root.is_dir():
        raise UserError(f"{root}: is a file; give the folder that holds images and masks")
    try:
        names = sorted(names_below(root, made))
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
    series = _series(pictures)
    files = [_describe(root, name, series, inside=True) for name in pictures]
    if any(file.split == "train" for file in files):
        return files
    # flat_test_images is none
    return [_describe(root, name, series, inside=False) for name in pictures]


def _series(names: Iterable[str]) -> dict[Folders, tuple[str, str]]:
    """Find folders side by side whose names differ in the word of a split alone.

    That is ``traincrop`` and ``testcrop``, ``town_train`` and ``town_val``, or ``imagesTr`` and
    ``imagesTs``.

    Args:
        names: Relative paths of files.

    Returns:
        Folder -> its split, and what the names have in common.
    """
    whole = {Path(name).parts[:-1] for name in names}
    kinds: dict[tuple[Folders, str, str], list[tuple[Folders, str]]] = {}
    for *above, name in {parts[:i] for parts in whole for i in range(1, len(parts) + 1)}:
        words = "|".join(SPLITS)
        for side, pattern in (
            ("before", f"(?i:(?P<word>{words})(?P<rest>.+))"),
            ("after", f"(?i:(?P<rest>.+?)(?P<word>{words}))"),
            ("after", f"(?P<rest>.+)(?P<word>(?<=[ _-])(?i:{_SHORT})|(?<=[a-z])T[rse])"),
        ):
            if found := re.fullmatch(pattern, name):
                split = _split_of_word(found["word"])
                folders = kinds.setdefault((tuple(above), found["rest"], side), [])
                folders.append(((*above, name), split))
    return {
        folder: (split, kind.strip("_- "))
        for (_, kind, _), folders in kinds.items()
        if {"train"} < {split for _, split in folders}
        for folder, split in folders
    }


def _split_of_word(word: str) -> str:
    """Return the split that a word is for, also a short one."""
    return SPLITS.get(word.lower()) or ("train" if word.lower() == "tr" else "test")


@cache
def _said_again(part: str, split: str) -> str:
    """Return a folder's name without a word for the split, nothing where it has none."""
    found = re.fullmatch(
        rf"(?i:(.*?)(?:^|[ _-])({'|'.join(SPLITS)}|{_SHORT})(?:$|(?=[ _-]))(.*))", part
    )
    return found[1] + found[3] if found and _split_of_word(found[2]) == split else ""


def _check_readable(root: Path) -> None:
    """Refuse folders that cannot be listed: their files would be missing without a word."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be opened: {error.strerror}; change its permissions "
            "(chmod u+rx)"
        )

    for _ in os.walk(root, onerror=refuse):
        pass


def _describe(
    root: Path, name: str, series: Mapping[Folders, tuple[str, str]], *, inside: bool
) -> _File:
    """Make a file's entry.

    Args:
        root: Folder of the data.
        name: Path below it.
        series: Split of folders whose names say it together with those of others, and the rest.
        inside: Whether a word inside of a folder's name says a split, too.
    """
    path = root / name
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; remove it, or mend the link") from error
    if not stat.S_ISREG(kind):
        raise UserError(f"{path}: is no regular file; remove it")
    *folders, base = Path(name).parts
    read = [_split_and_rest(part, inside) for part in folders]
    read = [
        one if one[0] else series.get(tuple(folders[: i + 1]), one) for i, one in enumerate(read)
    ]
    split = next((found for found, _ in read if found), "")
    rest: list[tuple[str, str]] = []
    dropped = False
    for part, (found, kept) in zip(folders, read, strict=True):
        if split and not found and (again := _said_again(part, split)):
            rest.append((again.strip(" _-"), part))
        elif not split or found != split or (dropped and not kept):
            above = rest[-1][1] if rest else ""
            follows = part[len(above) :] if above and part.startswith(above) else ""
            is_end = follows.startswith(("_", "-", " ")) and len(follows) > 1
            rest.append((follows[1:] if is_end else part, part))  # 7/7_image beside 7/7_lesion
        elif kept:
            rest.append((kept, part))
        else:
            dropped = True
    short, named = zip(*rest, strict=True) if rest else ((), ())
    return _File(path, split, short, named, Path(base).stem)


@cache
def _split_and_rest(folder: str, inside: bool = True) -> tuple[str, str]:
    """Return the split that the name of a folder says, as ``train`` and ``train_masks`` do.

    Args:
        folder: The name.
        inside: Whether a word inside of it counts, too, as that of ``Task1_Training_Input``.

    Returns:
        The split, or nothing, and what else the name says.
    """
    if folder.lower() in _BOTH:
        return "train", ""
    for word in sorted(SPLITS, key=len, reverse=True):
        if folder.lower() == word:
            return SPLITS[word], ""
        after = re.fullmatch(rf"{word}([ _-]?)(.+)", folder, re.IGNORECASE)
        if after and (_kind_of_name(after[2]) or after[2].lower() in _SETS):
            begins = re.match(f"{_IMAGE_WORDS}|{_MASK_WORDS}", after[2], re.IGNORECASE)
            if after[1] or begins:  # validated_masks is no split
                return SPLITS[word], after[2]
        before = re.fullmatch(rf"(.+)[ _-]{word}", folder, re.IGNORECASE)
        if before and _kind_of_name(before[1]):
            return SPLITS[word], before[1]
        within = re.fullmatch(rf"(.+[ _-]){word}[ _-](.+)", folder, re.IGNORECASE)
        if inside and within and (_kind_of_name(within[2]) or within[2].lower() in _SETS):
            return SPLITS[word], within[1] + within[2]
    return "", folder


# ---- which group of files is which


class _Way(NamedTuple):
    """A way to sort files into images and masks.

    Args:
        where: The same as options say it.
        kind: What tells the two apart.
        bound: Pairs that it can give at most.
    """

    where: Where
    kind: str
    bound: int

    def names(self) -> tuple[str, str]:
        """Return what images and masks are called."""
        images, masks, image_end, mask_end = self.where
        if image_end is not None and mask_end is not None:
            return image_end, mask_end
        return images or _OTHERS, masks or _OTHERS

    def reading(self, meaning: str) -> Reading:
        """Return it as an answer to a question."""
        return Reading(meaning, self.where.options())

    def turned(self) -> "_Way":
        """Return it with images and masks exchanged."""
        images, masks, image_end, mask_end = self.where
        return self._replace(where=Where(masks, images, mask_end, image_end))


class _Found(NamedTuple):
    """What a way gives: groups, pairs, what says so, and two files of one name, if there are."""

    way: _Way
    images: Group
    masks: Group
    pairs: frozenset[tuple[Path, Path]]
    evidence: "_Evidence"
    clash: str


class _Evidence(IntEnum):
    """What says that one group holds the images and the other their masks."""

    NONE = 0
    HALF = 1  # one of the two names, and pixels say nothing
    AGAINST = 2  # names say one thing, pixels the opposite
    CLEAR = 3  # pixels
    NAMED = 4  # both names


def _roles(root: Path, files: Sequence[_File]) -> _Found:
    """Find the one way to take some files for images and others for their masks.

    Of all ways that folders, ends and beginnings of names allow, those count whose names or pixels
    say which files are masks, and of these the ones that pair the most files.

    Raises:
        UserError: Nothing pairs, or two files have the same name.
        Unclear: Several ways are clear and differ, or none is.
    """
    looks: dict[Path, bool] = {}
    found: list[_Found] = []
    for ways in (_ways_by_folder(files, short=True) + _ways_by_name(files),
                 _ways_by_folder(files, short=False)):  # fmt: skip
        for way in sorted(ways, key=lambda one: -one.bound)[:_TRIED]:
            if 2 * way.bound <= max((len(one.pairs) for one in _clear(found)), default=0):
                break
            images, masks, clash = _sorted_by(files, way.where)
            pairs = frozenset(_match(images, masks)[0].values())
            evidence = _evidence_of(way, pairs, looks) if pairs else None
            if evidence is not None:
                found.append(_Found(way, images, masks, pairs, evidence, clash))
        if _clear(found):
            break
    found = _with_images(files, found)
    if not found:
        raise UserError(_nothing_pairs(root, files))
    return _chosen(root, found)


def _with_images(files: Sequence[_File], found: Sequence[_Found]) -> list[_Found]:
    """Leave out pairs of masks where pictures of many colours lie beside them."""
    of_masks = [one for one in found if _is_of_masks(one)]
    paired = {path for one in of_masks for path in (*one.images.values(), *one.masks.values())}
    others = [file.path for file in files if file.path not in paired]
    if not of_masks or all(map(looks_like_mask, _some(others))):
        return list(found)
    return [one for one in found if one not in of_masks]


def _is_of_masks(one: _Found) -> bool:
    """Return whether nothing says what is a mask, and all of it could be."""
    if one.evidence is not _Evidence.NONE:
        return False
    return all(looks_like_mask(image) for image, _ in _some(sorted(one.pairs)))


def _chosen(root: Path, found: Sequence[_Found]) -> _Found:
    """Return the one that is clear and pairs the most; ask where there is none, or are several.

    What both names say needs no pixels; other ways count beside it where they pair more.
    """
    evidence = max(one.evidence for one in found)
    best = _largest([one for one in found if one.evidence is evidence])
    clear = _largest(_clear(found))
    doubts = _largest([one for one in found if one.evidence in (_Evidence.NONE, _Evidence.AGAINST)])
    for more in (clear, doubts):
        if more and len(more[0].pairs) > len(best[0].pairs):
            best = more
    first = best[0]
    a, b = first.way.names()
    turned = first.way.turned()
    if first.evidence is _Evidence.AGAINST:
        raise Unclear(
            f"{root}: {a} holds files of few values and {b} holds pictures; which are masks?",
            [first.way.reading(f"{a} are the images, as the names say"),
             turned.reading(f"{b} are the images, as the pixels say")],
        )  # fmt: skip
    if first.evidence is _Evidence.NONE:
        what = "files of few values" if _is_of_masks(first) else "pictures of many colours"
        raise Unclear(
            f"{root}: both {a} and {b} hold {what}; which are the masks?",
            [first.way.reading(f"{b} are the masks"), turned.reading(f"{a} are the masks")],
        )
    if len(best) > 1:
        raise Unclear(
            f"{root}: which files are the images, and which their masks?",
            [one.way.reading("{} are images and {} their masks ({} pairs)".format(
                *one.way.names(), len(one.pairs))) for one in best],
        )  # fmt: skip
    if first.clash:
        raise UserError(first.clash)
    return first


def _clear(found: Sequence[_Found]) -> list[_Found]:
    return [one for one in found if one.evidence >= _Evidence.CLEAR]


def _largest(found: Sequence[_Found]) -> list[_Found]:
    """Return those with the most pairs, and others with more than half as many and other pairs."""
    kept: list[_Found] = []
    for one in sorted(found, key=lambda one: -len(one.pairs)):
        if 2 * len(one.pairs) > len(kept[0].pairs if kept else ()) and not any(
            one.pairs <= other.pairs for other in kept
        ):
            kept.append(one)
    return kept


def _ways_by_folder(files: Sequence[_File], *, short: bool) -> list[_Way]:
    """List ways to tell images and masks apart by the one part in which their folders differ.

    Args:
        files: All pictures.
        short: The parts are one folder each; else one may be several folders deep, or no folder.
    """
    bounds: Counter[tuple[Folders, Folders]] = Counter()
    for slot in _slots(Counter(file.folders for file in files), short=short):
        parts = list(slot)
        if len(parts) > _MANY_PARTS:  # sequences rather than kinds of files
            parts = [part for part in parts if _kind_of_name("/".join(part))][:_MANY_PARTS]
        for a, b in permutations(parts, 2):
            if not (a and b and (a[0] == b[0] or a[-1] == b[-1])):
                bounds[a, b] += min(slot[a], slot[b])
    return [
        _Way(Where(images="/".join(a) or None, masks="/".join(b) or None), _FOLDERS, bound)
        for (a, b), bound in bounds.items()
    ]


def _slots(counts: Counter[Folders], *, short: bool) -> Iterable[Counter[Folders]]:
    """Return what stands between equal folders above and below, with the number of files."""
    slots: dict[tuple[Folders, Folders], Counter[Folders]] = {}
    for folders, number in counts.items():
        for start in range(len(folders) + 1):
            for end in range(start, len(folders) + 1):
                if end == start + 1 or not short:
                    slot = slots.setdefault((folders[:start], folders[end:]), Counter())
                    slot[folders[start:end]] += number
    return slots.values()


def _ways_by_name(files: Sequence[_File]) -> list[_Way]:
    """List ways to tell images and masks of one folder apart by ends or beginnings of names."""
    stems = {(file.split, file.folders, file.stem) for file in files}
    whole = {file.path.name for file in files}
    by_end: dict[tuple[object, ...], set[str]] = {}
    by_start: dict[tuple[object, ...], set[str]] = {}
    for file in files:
        stem, place = file.stem, (file.split, file.folders)
        by_end.setdefault((*place, stem), set()).add(file.suffix)
        for cut in range(len(stem)):
            first, rest = stem[:cut], stem[cut:]
            is_end = not first or (*place, first) in stems or _is_seam(first, rest)
            if is_end and re.match(_END_OF_NAME, rest):
                by_end.setdefault((*place, first), set()).add(rest + file.suffix)
            if first and not first[0].isdigit() and _is_seam(rest[::-1], first[::-1]):
                by_start.setdefault((*place, rest), set()).add(first)
    ways = [
        _Way(Where(image_suffix=a, mask_suffix=b), "one folder, told apart by the ends of names", n)
        for (a, b), n in _together(by_end.values())
        if n > 1 or not {a, b} <= whole  # two files of one folder alone have no kinds
    ]
    told = "one folder, told apart by the beginnings of names"
    return ways + [
        _Way(Where(images=a, masks=b), told, n)
        for (a, b), n in _together(by_start.values())
    ]  # fmt: skip


def _is_seam(stem: str, end: str) -> bool:
    """Return whether an end of a name may begin: at a sign, a number or a change of case."""
    before, after = stem[-1], end[0]
    if not (before.isalnum() and after.isalnum()):
        return before.isalnum()
    return before.isdigit() != after.isdigit() or before.isupper() != after.isupper()


def _together(parts: Iterable[set[str]]) -> list[tuple[tuple[str, str], int]]:
    """Count how often two parts of names go with the same rest, of the most frequent parts."""
    sets = [part for part in parts if len(part) > 1]
    often = {part for part, _ in Counter(chain.from_iterable(sets)).most_common(_MANY_PARTS)}
    return list(Counter(chain.from_iterable(
        permutations(sorted(part & often), 2) for part in sets
    )).items())  # fmt: skip


def _sorted_by(
    files: Sequence[_File], where: Where, root: Path | None = None
) -> tuple[Group, Group, str]:
    """Sort files into images and masks, as options say it.

    Args:
        files: All pictures.
        where: What is said.
        root: Folder of the data; given, a place may be any path of a folder.

    Returns:
        Images, masks, and a sentence about two files of one name, or nothing.
    """
    ends, places = (where.image_suffix, where.mask_suffix), (where.images, where.masks)
    keyed = [
        [(file.path, key) for file in files
         if (key := _key_of(file, places[i], ends[i], ends[1 - i], root)) is not None]
        for i in (0, 1)
    ]  # fmt: skip
    for i in (0, 1):
        if not any(ends) and not _parts_of(places[i]) and _parts_of(places[1 - i]):
            others = {path for path, _ in keyed[1 - i]}
            keyed[i] = [(path, key) for path, key in keyed[i] if path not in others]
    groups: tuple[Group, Group] = ({}, {})
    clash = ""
    for group, named in zip(groups, keyed, strict=True):
        for path, key in named:
            taken = group.setdefault(key, path)
            if taken != path and not clash:
                clash = f"{path}: {taken} has the same name; keep one of the two, or rename one"
    return *groups, clash


@cache
def _parts_of(place: str | None) -> tuple[str, ...]:
    """Return the folders of a place, without what only says a split."""
    parts = [_split_and_rest(part) for part in Path(place or "").parts]
    return tuple(rest for _, rest in parts if rest)


def _key_of(
    file: _File, place: str | None, end: str | None, other: str | None, root: Path | None
) -> str | None:
    """Return what a file shares with its partner; None where it is not of the place and end."""
    name, folders = file.path.name, file.folders
    if end is not None:
        longer = other is not None and other.endswith(end) and other != end
        if not name.endswith(end) or (longer and name.endswith(str(other))):
            return None
    stem = name[: len(name) - len(end)] if end else file.stem
    if place is not None:
        inside = _inside(root, file, place)
        if inside is not None:
            folders = inside
        elif name.startswith(place) and len(stem) > len(place):
            stem = stem[len(place) :]
        else:
            return None
    return "/".join(part for part in (file.split, *folders, stem) if part) or None


def _inside(root: Path | None, file: _File, place: str) -> tuple[str, ...] | None:
    """Return a file's folders below a named one; None where it is not below one."""
    ways = ((Path(place).parts, file.folders), (_parts_of(place), file.folders),
            (Path(place).parts, file.named))  # fmt: skip
    for parts, folders in ways:
        for start in range(len(folders) - len(parts) + 1):
            if folders[start : start + len(parts)] == parts:
                return (*file.folders[:start], *file.folders[start + len(parts) :])
    for folder in (root / place, Path(place)) if root is not None else ():
        if folder.is_dir() and file.path.resolve().is_relative_to(folder.resolve()):
            return file.path.resolve().relative_to(folder.resolve()).parts[:-1]
    return None


def _evidence_of(
    way: _Way, pairs: frozenset[tuple[Path, Path]], looks: dict[Path, bool]
) -> _Evidence | None:
    """Return what says which are masks; None where it is the other way round, or none can be."""
    a, b = way.names()
    kinds = _kind_of_name(a), _kind_of_name(b)
    are_alike = bool(kinds[0]) and kinds[0] == kinds[1]  # frames_with_annotations and annotations
    if not are_alike and (kinds[0] == "mask" or kinds[1] == "image"):
        return None
    chosen = _some(sorted(pairs))
    for path in chain.from_iterable(chosen):
        if path not in looks:
            looks[path] = looks_like_mask(path)
    seen = [(looks[image], looks[mask]) for image, mask in chosen]
    found = _judged(("", "") if are_alike else kinds, seen, are_folders=way.kind == _FOLDERS)
    if are_alike:
        return _Evidence.HALF if found is _Evidence.CLEAR else None
    return None if found is _Evidence.NONE and a > b else found


def _judged(
    kinds: tuple[str, str], seen: Sequence[tuple[bool, bool]], *, are_folders: bool
) -> _Evidence | None:
    """Return what names and pixels say together; None where nobody would take it for masks.

    Args:
        kinds: What the names say that each is, if they do.
        seen: Whether each of a few pairs looks like a mask.
        are_folders: Whether folders tell the two apart.
    """
    masks = all(image for image, _ in seen), all(mask for _, mask in seen)
    if masks == (True, False):
        return _Evidence.AGAINST if any(kinds) else None
    if all(kinds):
        return _Evidence.NAMED
    if masks == (False, True):
        return _Evidence.CLEAR
    if any(kinds):
        return _Evidence.HALF
    are_sequences = {*seen} >= {(True, True), (False, False)}  # each with images and masks
    is_asked = any(masks) or are_folders  # photos by day and by night are no masks
    return _Evidence.NONE if is_asked and not are_sequences else None


def _some(ordered: Sequence[_T]) -> Sequence[_T]:
    """Return a few of them, spread over all."""
    return ordered[:: max(1, len(ordered) // _LOOKED_AT)][:_LOOKED_AT]


def _kind_of_name(name: str) -> str:
    is_mask = re.search(_MASK_WORDS, name, re.IGNORECASE) is not None
    is_image = re.search(_IMAGE_WORDS, name, re.IGNORECASE) is not None
    return "" if is_mask == is_image else "mask" if is_mask else "image"


def looks_like_mask(path: Path) -> bool:
    """Return whether a file holds few values or colours; one that cannot be read does not."""
    try:
        with path.open("rb") as file, open_picture(file) as picture:
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
    found, how = _match_cut(images, masks)
    if len(found) == min(len(images), len(masks)):
        return found, how
    short = _without_splits(images), _without_splits(masks)
    more, why = _match_cut(*short)
    return (more, why) if len(more) > len(found) else (found, how)


def _without_splits(group: Group) -> Group:
    """Return a group without the words of names that say their split once more, where it can be.

    That is ``train/21_training`` and ``test/01_test``, whose masks may be ``21_manual``.
    """
    found: Group = {}
    for key, path in group.items():
        folder, _, name = key.rpartition("/")
        words = [word for word, split in SPLITS.items() if split == folder.partition("/")[0]]
        kept = re.sub(rf"[ _-]({'|'.join(words)})(?=$|[ _-])", "", name, flags=re.IGNORECASE)
        found[f"{folder}/{kept}" if words else key] = path
    return found if len(found) == len(group) else group


def _match_cut(images: Group, masks: Group) -> tuple[dict[str, tuple[Path, Path]], str]:
    """Pair files by their names, equal or without what all names of a group have in common."""
    best: tuple[Group, Group] = images, masks
    most, how = 0.0, ""
    cut_masks = [(cut, group) for cut in _cuts(masks) if (group := _cut(masks, *cut))]
    for of_images in _cuts(images):
        first = _cut(images, *of_images)
        for of_masks, second in cut_masks:
            fewer, more = sorted((first, second), key=len)
            some = sorted(fewer)[:: max(1, len(fewer) // _SAMPLED)]
            hits = sum(key in more for key in some) / max(1, len(some))
            if hits > most:
                what = ["beginnings"] * any((of_images[0], of_masks[0]))
                what += ["ends"] * any((of_images[1], of_masks[1]))
                best, most, how = (first, second), hits, " and ".join(what)
        if most == 1:
            break
    first, second = best
    found = {key: (first[key], second[key]) for key in sorted(first.keys() & second.keys())}
    return found, f"without the {how}" if how else ""


def _cuts(group: Group) -> list[tuple[int, int]]:
    """Return how many letters may be cut at both ends of all names, first the fewest."""
    start, end = _common(group)
    name = next(iter(group), "").rpartition("/")[2]
    starts = [k for k in range(1, len(start)) if _is_seam(name[k:][::-1], name[:k][::-1])]
    ends = [k for k in range(1, len(end)) if _is_seam(name[:-k], name[-k:])]
    starts = [0, *starts[-_SEAMS:], *([len(start)] if start else [])]
    ends = [0, *ends[-_SEAMS:], *([len(end)] if end else [])]
    return sorted(product(starts, ends), key=lambda cut: (cut[0] > 0) + (cut[1] > 0))


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
    splits = [_split_of_file(pair.image.name) for pair in pairs]
    said_once = all(splits) and not any(pair.split for pair in pairs)
    if said_once and "train" in splits and len({*splits}) > 1:
        pairs = [pair._replace(split=s) for pair, s in zip(pairs, splits, strict=True)]
        kind += ", split by the names of files"
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


def _split_of_file(name: str) -> str:
    """Return the split that a file's name begins with, as ``train_1`` and ``testA_1`` do."""
    found = re.match(rf"({'|'.join(SPLITS)})[A-Z]?[ _-]", name, re.IGNORECASE)
    return SPLITS[found[1].lower()] if found else ""


def _first(group: Group) -> str:
    return str(min(group.values(), default="none"))


def _given_groups(root: Path, files: Sequence[_File], where: Where) -> tuple[Group, Group]:
    """Return the groups that the user names."""
    images, masks, clash = _sorted_by(files, where, root)
    for what, group, place, suffix in (
        ("images", images, where.images, where.image_suffix),
        ("masks", masks, where.masks, where.mask_suffix),
    ):
        if not group:
            ends = f" ending in {suffix}" if suffix else ""
            at = f"{root / place}" if place else f"{root}"
            raise UserError(
                f"{at}: holds no pictures{ends}; --{what} and --{what[:-1]}-suffix name a folder "
                "and the end of file names"
            )
    if clash:
        raise UserError(clash)
    if set(images.values()) & set(masks.values()):
        raise UserError(
            f"{_first(images)}: would be both image and mask; give --images and --masks two "
            "folders, or --image-suffix and --mask-suffix two ends of names"
        )
    return images, masks


def _nothing_pairs(root: Path, files: Sequence[_File]) -> str:
    some = files[:: max(1, len(files) // _MANY_PARTS)]
    masks = [file.path for file in some if looks_like_mask(file.path)]
    folders = Counter("/".join(file.folders) or "." for file in files)
    held = ", ".join(f"{n} in {folder}" for folder, n in folders.most_common(4))
    if not masks:
        others = Counter(
            path.suffix for path in root.rglob("*") if path.suffix in _ANNOTATIONS
        ).most_common(1)
        told = [
            f"; its {n} {end} files are no export that is read: COCO, LabelMe and CVAT's masks are"
            for end, n in others
        ]
        return (
            f"{root}: holds {len(files)} pictures ({held}) and no masks for them; put masks of the "
            f"same names into a folder of their own{''.join(told)}"
        )
    images = [file.path for file in some if file.path not in masks]
    other = next(iter([*images, *masks[1:], *masks]))
    return (
        f"{root}: no image and mask have the same name ({held}), such as {other} and "
        f"{masks[0]}; rename them, or say which belong together: folders with --images and "
        "--masks, ends of names with --image-suffix and --mask-suffix"
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
