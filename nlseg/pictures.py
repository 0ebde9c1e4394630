"""A picture file opened with Pillow, by our limit of pixels instead of Pillow's."""

import threading
from typing import BinaryIO

from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm")
"""Ends of names of picture files, in small letters."""
PIXEL_LIMIT = 1 << 30
"""Pixels above which a file is refused, OpenCV's limit: few bytes can ask for any number."""

_OPENING = threading.Lock()


def open_picture(file: BinaryIO) -> Image.Image:
    """Open a file with Pillow up to its header, by our limit of pixels instead of Pillow's.

    Pillow's limit is one number for the whole process and stops honest label maps; it is lifted
    for the moment in which the header is read.

    Raises:
        ValueError: It has too many pixels.
    """
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    check_pixels(picture.height, picture.width)
    return picture


def check_pixels(height: int, width: int) -> None:
    """Refuse a picture that is too large.

    Raises:
        ValueError: It has more pixels than ``PIXEL_LIMIT``.
    """
    if height * width > PIXEL_LIMIT:
        raise ValueError(f"{height} x {width} px are more than {PIXEL_LIMIT}; cut it into tiles")
