"""The bytes of an image or label file to an array.

A row of a PNG depends on the rows above it alone. So a PNG whose header says fewer rows decodes to
the top of the picture, for less time. Of all chunks only the pixels are passed on: decoders then
have nothing to interpret, and give the raw samples.
"""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image

from nlseg.errors import ConfigError, DataError

CV2_FLAGS = {
    "color": cv2.IMREAD_COLOR,
    "grayscale": cv2.IMREAD_GRAYSCALE,
    "unchanged": cv2.IMREAD_UNCHANGED,
    "color_ignore_orientation": cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    "grayscale_ignore_orientation": cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION,
}
ImageBackend = Literal["cv2", "pillow"]
ColorType = Literal[
    "color", "grayscale", "unchanged",
    "color_ignore_orientation", "grayscale_ignore_orientation",
]  # fmt: skip
BGR_TYPES = ("color", "color_ignore_orientation")
PILLOW_MODES = {"color": "RGB", "grayscale": "L", "unchanged": None}


def read_bytes(path: str, backend_args: Mapping[str, Any] | None = None) -> bytes:
    """Read a whole file, through mmengine's file backends where ``backend_args`` names one.

    Raises:
        DataError: The file is not there or cannot be read.
    """
    try:
        if backend_args:
            return fileio.get(path, backend_args=dict(backend_args))  # type: ignore[no-any-return]
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_option(where: str, given: str, allowed: Mapping[str, Any] | Sequence[str]) -> None:
    """Refuse an option that is not one of those allowed.

    Raises:
        ConfigError: It is not.
    """
    if given not in allowed:
        raise ConfigError(f"{where}: {given!r} is not one of {', '.join(allowed)}")


def _decode_pillow(data: bytes, mode: str | None) -> NDArray[Any]:
    with Image.open(BytesIO(data)) as image:
        array = np.asarray(image if mode is None else image.convert(mode))
    if array.ndim == 3 and array.shape[2] >= 3:
        array = np.concatenate([array[..., 2::-1], array[..., 3:]], axis=2)
    return array


def decode(data: bytes, path: str, color_type: str, backend: str) -> NDArray[Any]:
    """Decode an image file; three channels come as BGR.

    Args:
        data: The file's bytes.
        path: Its name, for the error.
        color_type: ``color``, ``grayscale`` or ``unchanged``; with ``cv2`` also
            ``color_ignore_orientation`` and ``grayscale_ignore_orientation``.
        backend: ``cv2``, or ``pillow``, which keeps the indices of palette images.

    Returns:
        Array (H, W) or (H, W, C).

    Raises:
        DataError: The bytes are no complete image.
    """
    if backend == "cv2":
        image: NDArray[Any] | None = None
        if data:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), CV2_FLAGS[color_type])
        if image is None:
            raise DataError(f"{path}: no readable image ({len(data)} bytes; broken or truncated?)")
        return image
    try:
        return _decode_pillow(data, PILLOW_MODES[color_type])
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path}: no readable image ({len(data)} bytes): {error}") from error


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_GREY, _RGB = 0, 2

Decoder = Callable[[bytes, tuple[int, int], bool], NDArray[np.uint8]]
"""Takes the file, (height, width), whether it is RGB; gives (H, W[, 1]) or (H, W, 3) RGB."""


class Header(NamedTuple):
    """What a PNG's first chunk says; ``is_plain`` means 8 bits, not interlaced, not cut off."""

    height: int
    width: int
    is_plain: bool
    is_rgb: bool
    is_grey: bool


def read_header(data: bytes) -> Header | None:
    """Read a PNG's header, or return None for another kind of file."""
    if len(data) < 45 or not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    is_plain = depth == 8 and interlace == 0 and data.endswith(_END)
    return Header(height, width, is_plain, colour == _RGB, colour == _GREY)


def keep_top(data: bytes, rows: int) -> bytes | None:
    """Return a PNG of the first rows with nothing but pixels, or None where it says how to turn.

    Args:
        data: A file with a plain header.
        rows: Rows to keep, at most the picture's.
    """
    ihdr = b"IHDR" + data[16:20] + struct.pack(">I", rows) + data[24:29]
    parts = [_SIGNATURE, struct.pack(">I", 13), ihdr, struct.pack(">I", zlib.crc32(ihdr))]
    view, place = memoryview(data), 33
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind = data[place + 4 : place + 8]
        if kind == b"eXIf":
            return None
        if kind == b"IDAT":
            parts.append(view[place : place + 12 + length])  # type: ignore[arg-type]
        place += 12 + length
    return b"".join([*parts, _END])


def _kornia() -> Decoder:
    decode = import_module("kornia_rs").io.decode_image_png_u8
    return lambda data, size, is_rgb: np.asarray(decode(data, size, "rgb" if is_rgb else "mono"))


def _imagecodecs() -> Decoder:
    decode = import_module("imagecodecs").spng_decode
    return lambda data, size, is_rgb: decode(data)


_CANDIDATES: dict[str, Callable[[], Decoder]] = {"kornia_rs": _kornia, "imagecodecs": _imagecodecs}


def _is_right(decode: Decoder) -> bool:
    """Try a decoder on whole and cut pictures of noise."""
    rng = RandomState(0)
    for shape in ((29, 31, 3), (29, 31)):
        picture = rng.randint(0, 256, shape).astype(np.uint8)
        data = cv2.imencode(".png", picture)[1].tobytes()
        for rows in (29, 11):
            top = keep_top(data, rows)
            assert top is not None
            result = decode(top, (rows, 31), len(shape) == 3).reshape(rows, *shape[1:])
            expected = picture[:rows, :, ::-1] if len(shape) == 3 else picture[:rows]
            if not np.array_equal(result, expected):
                return False
    return True


@lru_cache(maxsize=1)
def fast_decoder() -> tuple[str, Decoder] | None:
    """Return name and function of the fastest installed decoder that gives the right pixels."""
    for name, load in _CANDIDATES.items():
        try:
            decode = load()
            if _is_right(decode):
                return name, decode
        except Exception:  # an optional package may fail in any way
            continue
    return None


def decode_fast(data: bytes, header: Header, rows: int) -> NDArray[np.uint8] | None:
    """Decode the first rows of a plain PNG with the fast decoder.

    Args:
        data: The file.
        header: Its header.
        rows: Rows that are wanted.

    Returns:
        BGR (rows, W, 3) or grey (rows, W); None where only the ordinary decoders will do: no fast
        one is installed, the file is of another kind, or it is broken.
    """
    fast = fast_decoder()
    if fast is None or not header.is_plain or not (header.is_rgb or header.is_grey):
        return None
    top = keep_top(data, min(rows, header.height))
    if top is None:
        return None
    size = (min(rows, header.height), header.width)
    try:
        array = fast[1](top, size, header.is_rgb)
    except Exception:  # the ordinary decoder says what is wrong with the file
        return None
    if header.is_rgb:
        return cv2.cvtColor(array, cv2.COLOR_RGB2BGR)  # type: ignore[no-any-return]
    return array.reshape(size)
