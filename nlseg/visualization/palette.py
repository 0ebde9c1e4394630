"""Colours of classes."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nlseg.errors import ConfigError

Colour = tuple[int, int, int]


def make_palette(num_classes: int) -> NDArray[np.uint8]:
    """Make up colours that stay apart from each other, the same ones every time.

    Hues step by the golden ratio, so that any first few are far apart; brightness and saturation
    change every few colours.

    Returns:
        RGB colours (K, 3).
    """
    colours = [
        colorsys.hsv_to_rgb(
            (0.02 + i * 0.618034) % 1.0, (0.85, 0.55, 0.7)[i % 3], (0.95, 0.75, 0.55)[i // 3 % 3]
        )
        for i in range(num_classes)
    ]
    return np.asarray(np.array(colours).reshape(-1, 3) * 255, np.uint8)


def as_palette(palette: ArrayLike | None, num_classes: int) -> NDArray[np.uint8]:
    """Turn a config's palette into an array.

    Args:
        palette: RGB colours, 0..255, one a class; None for made-up ones.
        num_classes: Number of classes K.

    Returns:
        RGB colours (K, 3).

    Raises:
        ConfigError: If there are fewer colours than classes or they are no RGB triples.
    """
    if palette is None:
        return make_palette(num_classes)
    colours = np.asarray(palette)
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) < num_classes:
        raise ConfigError(
            f"metainfo.palette: {num_classes} classes need {num_classes} RGB colours "
            f"[r, g, b], but the palette has the shape {colours.shape}"
        )
    return np.asarray(colours[:num_classes], np.uint8)


def text_colour(background: Sequence[int] | NDArray[np.uint8]) -> Colour:
    """Return black or white, whichever reads better on an RGB colour."""
    red, green, blue = (float(value) for value in background)
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
