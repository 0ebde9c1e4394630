"""Text on pictures, with Pillow's own font: no font file is looked for."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nlseg.visualization.palette import Colour

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=32)
def load_font(size: int) -> Font:
    """Load the built-in font at a height in px."""
    return ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Measure text.

    Returns:
        Height and width in px, from the base of the line's top to the lowest stroke.
    """
    box = load_font(size).getbbox(text)
    return int(np.ceil(box[3])), int(np.ceil(box[2]))


def write_text(
    image: NDArray[np.uint8],
    text: str,
    top_left: tuple[int, int],
    *,
    size: int = 14,
    colour: Colour = (30, 30, 30),
    background: Colour | None = None,
) -> None:
    """Write on an RGB image (H, W, 3), in place.

    Args:
        image: What to write on.
        text: One line.
        top_left: Row and column in px where the text begins; moved so that it stays inside.
        size: Height of the font in px.
        colour: Of the letters.
        background: Of a box behind them.
    """
    pad = size // 4 if background is not None else 0
    height, width = (length + 2 * pad for length in text_size(text, size))
    height, width = min(height, image.shape[0]), min(width, image.shape[1])
    top = max(0, min(top_left[0], image.shape[0] - height))
    left = max(0, min(top_left[1], image.shape[1] - width))
    # Only the rows and columns under the text go through Pillow.
    part = Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width]))
    draw = ImageDraw.Draw(part)
    if background is not None:
        draw.rectangle((0, 0, width, height), fill=background)
    draw.text((pad, pad), text, fill=colour, font=load_font(size))
    image[top : top + height, left : left + width] = np.asarray(part)
