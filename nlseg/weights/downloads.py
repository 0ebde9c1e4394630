"""Fetch published weights over https, whole and with their hash checked, into PyTorch's cache."""

import contextlib
import fcntl
import hashlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import urldefrag, urlsplit

import mmengine
import torch

from nlseg.errors import CheckpointError
from nlseg.files import replace_file

_TIMEOUT_S = 60
_CHUNK = 1 << 20
_TABLES = {
    "torchvision": ("torchvision_0.12.json",),
    "modelzoo": ("torchvision_0.12.json",),
    "open-mmlab": ("openmmlab.json", "mmcls.json"),
    "openmmlab": ("openmmlab.json", "mmcls.json"),
    "mmcls": ("mmcls.json",),
}


def is_remote(source: str) -> bool:
    """Tell whether a source is an address or a published name rather than a file."""
    return "://" in source


def address_of(source: str) -> str:
    """Turn a published name into its address; an address stays.

    Raises:
        CheckpointError: The name is not known, or the address is not https.
    """
    scheme, _, name = source.partition("://")
    if scheme in _TABLES:
        folder = resources.files(mmengine) / "hub"
        for table in _TABLES[scheme]:
            known = json.loads((folder / table).read_text())
            if name in known:
                return str(known[name]).replace("http://", "https://")
        raise CheckpointError(f"{source}: {scheme} has published no weights of this name")
    if scheme != "https":
        raise CheckpointError(f"{source}: only https:// is fetched; or give a local file")
    return source


def fetch(source: str) -> Path:
    """Return the local copy of published weights, fetched at first use.

    The hash is checked where one is known: from ``#sha256=...`` at the end of the address, or from
    the first digits that OpenMMLab and torchvision write into the file's name.

    Raises:
        CheckpointError: It cannot be fetched, or its hash differs.
    """
    address, fragment = urldefrag(address_of(source))
    name = Path(urlsplit(address).path).name
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with _alone(folder / f"{name}.lock"):
        if not path.is_file():
            expected = fragment.removeprefix("sha256=") or _hash_in_name(name)
            try:
                replace_file(path, lambda file: _download(address, file, expected))
            except (urllib.error.URLError, OSError, TimeoutError) as error:
                _cannot_fetch(source, address, path, error)
    return path


def _hash_in_name(name: str) -> str:
    match = re.search(r"-([0-9a-f]{8,64})\.(pth|pt|safetensors)$", name)
    return match.group(1) if match else ""


def _cannot_fetch(source: str, address: str, path: Path, error: Exception) -> NoReturn:
    raise CheckpointError(
        f"{source}: cannot be fetched from {address}: {error}; without a network, put the file at "
        f"{path}, or name a local file (or None) in its place"
    ) from error


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it leads on to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, file: BinaryIO, expected: str) -> None:
    digest = hashlib.sha256()
    opener = urllib.request.build_opener(_OnlyHttps)
    with opener.open(address, timeout=_TIMEOUT_S) as response:
        length = response.headers.get("Content-Length")
        read = 0
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            read += len(chunk)
    if length is not None and read != int(length):
        raise OSError(f"only {read} of {length} bytes arrived")
    if expected and not digest.hexdigest().startswith(expected):
        raise CheckpointError(f"{address}: SHA-256 {digest.hexdigest()} does not begin {expected}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of this machine fetch while the others wait for its file."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
