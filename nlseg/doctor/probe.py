"""Facts about one image or label file, with cv2, Pillow and numpy alone."""

import hashlib
import struct
import warnings
import zlib
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from nlseg.pictures import open_picture

VERSION = 3
"""Raised when the facts change, so that kept ones are taken again."""

Facts = dict[str, Any]
"""JSON-able. Always ``error`` (None or why the file cannot be used); else see the functions."""

_MAX_COLOURS = 300
_ORIENTATION, _WIDTH, _LENGTH = 0x0112, 256, 257
_TURNED_SIDEWAYS = (5, 6, 7, 8)


def probe(kind: str, path: str) -> Facts:
    """Read an ``image`` or ``label`` file and return its facts; never raises for a bad file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        damage = find_damage(data)
        if damage:
            return {"error": damage}
        facts = image_facts(data) if kind == "image" else label_facts(data)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return {"error": f"cannot be read: {error}"}
    except cv2.error as error:
        return {"error": f"cannot be decoded: {error.err}"}
    return {"error": None, **facts}


def find_damage(data: bytes) -> str | None:
    """Say what is broken in a PNG or JPEG file, as far as its structure shows it.

    Decoders differ here: some hand out the part of a truncated picture that they could read.
    """
    if not data:
        return "is empty (0 bytes)"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_damage(data)
    if data[:3] == b"\xff\xd8\xff" and b"\xff\xd9" not in data[-4096:]:
        return f"is truncated: a JPEG without its end ({len(data)} bytes)"
    return None


def _png_damage(data: bytes) -> str | None:
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        (expected,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(memoryview(data)[place + 4 : end - 4]) != expected:
            return f"is damaged: the checksum of a PNG chunk at byte {place} is wrong"
        if data[place + 4 : place + 8] == b"IEND":
            return None
        place = end
    return f"is truncated: a PNG without its end ({len(data)} bytes)"


class ImageHeader(NamedTuple):
    """A picture's header: Pillow's names, and the EXIF orientation (1 is upright)."""

    format: str
    mode: str
    height: int
    width: int
    orientation: int

    @property
    def turned(self) -> bool:
        """Return whether the picture is shown turned sideways."""
        return self.orientation in _TURNED_SIDEWAYS


def read_header(file: BinaryIO) -> ImageHeader:
    """Read the header of a picture, not its pixels.

    A TIFF's own tag of orientation counts in every way of loading: it is taken as it is shown.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_picture(file) as image:
            # A PNG would be decoded as a whole to look for a tag at its end.
            has_tags = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(_ORIENTATION, 1) if has_tags else 1
            size = (image.height, image.width)
            if isinstance(
                image, TiffImageFile
            ):  # Pillow's size is the stored or the shown one, by version
                size = (image.tag_v2[_LENGTH], image.tag_v2[_WIDTH])
                size = size[::-1] if orientation in _TURNED_SIDEWAYS else size
                orientation = 1
            return ImageHeader(str(image.format), image.mode, *size, int(orientation or 1))


def image_facts(data: bytes) -> Facts:
    """Return ``height``, ``width`` as stored, ``turned`` where EXIF rotates it by 90 degrees.

    Also ``format``, ``mode``, ``dtype``, ``orientation``; ``sha``, a hash of the decoded pixels;
    ``mean`` and ``std`` (3,) in RGB order, of the 8-bit picture that the pipelines get; ``highest``
    level of one that is stored with more bits.
    """
    try:
        header = read_header(BytesIO(data))
    except OSError:  # a format that OpenCV reads and Pillow does not
        header = ImageHeader("unknown", "unknown", 0, 0, 1)
    array = np.frombuffer(data, np.uint8)
    raw = cv2.imdecode(array, cv2.IMREAD_UNCHANGED)
    if raw is None:
        return {"error": f"is no image that OpenCV can decode ({len(data)} bytes)"}
    plain = raw.dtype == np.uint8 and raw.ndim == 3 and raw.shape[2] == 3
    seen = raw if plain else cv2.imdecode(array, cv2.IMREAD_COLOR)
    if seen is None:
        why = f"holds {raw.dtype} pixels, which cannot be loaded as colours; convert it to 8 bits"
        return {"error": why}
    mean, std = cv2.meanStdDev(seen)
    deep = {} if raw.dtype == np.uint8 else {"highest": float(raw.max())}
    return deep | {
        "height": raw.shape[0],
        "width": raw.shape[1],
        "turned": header.turned,
        "orientation": header.orientation,
        "format": header.format,
        "mode": header.mode,
        "dtype": str(raw.dtype),
        "sha": hashlib.sha1(np.ascontiguousarray(raw).data, usedforsecurity=False).hexdigest(),
        "mean": mean.ravel()[::-1].round(4).tolist(),
        "std": std.ravel()[::-1].round(4).tolist(),
    }


def label_facts(data: bytes) -> Facts:
    """Return ``height``, ``width``, ``format``, ``mode``, ``dtype`` and what the pixels hold.

    ``values`` maps every value, as text, to its pixels, in files of one channel; in palette files
    these are indices, and ``palette`` holds their colours. ``colours`` lists [red, green, blue,
    pixels] of the most frequent colours in files of several channels, of ``num_colours`` in all.
    """
    header = read_header(BytesIO(data))
    with open_picture(BytesIO(data)) as image:
        array = np.asarray(image)
        palette = image.getpalette() if header.mode == "P" else None
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    facts = {
        "height": array.shape[0],
        "width": array.shape[1],
        "format": header.format,
        "mode": header.mode,
        "dtype": str(array.dtype),
    }
    if array.ndim == 2:
        values = _count_values(array)
        if palette:
            facts["palette"] = {v: palette[3 * int(v) : 3 * int(v) + 3] for v in values}
        return facts | {"values": values}
    colours = _count_colours(array)
    return facts | {"colours": colours[:_MAX_COLOURS], "num_colours": len(colours)}


def _count_values(array: NDArray[Any]) -> dict[str, int]:
    if array.dtype == np.uint8:
        counts = np.bincount(array.ravel(), minlength=256)
        return {str(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(array, return_counts=True)
    most = np.sort(np.argsort(counts)[::-1][:_MAX_COLOURS])  # float maps can hold millions
    return {f"{values[i]:g}": int(counts[i]) for i in most}


def _count_colours(array: NDArray[Any]) -> list[list[int]]:
    """List [red, green, blue, pixels], most frequent first; grey with alpha counts as grey."""
    channels = array[..., :3] if array.shape[2] >= 3 else array[..., [0, 0, 0]]
    codes = channels.astype(np.int64) @ np.array([1 << 32, 1 << 16, 1])
    values, counts = np.unique(codes, return_counts=True)
    order = np.argsort(counts, kind="stable")[::-1]
    return [
        [int(v >> 32), int(v >> 16 & 0xFFFF), int(v & 0xFFFF), int(n)]
        for v, n in zip(values[order], counts[order], strict=True)
    ]
