"""PyTorch's two file layouts: the zip archive, and the row of pickles before PyTorch 1.6."""

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from nlseg.errors import CheckpointError
from nlseg.weights import limits
from nlseg.weights.inert import BROKEN, Machine

_CHUNK = 1 << 20
_ZIP_START, _PICKLE_START = b"PK\x03\x04", b"\x80"
_NO_CHECKPOINT = "is damaged or no checkpoint: PyTorch writes zip archives, and did not write this"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LINE = 4096  # bytes of a name or a number written as text


def read_pytorch(path: Path) -> Any:
    """Return the content of a file that ``torch.save`` wrote.

    Every entry of an archive is compared with its checksum. Memory stays within a small multiple of
    the file's size, and time in proportion to it.

    Raises:
        CheckpointError: It is damaged, no such file, or asks for more than data.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _Archive(path, archive).read()
        if start.startswith(_ZIP_START):
            raise CheckpointError(
                f"{path}: is damaged: its end is missing; copy or download it again"
            )
        if start[257:262] == b"ustar":
            raise CheckpointError(
                f"{path}: is refused: PyTorch's old .tar format writes files to read"
            )
        if not start.startswith(_PICKLE_START):
            raise CheckpointError(f"{path}: {_NO_CHECKPOINT}")
        with open(path, "rb") as file:
            return _Row(path, file).read()
    except (*BROKEN, zipfile.BadZipFile, NotImplementedError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is damaged: {_first_line(error)}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: is refused: it does not fit into memory") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]


def _allowed_bytes(path: Path) -> int:
    return limits.MAX_UNFOLDED * path.stat().st_size + limits.UNFOLDED_ALLOWANCE


def _flat(data: np.ndarray, dtype: torch.dtype, count: int) -> Tensor:
    """Look at bytes as at least ``count`` numbers."""
    if not 0 <= count <= len(data) // dtype.itemsize:
        raise ValueError(f"a storage has {len(data)} bytes for {count} elements of {dtype}")
    if len(data) < dtype.itemsize:
        return torch.empty(0, dtype=dtype)
    whole = data[: len(data) // dtype.itemsize * dtype.itemsize]
    return torch.from_numpy(whole).view(dtype)


class _Archive:
    """A zip archive whose ``data.pkl`` names the other entries as storages."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.read_entries: set[str] = set()
        self.storages: dict[str, np.ndarray] = {}
        self.top = self._check_entries()

    def _check_entries(self) -> str:
        """Refuse an archive that would grow when unpacked; return the name of its top folder."""
        size, entries = self.path.stat().st_size, self.archive.infolist()
        packed = [e.filename for e in entries if e.compress_type or e.file_size != e.compress_size]
        if packed or sum(entry.file_size for entry in entries) > size:
            raise CheckpointError(
                f"{self.path}: is refused: it holds {packed[0][:200] if packed else 'entries'} "
                f"packed, and would grow beyond its {size} bytes; PyTorch never writes such files"
            )
        if len({entry.filename for entry in entries}) < len(entries):
            raise CheckpointError(f"{self.path}: is refused: two of its entries have one name")
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            # PyTorch before 2.6 hands these to torch.jit.load even when asked for weights only
            raise CheckpointError(
                f"{self.path}: is refused: it is a TorchScript program, not weights"
            )
        names = [e.filename for e in entries if e.filename.endswith("/data.pkl")]
        if len(names) != 1:
            raise CheckpointError(f"{self.path}: is a zip archive but no PyTorch file")
        if not any(entry.CRC for entry in entries):
            raise CheckpointError(
                f"{self.path}: is refused: it was written without checksums; write it again after "
                "torch.serialization.set_crc32_options(True)"
            )
        return names[0].removesuffix("/data.pkl")

    def read(self) -> Any:
        byteorder = f"{self.top}/byteorder"
        if byteorder in self.archive.namelist() and self._entry(byteorder).tobytes() != b"little":
            raise CheckpointError(f"{self.path}: is refused: its numbers are big-endian")
        pickled = f"{self.top}/data.pkl"
        if self.archive.getinfo(pickled).file_size > limits.MAX_TEXT:
            raise CheckpointError(
                f"{self.path}: is refused: it describes its tensors in more than "
                f"{limits.MAX_TEXT >> 20} MiB"
            )
        machine = Machine(str(self.path), self._storage, _allowed_bytes(self.path))
        content = machine.run(self._entry(pickled).tobytes())
        for name in self.archive.namelist():  # what nothing asked for is compared all the same
            if name not in self.read_entries:
                self._entry(name)
        return content

    def _storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in self.storages:
            self.storages[key] = self._entry(f"{self.top}/data/{key}")
        return _flat(self.storages[key], dtype, count)

    def _entry(self, name: str) -> np.ndarray:
        """Read an entry; ``zipfile`` compares its checksum at the end."""
        self.read_entries.add(name)
        data = np.empty(self.archive.getinfo(name).file_size, np.uint8)
        with self.archive.open(name) as entry:
            _fill(data, entry)
            entry.read(1)
        return data


def _fill(data: np.ndarray, file: Any) -> None:
    place = 0
    while place < len(data):
        chunk = file.read(min(_CHUNK, len(data) - place))
        if not chunk:
            raise EOFError(f"{len(data) - place} bytes are missing at its end")
        data[place : place + len(chunk)] = np.frombuffer(chunk, np.uint8)
        place += len(chunk)


class _Bounded:
    """A file of which no single piece may be larger than what a pickle needs."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        if size > limits.MAX_TEXT:
            raise limits.ExcessError(f"it claims a text of {size} bytes")
        return self.file.read(size)

    def readline(self) -> bytes:
        return self.file.readline(_LINE)


class _Row:
    """Five pickles one behind the other, then the storages: number of elements and numbers."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.left = path.stat().st_size
        self.storages: dict[str, tuple[np.ndarray, torch.dtype]] = {}

    def read(self) -> Any:
        magic = self._pickle()
        if magic != _LEGACY_MAGIC:
            raise CheckpointError(f"{self.path}: {_NO_CHECKPOINT}")
        self._pickle()  # the version of the layout
        system = self._pickle()
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise CheckpointError(f"{self.path}: is refused: its numbers are big-endian")
        content = self._pickle()
        self._fill_storages(self._pickle())
        return content

    def _pickle(self) -> Any:
        machine = Machine(str(self.path), self._storage, _allowed_bytes(self.path))
        return machine.run(_Bounded(self.file))

    def _storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in self.storages:
            self.left -= count * dtype.itemsize
            if count < 0 or self.left < 0:
                raise ValueError(f"a storage of {count} elements is not in the file")
            self.storages[key] = np.empty(count * dtype.itemsize, np.uint8), dtype
        return _flat(self.storages[key][0], dtype, count)

    def _fill_storages(self, keys: Any) -> None:
        if sorted(keys) != sorted(self.storages):
            raise ValueError("its list of storages is not that of its tensors")
        for key in keys:
            data, dtype = self.storages[key]
            (count,) = struct.unpack("<q", self.file.read(8))
            if count * dtype.itemsize != len(data):
                raise ValueError(f"storage {key} has {count} elements")
            _fill(data, self.file)
