"""Where weights come from and how they are read without running code.

A source is a file, an https address, or a published name (``open-mmlab://resnet50_v1c``,
``torchvision://resnet50``). Files are read by ``torch.load(weights_only=True)``; what that refuses
of OpenMMLab's files goes through the inert reader; safetensors have their own.
"""

import pickle
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlseg.errors import CheckpointError
from nlseg.weights.downloads import fetch, is_remote
from nlseg.weights.inert import Machine
from nlseg.weights.safetensors_file import read_safetensors


def read_checkpoint(source: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the host.

    Args:
        source: File, https address, or published name.

    Raises:
        CheckpointError: It is not there, damaged, or asks for more than data.
    """
    path = fetch(str(source)) if is_remote(str(source)) else Path(source)
    if not path.is_file():
        raise CheckpointError(f"{path}: is not there{_neighbours(path)}")
    if path.suffix == ".safetensors":
        return {"state_dict": read_safetensors(path)}
    checked = _check_archive(path) if zipfile.is_zipfile(path) else None
    if checked is None and tarfile.is_tarfile(path):
        raise CheckpointError(f"{path}: is refused: PyTorch's old .tar format writes files to read")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if checked is None:
            raise CheckpointError(f"{path}: is refused: {_asked_for(error)}") from None
        content = _read_inertly(path, checked)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged or no checkpoint: {_short(error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint's dict")
    return content


def _neighbours(path: Path) -> str:
    files = sorted(file.name for file in path.parent.glob("*.pth")) if path.parent.is_dir() else []
    return f"; in that folder: {', '.join(files[-5:])}" if files else ""


def _asked_for(error: BaseException) -> str:
    name = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {name.group(1)}, which no weights need" if name else _short(error)


def _short(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]


def _check_archive(path: Path) -> str:
    """Refuse an archive that would grow when unpacked; return the name of its top folder."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged: {_short(error)}") from None
    packed = [e.filename for e in entries if e.compress_type or e.file_size != e.compress_size]
    if packed or sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(
            f"{path}: is refused: it holds {packed[0] if packed else 'entries'} packed, and would "
            f"grow beyond its {size} bytes; PyTorch never writes such files"
        )
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        # PyTorch before 2.6 hands these to torch.jit.load even when asked for weights only
        raise CheckpointError(f"{path}: is refused: it is a TorchScript program, not weights")
    names = [e.filename for e in entries if e.filename.endswith("/data.pkl")]
    if len(names) != 1:
        raise CheckpointError(f"{path}: is a zip archive but no PyTorch file")
    return names[0].removesuffix("/data.pkl")


def _read_inertly(path: Path, top: str) -> Any:
    cache: dict[str, Tensor] = {}
    with zipfile.ZipFile(path) as archive:

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            if key not in cache:
                data = bytearray(archive.read(f"{top}/data/{key}"))
                whole = data[: len(data) // dtype.itemsize * dtype.itemsize]
                cache[key] = torch.frombuffer(whole, dtype=dtype) if whole else torch.empty(0)
            if count > len(cache[key]):
                raise ValueError(f"storage {key} has {len(cache[key])} of {count} elements")
            return cache[key]

        return Machine(str(path), storage).run(archive.read(f"{top}/data.pkl"))
