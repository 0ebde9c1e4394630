"""What is to be labelled: files, folders, patterns and lists become sources with names."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nlseg.errors import UserError, near_words
from nlseg.files import VIDEO_SUFFIXES

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2",
)  # fmt: skip
Kind = Literal["image", "video"]


@dataclass(frozen=True)
class Source:
    """A file to label.

    Args:
        path: The file.
        name: Path of its results below the output folder, without a suffix.
        kind: What is in it.
    """

    path: Path
    name: Path
    kind: Kind


def kind_of(path: Path) -> Kind | None:
    """Return what a file holds by its suffix, None where it is neither image nor video."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


def find_sources(inputs: Sequence[str], listed: Iterable[str] | None = None) -> list[Source]:
    """Turn what the command was given into a list of sources, in a stable order.

    Args:
        inputs: Files, folders (searched with all folders below), patterns such as ``a/*.png``,
            ``@FILE`` for a file that lists one path a line, ``-`` for such a list on standard
            input.
        listed: Lines of standard input; read from the process's own where None.

    Raises:
        UserError: An input does not exist, or there is nothing to label in all of them.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        for path, name in _expand(given, listed):
            found.setdefault(path, name)
    if not found:
        raise UserError(
            f"{' '.join(inputs)}: no image or video in there; read are "
            f"{' '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}"
        )
    return list(_with_own_names(found))


def _expand(  # noqa: C901, PLR0912 - one branch for each form of input
    given: str, listed: Iterable[str] | None
) -> Iterator[tuple[Path, Path]]:
    if given == "-" or given.startswith("@"):
        for line in _lines(given, listed):
            yield from _expand(line, None)
        return
    path = Path(given)
    if path.is_dir():
        inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        for file in sorted(file for file in inside if kind_of(file)):
            yield file, file.relative_to(path)
    elif path.exists():
        if kind_of(path) is None:
            known = " ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
            raise UserError(f"{given}: is no image or video by its suffix; read are {known}")
        yield path, Path(path.name)
    elif glob.has_magic(given):
        matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
        root = Path(os.path.commonpath([match.parent for match in matches])) if matches else path
        for match in matches:
            if kind_of(match):
                yield match, match.relative_to(root)
    else:
        raise UserError(f"{given}: there is no such file or folder{_nearest(path)}")


def _lines(given: str, listed: Iterable[str] | None) -> list[str]:
    if given == "-":
        lines = sys.stdin if listed is None else listed
        return [line.strip() for line in lines if line.strip()]
    try:
        text = Path(given[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{given[1:]}: the list cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    near = near_words(path.name, os.listdir(path.parent))
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _with_own_names(found: Mapping[Path, Path]) -> Iterator[Source]:
    """Give each file a name of its own: with more folders, or its suffix, where two are alike."""
    groups: dict[Path, list[Path]] = {}
    for path, name in found.items():
        groups.setdefault(name.with_suffix(""), []).append(path)
    taken: set[Path] = set()
    for path, name in found.items():
        kind = kind_of(path)
        assert kind is not None
        own = name.with_suffix("")
        if len(groups[own]) > 1:
            own = own.with_name(f"{own.name}_{path.suffix[1:]}")
        parents = list(path.resolve().parents)
        while own in taken and parents:
            own = Path(parents.pop(0).name or "root") / own
        taken.add(own)
        yield Source(path, own, kind)


def share_of_process(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return (number of this process, number of processes) that share one list.

    torchrun's processes, the tasks of a Slurm step and the jobs of a Slurm array count, and an
    array of steps too.
    """
    env = os.environ if environment is None else environment
    rank, size = 0, 1
    for number, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if number in env and count in env:
            rank, size = int(env[number]), int(env[count])
            break
    if "SLURM_ARRAY_TASK_ID" in env:
        first = int(env.get("SLURM_ARRAY_TASK_MIN", 0))
        step = int(env.get("SLURM_ARRAY_TASK_STEP", 1))
        job = (int(env["SLURM_ARRAY_TASK_ID"]) - first) // step
        rank, size = job * size + rank, int(env.get("SLURM_ARRAY_TASK_COUNT", 1)) * size
    return rank, size
