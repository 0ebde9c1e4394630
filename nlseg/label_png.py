"""Label maps as PNG files, without PyTorch."""

import io

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

_IGNORED = 224


def encode_label(label: NDArray[np.integer], palette: ArrayLike | None = None) -> bytes:
    """Encode a label map (H, W) as PNG: 8 bit, or 16 bit with values above 255.

    Args:
        label: Classes (H, W).
        palette: RGB colours (K, 3) in 0..255; with them an 8 bit map is indexed, so that viewers
            show colours and readers get classes. 255 is light grey, other values are black.
    """
    if label.size and label.max() > 255:
        return bytes(cv2.imencode(".png", label.astype(np.uint16))[1])
    values = np.ascontiguousarray(label.astype(np.uint8))
    if palette is None:
        return bytes(cv2.imencode(".png", values)[1])
    colours = np.zeros((256, 3), np.uint8)
    colours[255] = _IGNORED
    given = np.asarray(palette, np.uint8).reshape(-1, 3)[:256]
    colours[: len(given)] = given
    picture = Image.frombytes("P", values.shape[::-1], values.tobytes())
    picture.putpalette(colours.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
