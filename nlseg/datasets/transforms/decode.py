"""The bytes of an image or label file to an array: the one place that knows decoders.

Images become 8-bit colours by one rule for each kind of file, whichever decoder does it: a picture
is turned as its EXIF tag says; grey gives three equal channels; an alpha channel is left out;
palette and CMYK files give their colours; 16 bits are scaled to 8, 65535 to 255; numbers of 32 bits
and fractions have no such scale and are refused. Label files are taken as they are stored.

Whatever a decoder does with a broken file, the error is a ``DataError`` with the file's name.

A row of a PNG depends on the rows above it alone. So a PNG whose header says fewer rows decodes to
the top of the picture, for less time. Of all chunks only the pixels are passed on: decoders then
have nothing to interpret, and give the raw samples.
"""

import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from nlseg.errors import ConfigError, DataError
from nlseg.pictures import PIXEL_LIMIT, check_pixels, open_picture

ImageBackend = Literal["cv2", "pillow"]
ColorType = Literal[
    "color", "grayscale", "unchanged",
    "color_ignore_orientation", "grayscale_ignore_orientation",
]  # fmt: skip
BGR_TYPES = ("color", "color_ignore_orientation")
CV2_FLAGS = {
    "color": cv2.IMREAD_COLOR,
    "grayscale": cv2.IMREAD_GRAYSCALE,
    "unchanged": cv2.IMREAD_UNCHANGED,
    "color_ignore_orientation": cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    "grayscale_ignore_orientation": cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION,
}
_UNCHANGED = "convert it to 8 bits, or load it as it is by color_type='unchanged'"
_TIFF = (b"II*\0", b"MM\0*")
_ORIENTATION, _WIDTH, _LENGTH = 0x0112, 256, 257  # tags of EXIF and TIFF
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_KINDS = {
    stat.S_IFIFO: "a FIFO (named pipe)", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket",
}  # fmt: skip
_ADDRESS = re.compile(r" <\S+ object at 0x[0-9a-f]+>")


def read_bytes(path: str, backend_args: Mapping[str, Any] | None = None) -> bytes:
    """Read a whole file, through mmengine's file backends where ``backend_args`` names one.

    Raises:
        DataError: The file is not there, is no regular file, or cannot be read.
    """
    if backend_args:
        try:
            return fileio.get(path, backend_args=dict(backend_args))  # type: ignore[no-any-return]
        except Exception as error:  # a backend may fail in any way
            raise DataError(f"{path}: cannot be read: {error}") from error
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def file_backend(
    where: str,
    backend_args: Mapping[str, Any] | None,
    file_client_args: Mapping[str, Any] | None,
) -> Mapping[str, Any] | None:
    """Return the arguments of the file backend that one of two names for them gives.

    Args:
        where: The class, for the error.
        backend_args: Arguments of an mmengine file backend; None for local files.
        file_client_args: The same in the words of older configs, ``disk`` for local files.

    Raises:
        ConfigError: Both are given.
    """
    if file_client_args is None:
        return backend_args
    if backend_args is not None:
        raise ConfigError(
            f"{where}.file_client_args: is the older name of backend_args, which is given, too; "
            "leave file_client_args out"
        )
    is_local = file_client_args.get("backend", "disk") in ("disk", "local")
    return None if is_local else file_client_args


def check_regular(path: str) -> None:
    """Refuse what is no regular file: reading it could wait for ever, or never end.

    Raises:
        DataError: It is not there, or of another kind.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        cause = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {cause}") from error
    if kind in _KINDS:
        raise DataError(f"{path}: is {_KINDS[kind]}, not a file")


@contextmanager
def _failures_of(path: str, num_bytes: int | None = None) -> Iterator[None]:
    """Turn whatever a decoder raises into a ``DataError``; Rust's panics are no ``Exception``."""
    try:
        yield
    except (DataError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        text = str(getattr(error, "err", "") or error).strip().partition("\n")[0]
        text = _ADDRESS.sub("", text)  # one cause of one file is always told in the same words
        cause = text or type(error).__name__
        size = "" if num_bytes is None else f" ({num_bytes} bytes)"
        raise DataError(f"{path}: no readable image{size}: {cause}") from error


def picture_size(path: str) -> tuple[int, int] | None:
    """Return the (height, width) that an image file decodes to, None for one that cannot be."""
    try:
        check_regular(path)
        with _failures_of(path), open(path, "rb") as file, open_picture(file) as picture:
            return shown_size(picture)
    except DataError:
        return None


def shown_size(picture: Image.Image) -> tuple[int, int]:
    """Return the (height, width) of an open picture after its EXIF tag has turned it."""
    turned = picture.getexif().get(_ORIENTATION) in _SIDEWAYS
    height, width = picture.height, picture.width
    if isinstance(picture, TiffImageFile):  # its size is stored or shown, by version
        height, width = picture.tag_v2[_LENGTH], picture.tag_v2[_WIDTH]
    return (width, height) if turned else (height, width)


def picture_to_array(picture: Image.Image, color_type: str) -> NDArray[Any]:
    """Return the pixels of a Pillow image by the rules of this module, three channels as BGR.

    Args:
        picture: Open.
        color_type: See ``decode``.

    Raises:
        ValueError: It has no 8-bit levels.
    """
    if color_type != "unchanged":
        picture = _to_levels(picture, "RGB" if color_type in BGR_TYPES else "L", color_type)
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[2] >= 3:
        array = np.concatenate([array[..., 2::-1], array[..., 3:]], axis=2)
    return array


def _to_levels(picture: Image.Image, mode: str, color_type: str) -> Image.Image:
    is_deep = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")
    if picture.mode in ("I", "F") and not is_deep:
        kind = "32-bit numbers" if picture.mode == "I" else "fractions"
        raise ValueError(f"it holds {kind}, which have no 8-bit levels; {_UNCHANGED}")
    if not color_type.endswith("ignore_orientation"):
        picture = ImageOps.exif_transpose(picture)
    if is_deep:  # Pillow's own conversion would cut everything above 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert(mode)


def _has_alpha(data: bytes) -> bool:
    """Return whether a TIFF file has an alpha channel, by which OpenCV darkens its colours."""
    if not data.startswith(_TIFF):
        return False
    try:
        with open_picture(BytesIO(data)) as picture:
            return picture.mode == "RGBA"
    except Exception:  # a kind of TIFF that only OpenCV reads
        return False


def _decode_cv2(data: bytes, color_type: str) -> NDArray[Any]:
    raw = np.frombuffer(data, np.uint8)
    image: NDArray[Any] | None = cv2.imdecode(raw, CV2_FLAGS[color_type]) if data else None
    if image is not None:
        return image
    if data and color_type != "unchanged":
        stored: NDArray[Any] | None = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
        if stored is not None:
            raise ValueError(f"it holds {stored.dtype}, which has no 8-bit levels; {_UNCHANGED}")
    raise ValueError("broken or truncated?")


def decode(
    data: bytes,
    path: str,
    color_type: str,
    backend: str,
    *,
    check_size: Callable[[int, int], None] | None = None,
) -> NDArray[Any]:
    """Decode an image file; three channels come as BGR.

    Args:
        data: The file's bytes.
        path: Its name, for the error.
        color_type: ``color``, ``grayscale``, each also with ``_ignore_orientation`` behind, or
            ``unchanged``.
        backend: ``cv2``, or ``pillow``, which keeps the indices of palette images.
        check_size: Called with height and width before ``pillow`` decodes the pixels.

    Returns:
        Array (H, W) or (H, W, C).

    Raises:
        DataError: The bytes are no complete image, or one that cannot be loaded in this way.
    """
    with _failures_of(path, len(data)):
        check_png(data)
        check_claim(data)
        if backend == "cv2" and not (color_type != "unchanged" and _has_alpha(data)):
            return _decode_cv2(data, color_type)
        with open_picture(BytesIO(data)) as picture:
            if check_size is not None:
                check_size(picture.height, picture.width)
            return picture_to_array(picture, color_type)


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_GREY, _RGB = 0, 2
_MOST_FROM_FEW = 1 << 26  # px that any file may have
_MOST_INFLATED = 1032  # bytes that deflate can make of one; a pixel takes at least one bit

Decoder = Callable[[bytes, tuple[int, int], bool], NDArray[np.uint8]]
"""Takes the file, (height, width), whether it is RGB; gives (H, W[, 1]) or (H, W, 3) RGB."""


class PngHeader(NamedTuple):
    """What a PNG's first chunk says; ``is_plain`` means 8 bits, not interlaced, not cut off."""

    height: int
    width: int
    is_plain: bool
    is_rgb: bool
    is_grey: bool


def read_header(data: bytes) -> PngHeader | None:
    """Read a PNG's header, or return None for another kind of file."""
    if len(data) < 45 or not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if min(height, width) == 0:
        return None
    is_plain = depth == 8 and interlace == 0 and data.endswith(_END)
    return PngHeader(height, width, is_plain, colour == _RGB, colour == _GREY)


def check_png(data: bytes) -> None:
    """Refuse a PNG that is cut off, or that asks for more pixels than its bytes can hold.

    Decoders give the upper part of the one, and take minutes and gigabytes to fail at the other.

    Raises:
        ValueError: It is so; other kinds of files pass.
    """
    if not data.startswith(_SIGNATURE):
        return
    place = len(_SIGNATURE)
    while place + 12 <= len(data):
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    if place > len(data):
        raise ValueError("broken or truncated? It ends inside of a chunk")
    header = read_header(data)
    if header is not None and header.height * header.width > 8 * _MOST_INFLATED * len(data):
        raise ValueError(f"{header.height} x {header.width} px cannot be in so few bytes")


def check_claim(data: bytes) -> None:
    """Refuse a file of another kind that asks for many more pixels than its bytes can hold.

    Decoders take gigabytes and minutes for a header of GIF, WebP or TIFF that lies. A file of one
    colour may be as small as it likes up to 8192 x 8192 px.

    Raises:
        ValueError: It does; what only OpenCV knows passes.
    """
    most = max(_MOST_FROM_FEW, 8 * _MOST_INFLATED * len(data))
    if most >= PIXEL_LIMIT or data.startswith(_SIGNATURE):
        return
    try:
        with open_picture(BytesIO(data)) as picture:
            height, width = picture.height, picture.width
    except Exception:  # the decoder says what is wrong
        return
    if height * width > most:
        raise ValueError(f"{height} x {width} px cannot be in so few bytes")


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


def decode_fast(data: bytes, header: PngHeader, rows: int) -> NDArray[np.uint8] | None:
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
        check_pixels(*size)
        array = fast[1](top, size, header.is_rgb)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic is no Exception; the ordinary decoder says what is wrong
        return None
    if header.is_rgb:
        return cv2.cvtColor(array, cv2.COLOR_RGB2BGR)  # type: ignore[no-any-return]
    return array.reshape(size)
