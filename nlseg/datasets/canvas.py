"""A canvas that draws an image and its label map together."""

import cv2
import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from nlseg.structures import IGNORE_INDEX

Mask = NDArray[np.bool_]
Points = list[tuple[float, float]]


class Canvas:
    """An image and its label map while they are drawn, back to front.

    Coordinates are (x, y) in px; ``unit`` is the height of the picture.
    """

    def __init__(self, rng: RandomState, height: int, width: int) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.label = np.full((height, width), IGNORE_INDEX, np.uint8)
        self.ys, self.xs = np.mgrid[:height, :width].astype(np.float32)
        self.grain = rng.standard_normal((height, width)).astype(np.float32)
        self.clouds = cv2.GaussianBlur(self.grain, (0, 0), height / 40)
        self.clouds /= self.clouds.std()

    def pick(self, colours: tuple[tuple[int, int, int], ...]) -> NDArray[np.float32]:
        """Draw one of several colours, a little varied."""
        colour = np.array(colours[self.rng.randint(len(colours))], np.float32)
        return colour + self.rng.uniform(-10, 10, 3).astype(np.float32)

    def polygon(self, points: Points) -> Mask:
        """Return the pixels inside a polygon."""
        mask = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(mask, [np.round(np.array(points)).astype(np.int32)], 1)
        return mask.astype(bool)

    def box(self, left: float, top: float, right: float, bottom: float) -> Mask:
        """Return the pixels inside an upright rectangle."""
        return self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)])

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float) -> Mask:
        """Return the pixels inside an ellipse."""
        across = ((self.xs - x) / max(radius_x, 0.5)) ** 2
        return across + ((self.ys - y) / max(radius_y, 0.5)) ** 2 <= 1  # type: ignore[no-any-return]

    def paint(
        self,
        mask: Mask,
        label: int | None,
        colour: NDArray[np.float32] | tuple[int, int, int],
        shade: NDArray[np.float32] | float = 0.0,
    ) -> None:
        """Fill pixels with a colour plus a shade (H, W) and, unless None, with a class."""
        surface = np.asarray(colour, np.float32) + np.asarray(shade, np.float32)[..., None]
        self.image[mask] = np.broadcast_to(surface, self.image.shape)[mask]
        if label is not None:
            self.label[mask] = label

    def stripes(self, period: float, vertical: bool, depth: float) -> NDArray[np.float32]:
        """Return a texture (H, W) of stripes, ``depth`` levels deep."""
        place = self.xs if vertical else self.ys
        return np.where(place % period < period / 2, -depth, depth).astype(np.float32)

    def grid(self, period: float, depth: float) -> NDArray[np.float32]:
        """Return a texture (H, W) of windows or tiles, ``depth`` levels deep."""
        inside = (self.xs % period > period / 2) & (self.ys % period > period / 2)
        return np.where(inside, -depth, depth / 3).astype(np.float32)
