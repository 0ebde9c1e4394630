"""Fetch published weights over https, whole and with their hash checked, into PyTorch's cache."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import BinaryIO, NoReturn, TextIO
from urllib.parse import urldefrag, urlsplit

import mmengine
import torch

from nlseg.errors import CheckpointError, near_words
from nlseg.files import replace_file, sha256_of
from nlseg.weights.hub import fetch_weights, is_on_the_hub
from nlseg.weights.published import ADDRESSES, NAMES
from nlseg.weights.recognize import what_instead

_TIMEOUT_S = 60
_CHUNK = 1 << 20
_MAX_BYTES = 64 << 30  # a server that never ends must not fill the disk
_TABLES = {
    "torchvision": ("torchvision_0.12.json",),
    "modelzoo": ("torchvision_0.12.json",),
    "open-mmlab": ("openmmlab.json", "mmcls.json"),
    "openmmlab": ("openmmlab.json", "mmcls.json"),
    "mmcls": ("mmcls.json",),
    "mmseg": (),
}
_NOT_FOR_MODELS = ("torchvision", "modelzoo", "mmcls")


def is_remote(source: str) -> bool:
    """Return whether a source is an address or a published name rather than a file."""
    return "://" in source or source in NAMES


def locate(source: str | Path) -> Path:
    """Return the local file of a source, fetched where it is none.

    Args:
        source: A file, an https address, ``hf://OWNER/NAME[@REVISION]``, or a published name such
            as ``open-mmlab://resnet50_v1c`` or the name of a published config. A file goes before
            a name.

    Raises:
        CheckpointError: It cannot be fetched.
    """
    name = str(source)
    if is_on_the_hub(name):
        return fetch_weights(name)
    if is_remote(name) and not Path(name).exists():
        return fetch(name)
    return Path(source)


def address_of(source: str) -> str:
    """Turn a published name into its address; an address stays.

    Raises:
        CheckpointError: The name is not known, or the address is not https.
    """
    scheme, separator, name = source.partition("://")
    if source in NAMES or scheme in _TABLES:
        known = _known(scheme)
        found = known.get(name if separator else source)
        if found is not None:
            return found.replace("http://", "https://")
        near = near_words(name, known)
        hint = f"; did you mean {scheme}://{near[0]}?" if near else ""
        raise CheckpointError(f"{source}: {scheme} has published no weights of this name{hint}")
    if scheme != "https":
        raise CheckpointError(f"{source}: only https:// is fetched; or give a local file")
    return source


def _known(scheme: str) -> dict[str, str]:
    """Return the addresses of what is published under a scheme, by name."""
    known = {}
    if scheme not in _NOT_FOR_MODELS:
        known = {name: ADDRESSES[config] for name, config in NAMES.items()}
    folder = resources.files(mmengine) / "hub"
    for table in reversed(_TABLES.get(scheme, ())):
        known.update(json.loads((folder / table).read_text()))
    return known


def cached_file(source: str) -> Path:
    """Return where the local copy of published weights is, or will be.

    Raises:
        CheckpointError: The address names no file.
    """
    name = Path(urlsplit(urldefrag(address_of(source)).url).path).name
    if not name:
        raise CheckpointError(f"{source}: names no file")
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def fetch(source: str) -> Path:
    """Return the local copy of published weights, fetched at first use.

    The hash is checked where one is known: from ``#sha256=...`` at the end of the address, or from
    the first digits that OpenMMLab and torchvision write into the file's name. It is checked again
    whenever the copy is used.

    Raises:
        CheckpointError: It cannot be fetched, its hash differs, or the copy of this name came from
            another address.
    """
    address, fragment = urldefrag(address_of(source))
    path = cached_file(source)
    name = path.name
    expected = fragment.removeprefix("sha256=") or hash_in_name(name)
    if path.is_file() and not os.access(path.parent, os.W_OK):
        return path  # somebody else's cache, which needs no lock
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(f"{name}.lock")) as lock:
            if not path.is_file():
                replace_file(path, lambda file: _download(address, file, expected))
                lock.truncate(0)
                lock.write(address)
            elif not expected:
                _check_origin(source, address, path, lock.read())
    except (urllib.error.URLError, OSError, TimeoutError) as error:
        _cannot_fetch(source, address, path, error)
    if fragment and not sha256_of(path).startswith(expected):
        raise CheckpointError(
            f"{source}: {path} has another SHA-256; delete it and it is fetched again"
        )
    return path


def _check_origin(source: str, address: str, path: Path, origin: str) -> None:
    """Refuse a copy that was fetched from another address, where no hash tells them apart."""
    if origin and origin != address:
        raise CheckpointError(
            f"{source}: {path} was fetched from {origin}; delete it, or give the expected hash as "
            f"{address}#sha256=..."
        )


def hash_in_name(name: str) -> str:
    """Return the digits of its SHA-256 at the end of a file's name; none for an empty text."""
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
    from tqdm import tqdm  # with a bar on a terminal only

    digest = hashlib.sha256()
    opener = urllib.request.build_opener(_OnlyHttps)
    with opener.open(address, timeout=_TIMEOUT_S) as response:
        length = str(response.headers.get("Content-Length"))
        total = int(length) if length.isdigit() else None
        bar = tqdm(total=total, unit="B", unit_scale=True, desc=Path(address).name, disable=None)
        read = 0
        while chunk := response.read(_CHUNK):
            if read == 0 and (reason := what_instead(chunk)):
                raise CheckpointError(f"{address}: what arrived {reason}")
            file.write(chunk)
            digest.update(chunk)
            read += len(chunk)
            bar.update(len(chunk))
            if read > _MAX_BYTES:
                raise OSError(f"more than {_MAX_BYTES >> 30} GiB arrived")
        bar.close()
    if length.isdigit() and read != int(length):
        raise OSError(f"only {read} of {length} bytes arrived")
    if expected and not digest.hexdigest().startswith(expected):
        raise CheckpointError(f"{address}: SHA-256 {digest.hexdigest()} does not begin {expected}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[TextIO]:
    """Let one process of this machine fetch while the others wait for its file.

    Yields:
        The lock file, which holds the address that was fetched from.
    """
    with open(path, "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        yield lock
