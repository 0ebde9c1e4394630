"""Masks of two classes written anew: what is at least as bright as a level is the thing.

That is for masks that were saved with loss, number objects, or hold other numbers than labels.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nlseg.errors import DataError
from nlseg.files import write_file
from nlseg.label_png import encode_label
from nlseg.pictures import open_picture
from nlseg.start.layout import Layout

FOLDER = "two_classes"


def as_two_classes(layout: Layout, level: float, files: Path) -> None:
    """Write the mask of each pair as a PNG of 0 and 1, and let the pairs have these.

    Args:
        layout: The pairs.
        level: What is below is 0; of several channels their mean counts.
        files: Folder of what is made.

    Raises:
        DataError: A mask cannot be read; names it.
    """
    pairs = []
    for pair in layout.pairs:
        try:
            levels = _levels(pair.mask)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{pair.mask}: cannot be read: {error}; copy it again, or remove it and its image"
            ) from error
        mask = files / FOLDER / f"{pair.name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        write_file(mask, encode_label((levels >= level).astype(np.uint8)))
        pairs.append(pair._replace(mask=mask))
    layout.pairs = pairs
    layout.kind += f", {level:g} and more of a mask is the thing"


def _levels(path: Path) -> NDArray[Any]:
    """Return the levels (H, W) of a mask; those of an alpha channel where there is one colour."""
    with warnings.catch_warnings(), path.open("rb") as file, open_picture(file) as picture:
        warnings.simplefilter("ignore")  # of odd tags, which say nothing about the pixels
        bands = picture.getbands()
        array = np.asarray(picture)
    if bands[-1] == "A":
        colours, alpha = array[..., :-1], array[..., -1]
        if len(np.unique(colours.reshape(-1, colours.shape[-1]), axis=0)) == 1:
            return np.asarray(alpha, np.float64)  # drawn in the alpha channel
        array = colours
    return array.mean(axis=2) if array.ndim == 3 else np.asarray(array, np.float64)
