"""Decoded images and label maps in one file on disk, read through memory mapping.

The file holds the frames after each other, uint8, then a JSON index with a checksum of each frame,
then the index's length and checksum. It is built once, under a lock, beside its final name, and
renamed when it is complete: another process sees all of it or nothing. A crop reads only the pages
that its rows lie on.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray
from tqdm import tqdm

from nlseg.datasets.transforms.decode import picture_size
from nlseg.datasets.transforms.labels import LoadAnnotations
from nlseg.datasets.transforms.loading import LoadImageFromFile
from nlseg.errors import ConfigError, DataError

_MAGIC = b"nlseg frames v2\n"
_WORD = 8  # bytes; frames start at multiples of it
_GIB = 1 << 30


class FrameSource(NamedTuple):
    """A file, how it is decoded, and how many channels that gives (0: no channel axis)."""

    file: str
    read: Callable[[str], NDArray[np.uint8]]
    channels: int


class Frame(NamedTuple):
    """Where a decoded file is in the cache; ``offset`` -1 for one that could not be decoded."""

    file: str
    num_bytes: int
    mtime_ns: int
    shape: list[int]
    offset: int
    checksum: int = 0

    def fits(self, size: int) -> bool:
        """Return whether this can be the entry of a file with ``size`` bytes of frames."""
        numbers = [self.num_bytes, self.mtime_ns, self.offset, self.checksum, *self.shape]
        if not isinstance(self.file, str) or not all(type(number) is int for number in numbers):
            return False
        if self.offset < 0:
            return True
        return (
            len(self.shape) in (2, 3)
            and min(self.shape) > 0
            and (self.offset % _WORD == 0 and self.offset + prod(self.shape) <= size)
        )


def checksum_of(pixels: NDArray[np.uint8]) -> int:
    """Sum the 64-bit words of a frame: as fast as they are read, and any changed bit changes it.

    Args:
        pixels: Shape (bytes,), starting at a multiple of 8 bytes.
    """
    whole = pixels.size - pixels.size % _WORD
    total = int(np.add.reduce(pixels[:whole].view(np.uint64), dtype=np.uint64))
    return (total + int(pixels[whole:].sum())) % (1 << 64)


class FrameCache:
    """Decoded frames by the path of the file that they came from.

    A process compares a frame with its checksum when it uses it for the first time. A damaged one
    is not used, and the cache is built again at the next start.

    Args:
        path: Cache file, complete and valid; see ``open_cache``.
        frames: Its index.
    """

    def __init__(self, path: Path, frames: Sequence[Frame]) -> None:
        self.path = path
        self.frames = {frame.file: frame for frame in frames if frame.offset >= 0}
        self._bytes: NDArray[np.uint8] | None = None
        self._checked: set[str] = set()

    def get(self, file: str) -> NDArray[np.uint8] | None:
        """Return a frame as a read-only view, or None for a file that has to be decoded."""
        frame = self.frames.get(file)
        if frame is None:
            return None
        if self._bytes is None:
            self._bytes = np.asarray(np.memmap(self.path, np.uint8, "r"))
        pixels = self._bytes[frame.offset : frame.offset + prod(frame.shape)]
        if file not in self._checked:
            if checksum_of(pixels) != frame.checksum:
                self._drop(file)
                return None
            self._checked.add(file)
        return pixels.reshape(frame.shape)

    def _drop(self, file: str) -> None:
        del self.frames[file]
        self.path.unlink(missing_ok=True)  # who has it open goes on reading
        print_log(
            f"{self.path}: the frame of {file} is damaged; it is decoded anew, and the cache is "
            "built again at the next start",
            "current",
            logging.WARNING,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapping out, so that another process opens its own."""
        return {**self.__dict__, "_bytes": None}


def open_cache(folder: str, name: str, key: str, sources: Sequence[FrameSource]) -> FrameCache:
    """Open the cache of some files, building it first where it is missing or out of date.

    Args:
        folder: Where cache files live; made where it is not there.
        name: Beginning of the cache file's name, for people.
        key: Everything besides the files themselves that the frames depend on.
        sources: The files.

    Raises:
        DataError: The folder cannot be written or its disk has too little room.
    """
    files = [source.file for source in sources]
    digest = hashlib.sha256("\0".join([key, *files]).encode()).hexdigest()[:16]
    path = Path(folder) / f"{name}-{digest}.frames"
    frames = _read_valid(path, files)
    if frames is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path.with_suffix(".lock")):
                # another process may have built it while this one waited
                frames = _read_valid(path, files) or _build(path, sources)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot write the cache of decoded frames: {error.strerror or error}; "
                "set cache_dir to a folder that can be written, or leave cache out"
            ) from error
    return FrameCache(path, frames)


def _read_valid(path: Path, files: Sequence[str]) -> list[Frame] | None:
    """Return the index of a cache file that fits the files as they are now, else None."""
    try:
        frames = _read_index(path)
        stamps = [os.stat(file) for file in files]
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    known = [(frame.file, frame.num_bytes, frame.mtime_ns) for frame in frames]
    now = [(f, s.st_size, s.st_mtime_ns) for f, s in zip(files, stamps, strict=True)]
    return frames if known == now else None


def _read_index(path: Path) -> list[Frame]:
    """Read the index at the end of a cache file.

    Raises:
        ValueError: The index is damaged, or does not fit the file.
    """
    with open(path, "rb") as file:
        tail = 8 + 4 + len(_MAGIC)
        size = file.seek(-tail, os.SEEK_END)
        length = int.from_bytes(file.read(8), "little")
        checksum = int.from_bytes(file.read(4), "little")
        if file.read() != _MAGIC or length > size:
            raise ValueError(f"{path} is no cache of frames")
        file.seek(size - length)
        text = file.read(length)
    frames = [Frame(*entry) for entry in json.loads(text)] if crc32(text) == checksum else []
    if not frames or not all(frame.fits(size - length) for frame in frames):
        raise ValueError(f"{path}: its index is damaged")
    return frames


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process in at a time; the system takes the lock from a process that dies."""
    try:
        import fcntl
    except ImportError:  # Windows: several processes may build; the last rename wins
        yield
        return
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            print_log(f"{path}: no file locks here, every process builds its own", "current")
        yield


def _lay_out(sources: Sequence[FrameSource]) -> tuple[list[Frame], int]:
    """Give every file its place; return the index and the bytes of all frames."""
    frames, offset = [], 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        sizes = list(pool.map(picture_size, (source.file for source in sources)))
    for source, size in zip(sources, sizes, strict=True):
        status = os.stat(source.file)
        shape = [] if size is None else [*size, *([source.channels] if source.channels else [])]
        place = offset if shape else -1
        frames.append(Frame(source.file, status.st_size, status.st_mtime_ns, shape, place))
        offset += -(-prod(shape) // _WORD) * _WORD if shape else 0
    return frames, offset


def _build(path: Path, sources: Sequence[FrameSource]) -> list[Frame]:
    frames, total = _lay_out(sources)
    free = shutil.disk_usage(path.parent).free
    if total > free:
        raise DataError(
            f"{path.parent}: the cache of {len(frames)} decoded frames needs "
            f"{total / _GIB:.2f} GiB and {free / _GIB:.2f} GiB are free; set cache_dir to another "
            "disk, or leave cache out"
        )
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        written = _write_frames(temporary, sources, frames, total)
        index = json.dumps(written).encode()
        with open(temporary, "ab") as file:
            lengths = len(index).to_bytes(8, "little") + crc32(index).to_bytes(4, "little")
            file.write(index + lengths + _MAGIC)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _reserve(path: Path, size: int) -> None:
    """Make a file of a size whose blocks are there: a mapping cannot report a full disk."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _write_frames(
    path: Path, sources: Sequence[FrameSource], frames: Sequence[Frame], total: int
) -> list[Frame]:
    _reserve(path, max(total, 1))
    target = np.memmap(path, np.uint8, "r+", shape=(max(total, 1),))

    def write(source: FrameSource, frame: Frame) -> Frame:
        if frame.offset < 0:
            return frame
        try:
            array = source.read(source.file)
        except DataError:
            return frame._replace(offset=-1)  # told when the sample is used
        if list(array.shape) != frame.shape or array.dtype != np.uint8:
            return frame._replace(offset=-1)
        pixels = target[frame.offset : frame.offset + array.size]
        pixels[:] = array.reshape(-1)
        return frame._replace(checksum=checksum_of(pixels))

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        done = pool.map(write, sources, frames)
        label = f"decoding into {path.parent.name}"
        written = list(tqdm(done, label, len(frames), unit="file", disable=None))
    target.flush()
    return written


if TYPE_CHECKING:
    from nlseg.datasets.base import BaseSegDataset

_DEFAULT_FOLDER = ".nlseg_cache"
_KEYS = (("img_path", "cached_img"), ("seg_map_path", "cached_label"))


def cache_files(dataset: "BaseSegDataset") -> FrameCache:
    """Open or build the cache of a data set's images and label maps.

    Label maps are kept as the files say; shift and label map are applied after reading.

    Args:
        dataset: Its files are listed; the loading transforms of its pipeline decode.

    Raises:
        ConfigError: The pipeline does not load uint8 images by ``LoadImageFromFile``.
        DataError: The folder cannot be written or is too small.
    """
    entries, transforms = dataset.data_list, dataset.pipeline.transforms
    load = next((step for step in transforms if type(step) is LoadImageFromFile), None)
    annotate = next((step for step in transforms if type(step) is LoadAnnotations), None)
    if load is None or not load.is_plain:
        raise ConfigError(
            "cache='memmap': the pipeline needs LoadImageFromFile with color_type='color', "
            "to_float32=False and ignore_empty=False; change that or leave cache out"
        )
    sources = [FrameSource(entry["img_path"], load.read, 3) for entry in entries]
    key = f"{load.color_type} {load.imdecode_backend}"
    if annotate is not None:
        read = partial(annotate.read, sample={"palette_to_index": dataset.palette_to_index})
        labels = [entry["seg_map_path"] for entry in entries if "seg_map_path" in entry]
        sources += [FrameSource(label, read, 0) for label in labels]
        key += (
            f" {annotate.imdecode_backend} {annotate.palette_to_index or dataset.palette_to_index}"
        )
    name = Path(os.path.dirname(entries[0]["img_path"])).name or "frames"
    folder = dataset.cache_dir or os.path.join(dataset.data_root or "", _DEFAULT_FOLDER)
    return open_cache(folder, name, key, sources)


def attach_frames(cache: FrameCache, entry: dict[str, Any]) -> None:
    """Hand a sample its decoded frames, as far as the cache has them."""
    for path, key in _KEYS:
        frame = cache.get(entry[path]) if path in entry else None
        if frame is not None:
            entry[key] = frame
