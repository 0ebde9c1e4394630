"""The painter of results: a label map over its image, so that both can be seen."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nlseg.visualization.pictures import (
    Image,
    Label,
    as_palette,
    side_by_side,
    text_size,
    write_class_names,
    write_text,
)

BACKGROUNDS = ("background", "bg", "other", "others", "unlabeled", "unlabelled", "void")
_HATCH = (150, 150, 150)
_HATCH_STEP = 12


class Painter:
    """Draws label maps: colours over the image, contours, names, and a legend with shares.

    A class that is called background, and pixels of the ignore index, keep the image: the first is
    left as it is, the others are hatched.

    Args:
        classes: Names of the K classes.
        palette: RGB colours (K, 3) in 0..255; made up where there are none.
        alpha: Weight of the colours, in [0, 1].
    """

    def __init__(
        self, classes: Sequence[str], palette: ArrayLike | None = None, alpha: float = 0.5
    ) -> None:
        self.classes = [str(name) for name in classes]
        self.palette = as_palette(palette, len(self.classes))
        self.alpha = alpha
        names = [name.strip().lower() for name in self.classes]
        self.is_background = np.array([name in BACKGROUNDS for name in names], bool)

    def draw(self, image: Image, label: Label, *, captions: bool = True) -> Image:
        """Lay a label map over its image.

        Args:
            image: RGB picture (H, W, 3).
            label: Classes (H, W); values outside 0..K-1 are ignored pixels.
            captions: Write the name of each class on its largest region.

        Returns:
            RGB picture (H, W, 3).

        Raises:
            ValueError: Image and label differ in size.
        """
        if image.shape[:2] != label.shape:
            raise ValueError(
                f"the image is {image.shape[:2]}, the label map {label.shape} (height, width)"
            )
        count = len(self.classes)
        index = np.where((label >= 0) & (label < count), label, count)
        weight = np.append(np.where(self.is_background, 0.0, self.alpha), 0.0).astype(np.float32)
        colours = np.concatenate((self.palette, np.zeros((1, 3), np.uint8))).astype(np.float32)
        share = weight[index][..., None]
        mixed = image * (1 - share) + (colours * weight[:, None])[index]
        picture: Image = np.rint(mixed).astype(np.uint8)
        self._hatch(picture, index == count)
        self._draw_contours(picture, index)
        if captions:
            visible = np.where(np.append(self.is_background, True)[index], count, index)
            write_class_names(picture, visible, self.classes, self.palette)
        return picture

    def _hatch(self, picture: Image, ignored: NDArray[np.bool_]) -> None:
        if ignored.any():
            height, width = ignored.shape
            diagonal = np.arange(height)[:, None] + np.arange(width)
            picture[ignored & (diagonal % _HATCH_STEP == 0)] = _HATCH

    def _draw_contours(self, picture: Image, index: NDArray[np.integer]) -> None:
        """Draw a line between two classes, in the darker shade of the class below or right."""
        count = len(self.classes)
        edge = np.zeros(index.shape, bool)
        edge[1:] |= index[1:] != index[:-1]
        edge[:, 1:] |= index[:, 1:] != index[:, :-1]
        if max(index.shape) > 700:  # a line of one px is lost where the picture is shown smaller
            edge = cv2.dilate(edge.astype(np.uint8), np.ones((2, 2), np.uint8)).astype(bool)
        shades = np.concatenate((self.palette // 2, np.full((1, 3), 90, np.uint8)))
        plain = np.append(self.is_background, True)
        if count:
            shades[plain] = 255
        picture[edge] = shades[index[edge]]

    def shares(self, label: Label) -> dict[str, float]:
        """Return the share of each class in the pixels that are not ignored, largest first."""
        counts = np.bincount(label[(label >= 0) & (label < len(self.classes))].ravel())
        total = max(1, int(counts.sum()))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return {self.classes[i]: float(counts[i]) / total for i in order}

    def legend(self, label: Label, width: int) -> Image:
        """Draw colour, name and share of each class that a label map (H, W) holds.

        Returns:
            RGB picture (h, width, 3), white behind.
        """
        shares = self.shares(label)
        size = max(11, min(18, width // 60))
        entries = [(name, f"{name}  {_percent(share)}") for name, share in shares.items()]
        entries = entries or [("", "nothing but ignored pixels")]
        widest = max(text_size(text, size)[1] for _, text in entries)
        column = min(width, widest + 3 * size)
        columns = max(1, width // column)
        rows = -(-len(entries) // columns)
        canvas = np.full((rows * (size * 2) + size, width, 3), 255, np.uint8)
        for i, (name, text) in enumerate(entries):
            top, left = (
                (i // columns) * size * 2 + size // 2 + 2,
                (i % columns) * column + size // 2,
            )
            if name:
                colour = self.palette[self.classes.index(name)]
                canvas[top : top + size + 4, left : left + size + 4] = colour // 2
                canvas[top + 1 : top + size + 3, left + 1 : left + size + 3] = colour
            write_text(canvas, text, (top, left + size + size // 2 + 4), size=size)
        return canvas

    def draw_with_legend(self, image: Image, label: Label) -> Image:
        """Return the overlay with its legend below, (H + h, W, 3)."""
        picture = self.draw(image, label)
        return np.concatenate((picture, self.legend(label, picture.shape[1])))

    def draw_beside(self, image: Image, label: Label, truth: Label | None = None) -> Image:
        """Return image, label where there is one, and prediction side by side, legend below.

        Args:
            image: RGB picture (H, W, 3).
            label: Predicted classes (H, W).
            truth: Labelled classes (H, W).
        """
        maps: Mapping[str, Label | None] = {"label": truth, "prediction": label}
        drawn = [self.draw(image, each) for each in maps.values() if each is not None]
        row = side_by_side([image, *drawn], gap=8)
        return np.concatenate((row, self.legend(label, row.shape[1])))


def _percent(share: float) -> str:
    return "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
