"""Find the image and label files of a data set, and say precisely what is missing."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from mmengine import fileio

from nlseg.errors import DataError

_SHOWN = 5


class Folders(TypedDict, total=False):
    """Where the files lie, from ``data_root`` on."""

    img_path: str | None
    seg_map_path: str | None


@dataclass(frozen=True)
class PairSource:
    """Where a data set's files are.

    ``labels`` is None for images without labels; ``list_file`` is empty to take every image below
    ``images``, and else names a text file with one relative path without suffix a line.
    """

    images: str
    labels: str | None
    image_suffix: str
    label_suffix: str
    list_file: str = ""
    backend_args: Mapping[str, Any] | None = None

    @property
    def is_local(self) -> bool:
        """Return whether the files are in the ordinary file system."""
        return not self.backend_args or self.backend_args.get("backend") == "local"


def find_pairs(source: PairSource) -> list[tuple[str, str | None]]:
    """List the (image, label) files of a data set, sorted by image or in the order of the list.

    Raises:
        DataError: A folder or the list is not there, no image was found, or images or labels of
            some names are missing.
    """
    if source.list_file and not os.path.isdir(source.list_file):
        stems = _read_list(source)
    else:
        stems = _list_images(source)
    pairs = [
        (
            os.path.join(source.images, stem + source.image_suffix),
            None if source.labels is None else _label_path(source, stem),
        )
        for stem in stems
    ]
    if source.is_local:
        _check_present([image for image, _ in pairs], source.images, "image", "img_suffix")
        if source.labels is not None:
            labels = [str(label) for _, label in pairs]
            _check_present(labels, source.labels, "label", "seg_map_suffix")
    return pairs


def _label_path(source: PairSource, stem: str) -> str:
    assert source.labels is not None
    return os.path.join(source.labels, stem + source.label_suffix)


def _read_list(source: PairSource) -> list[str]:
    path = source.list_file
    if source.is_local and not os.path.isfile(path):
        raise DataError(f"{path}: the list of images (ann_file) is not there")
    text: str = fileio.get_text(path, backend_args=source.backend_args)
    stems = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if not stems:
        raise DataError(f"{path}: the list of images (ann_file) is empty")
    suffix = source.image_suffix
    if all(stem.endswith(suffix) for stem in stems):
        raise DataError(
            f"{path}: names such as {stems[0]!r} end in {suffix!r}, which img_suffix adds once "
            "more; list them without it"
        )
    return stems


def _list_images(source: PairSource) -> list[str]:
    suffix = source.image_suffix
    if not source.is_local:
        names: Iterable[str] = fileio.list_dir_or_file(
            source.images,
            list_dir=False,
            suffix=suffix,
            recursive=True,
            backend_args=source.backend_args,
        )
        return sorted(name[: -len(suffix)] for name in names)
    _check_folder(source.images, "img_path")
    stems = [name[: len(name) - len(suffix)] for name in walk(source.images) if _ends(name, suffix)]
    if not stems:
        raise DataError(
            f"{source.images}: 0 images found with img_suffix={suffix!r}; "
            f"{describe_suffixes(walk(source.images))}"
        )
    return sorted(stems, key=lambda stem: os.path.join(source.images, stem + suffix))


def _ends(name: str, suffix: str) -> bool:
    return name.endswith(suffix) and not os.path.basename(name).startswith(".")


def walk(folder: str) -> Iterator[str]:
    """Yield the files below a folder as relative paths, without hidden ones; links are followed.

    Raises:
        DataError: A link leads back to a folder above it.
    """
    above: dict[str, dict[tuple[int, int], str]] = {}
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        status = os.stat(root)
        here = (status.st_dev, status.st_ino)
        chain = above.get(os.path.dirname(root), {}) if root != folder else {}
        if here in chain:
            raise DataError(f"{root}: this link leads back to {chain[here]}, a loop without end")
        above[root] = {**chain, here: root}
        relative = os.path.relpath(root, folder)
        for name in files:
            if not name.startswith("."):
                yield name if relative == "." else os.path.join(relative, name)


def describe_suffixes(names: Iterable[str]) -> str:
    """Say which suffixes a folder's files have, the most frequent first."""
    counts = Counter(os.path.splitext(name)[1] or "no suffix" for name in names)
    if not counts:
        return "the folder holds no files"
    return "it holds " + ", ".join(
        f"{count} x {suffix}" for suffix, count in counts.most_common(_SHOWN)
    )


def _check_folder(folder: str, key: str) -> None:
    if os.path.isdir(folder):
        return
    parent = os.path.abspath(folder)
    missing = parent
    while not os.path.isdir(parent):
        missing, parent = parent, os.path.dirname(parent)
    there = sorted(entry for entry in os.listdir(parent) if not entry.startswith("."))[:8]
    raise DataError(
        f"{folder}: this folder (data_prefix.{key}) is not there; {parent} has no "
        f"{os.path.basename(missing)!r}, it holds {', '.join(there) or 'nothing'}"
    )


def _check_present(paths: Sequence[str], folder: str, what: str, suffix_key: str) -> None:
    """Refuse a list of files some of which are missing, reading every folder only once."""
    _check_folder(folder, "img_path" if what == "image" else "seg_map_path")
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        parent, name = os.path.split(path)
        if parent not in listings:
            listings[parent] = frozenset(os.listdir(parent) if os.path.isdir(parent) else ())
        if name not in listings[parent]:
            missing.append(path)
    if missing:
        shown = "".join(f"\n  {path}" for path in missing[:_SHOWN])
        more = f"\n  and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"{folder}: {len(missing)} of {len(paths)} {what} files are missing "
            f"({suffix_key}; {describe_suffixes(walk(folder))}):{shown}{more}"
        )
