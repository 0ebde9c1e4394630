"""Arrays as pictures: colours of classes, text, overlays of label maps, contact sheets."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from nlseg.errors import ConfigError

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""
Image = NDArray[np.uint8]
"""RGB picture (H, W, 3)."""
Label = NDArray[np.integer]
"""Label map (H, W)."""
_GAP = 10


def make_palette(num_classes: int) -> Image:
    """Make colours that are easy to tell apart, the same ones every time.

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


def as_palette(palette: ArrayLike | None, num_classes: int) -> Image:
    """Turn a config's palette into an array.

    Args:
        palette: RGB colours, 0..255, one a class; None for those of :func:`make_palette`.
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


def text_colour(background: Sequence[int] | Image) -> Colour:
    """Return black or white, whichever is easier to read on an RGB colour."""
    red, green, blue = (float(value) for value in background)
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


@lru_cache(maxsize=32)
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Load Pillow's own font at a height in px, so that no font file is looked for."""
    return ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Measure text.

    Returns:
        Height and width in px, from the base of the line's top to the lowest stroke.
    """
    box = load_font(size).getbbox(text)
    return int(np.ceil(box[3])), int(np.ceil(box[2]))


def write_text(
    image: Image,
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
    box = image[top : top + height, left : left + width]
    part = PillowImage.fromarray(np.ascontiguousarray(box))
    draw = ImageDraw.Draw(part)
    if background is not None:
        draw.rectangle((0, 0, width, height), fill=background)
    draw.text((pad, pad), text, fill=colour, font=load_font(size))
    box[:] = np.asarray(part)


def paint(label: Label, palette: Image, other: Colour = (0, 0, 0)) -> Image:
    """Give every pixel the colour of its class.

    Args:
        label: Classes (H, W).
        palette: RGB colours (K, 3).
        other: Colour of values outside 0..K-1, such as the ignore index.
    """
    table = np.empty((len(palette) + 1, 3), np.uint8)
    table[:-1], table[-1] = palette, other
    inside = (label >= 0) & (label < len(palette))
    return np.asarray(table[np.where(inside, label, len(palette))])


def overlay(image: Image, label: Label, palette: Image, alpha: float = 0.8) -> Image:
    """Blend ``image * (1 - alpha) + colour * alpha``; ignored pixels are blended with black.

    Args:
        image: RGB picture (H, W, 3).
        label: Classes (H, W).
        palette: RGB colours (K, 3).
        alpha: Weight of the colours in [0, 1].

    Raises:
        ValueError: If image and label differ in size.
    """
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"overlay: the image is {image.shape[:2]}, the label map {label.shape} (height, width)"
        )
    return np.asarray(cv2.addWeighted(image, 1 - alpha, paint(label, palette), alpha, 0), np.uint8)


def fit_longest(image: Image, longest: int) -> Image:
    """Scale a picture (H, W, 3) so that its longer side has ``longest`` px."""
    scale = longest / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)


def write_class_names(
    image: Image,
    label: Label,
    classes: Sequence[str],
    palette: Image,
    size: int | None = None,
) -> None:
    """Write the name of every class on its largest region, in place.

    Args:
        image: RGB picture (H, W, 3).
        label: Classes (H, W).
        classes: Names of the K classes.
        palette: RGB colours (K, 3), the background of the names.
        size: Height of the letters in px; None for a 60th of the longer side, 10 to 28.
    """
    shrink = max(1, max(label.shape) // 256)
    small = np.ascontiguousarray(label[::shrink, ::shrink])
    size = size or max(10, min(28, max(label.shape) // 60))
    for i in np.unique(small):
        if not 0 <= i < len(classes):
            continue
        row, column = _middle_of_largest_region(small == i)
        height, width = text_size(classes[i], size)
        top_left = (row * shrink - height // 2, column * shrink - width // 2)
        red, green, blue = (int(value) for value in palette[i])
        write_text(
            image,
            classes[i],
            top_left,
            size=size,
            colour=text_colour(palette[i]),
            background=(red, green, blue),
        )


def _middle_of_largest_region(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return row and column of the pixel farthest from the border of the largest region."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    region = np.pad((regions == largest).astype(np.uint8), 1)
    depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(row), int(column)


def side_by_side(pictures: Sequence[Image], gap: int = 0) -> Image:
    """Join pictures of one height from left to right, ``gap`` white px apart."""
    if gap == 0:
        return np.concatenate(pictures, axis=1)
    white = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, white)]
    return np.concatenate(parts[:-1], axis=1)


def legend(classes: Sequence[str], palette: Image, *, width: int = 800, size: int = 14) -> Image:
    """Draw a box and the name of every class, in as many columns as fit.

    Args:
        classes: Names of the K classes.
        palette: RGB colours (K, 3).
        width: Of the picture in px.
        size: Height of the font in px.

    Returns:
        RGB picture (H, width, 3), white behind.
    """
    row = size * 2
    column = min(width, max((text_size(name, size)[1] for name in classes), default=0) + 3 * size)
    columns = max(1, width // max(1, column))
    rows = -(-len(classes) // columns)
    canvas = np.full((max(1, rows) * row + size // 2, width, 3), 255, np.uint8)
    for i, name in enumerate(classes):
        top, left = (i % rows) * row + size // 2, (i // rows) * column + size // 2
        canvas[top : top + size + 2, left : left + size + 2] = palette[i]
        write_text(canvas, name, (top, left + size + size // 2 + 2), size=size)
    return canvas


class Cell(NamedTuple):
    """An RGB picture (H, W, 3) of any size, what to write below it, the file of a larger one."""

    picture: Image
    caption: str = ""
    link: str = ""


def contact_sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    classes: Sequence[str] = (),
    palette: Image | None = None,
    cell_size: tuple[int, int] | None = None,
) -> Image:
    """Lay pictures out in a grid.

    Args:
        rows: Cells from top to bottom, from left to right; rows may differ in length.
        title: Written on top.
        classes: Names for the legend at the bottom.
        palette: RGB colours (K, 3) of the classes.
        cell_size: Height and width in px that every picture is fitted into; None for 180 px and
            the shape of the first picture.

    Returns:
        RGB picture (H, W, 3).
    """
    cell_size = cell_size or _cell_size(rows)
    width = cell_size[1]
    columns = max((len(row) for row in rows), default=1)
    sheet_width = columns * (width + _GAP) + _GAP
    parts = [_title(title, sheet_width)] if title else []
    parts += [_row(row, columns, cell_size) for row in rows]
    if classes and palette is not None:
        parts.append(legend(classes, palette, width=sheet_width, size=13))
    parts.append(np.full((_GAP, sheet_width, 3), 255, np.uint8))
    return np.concatenate(parts)


def _cell_size(rows: Sequence[Sequence[Cell]], height: int = 180) -> tuple[int, int]:
    """Give the cells the first picture's shape, unless that is very flat or very tall."""
    shape = rows[0][0].picture.shape if rows and rows[0] else (9, 16)
    return height, round(height * min(2.2, max(0.75, shape[1] / shape[0])))


def _title(title: str, width: int) -> Image:
    canvas = np.full((40, width, 3), 255, np.uint8)
    write_text(canvas, shorten(title, width - 2 * _GAP, 18), (_GAP, _GAP), size=18)
    return canvas


def _row(row: Sequence[Cell], columns: int, cell_size: tuple[int, int]) -> Image:
    height, width = cell_size
    canvas = np.full((height + 22 + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for i, cell in enumerate(row):
        left = _GAP + i * (width + _GAP)
        canvas[:height, left : left + width] = fit(cell.picture, cell_size)
        caption = shorten(cell.caption, width, 12)
        write_text(canvas, caption, (height + 3, left), size=12, colour=(90, 90, 90))
    return canvas


def fit(picture: Image, size: tuple[int, int]) -> Image:
    """Scale a picture to fit into a box (height, width), with grey padding."""
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(picture, (width, height), interpolation=way)
    box = np.full((*size, 3), 238, np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    box[top : top + height, left : left + width] = small
    return box


def shorten(text: str, width: int, size: int) -> str:
    """Cut the front of a text off so that it is at most ``width`` px wide."""
    if text_size(text, size)[1] <= width:
        return text
    while text and text_size("..." + text, size)[1] > width:
        text = text[1:]
    return "..." + text


def write_picture(file: Path, picture: Image) -> None:
    """Write an RGB picture (H, W, 3) in the format of the file's suffix, making its folder.

    Raises:
        OSError: If it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{file}: could not be written")
