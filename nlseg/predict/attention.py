"""Where the network looks: the attention row of one position, without the map of all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nlseg.errors import UserError
from nlseg.ops.global_context import ContextBlock
from nlseg.ops.non_local import NonLocal2d, to_rows
from nlseg.ops.resize import Size
from nlseg.predict.labeller import Network, Prepared
from nlseg.visualization.painter import Painter
from nlseg.visualization.pictures import Image, Label

NUM_REGIONS = 10
_HEAT = 0.6


@dataclass(frozen=True)
class Region:
    """A connected region of one predicted class, and how much of the attention it holds.

    Args:
        label: Name of its class.
        weight: Its share of the sum of all weights, by absolute value; in [0, 1].
        centre: Row and column in px of the image.
        share: Its share of the image's pixels, in [0, 1].
    """

    label: str
    weight: float
    centre: tuple[int, int]
    share: float


@dataclass
class Looked:
    """One image as the network saw it, ready to be asked about points.

    Args:
        image: RGB picture (H, W, 3).
        label: Predicted classes (H, W).
        block: The block that attends.
        features: Its input (1, C, h, w).
    """

    image: Image
    label: NDArray[np.integer]
    block: nn.Module
    features: Tensor

    @property
    def is_global(self) -> bool:
        """Whether there is one map for all positions, as in a global context block."""
        return isinstance(self.block, ContextBlock)

    @torch.inference_mode()
    def weights(self, place: tuple[int, int]) -> NDArray[np.float32]:
        """Return the weight of each position (h, w) for the query at a point of the image.

        It costs one product of that query with all keys. A global context block gives its one map.

        Args:
            place: Row and column in px of the image.

        Raises:
            UserError: The point lies outside the image.
        """
        height, width = self.label.shape
        if not (0 <= place[0] < height and 0 <= place[1] < width):
            raise UserError(
                f"the point {place} lies outside the image of {height} x {width} px (y, x)"
            )
        if isinstance(self.block, ContextBlock):
            return _as_map(global_weights(self.block, self.features), self._size)
        assert isinstance(self.block, NonLocal2d)
        rows, columns = self._size
        row = min(place[0] * rows // height, rows - 1)
        column = min(place[1] * columns // width, columns - 1)
        weights = attention_row(self.block, self.features, row * columns + column)
        pooled = (rows // 2, columns // 2)
        return _as_map(weights, self._size if weights.numel() == rows * columns else pooled)

    @property
    def _size(self) -> Size:
        return self.features.shape[2], self.features.shape[3]

    def regions(self, weights: NDArray[np.float32], painter: Painter) -> list[Region]:
        """Return the ten regions of predicted classes that weigh most, heaviest first.

        Args:
            weights: What :meth:`weights` returned.
            painter: Knows the names of the classes.
        """
        magnitude = np.abs(weights)
        small: Label = cv2.resize(
            self.label.astype(np.int32), weights.shape[::-1], interpolation=cv2.INTER_NEAREST
        )
        scale = np.array(self.label.shape) / np.array(weights.shape)
        found: list[Region] = []
        total = float(magnitude.sum()) or 1.0
        for k in np.unique(small):
            if not 0 <= k < len(painter.classes):
                continue
            count, parts = cv2.connectedComponents((small == k).astype(np.uint8), connectivity=4)
            for part in range(1, count):
                inside = parts == part
                middle = np.argwhere(inside).mean(0) * scale + scale / 2
                found.append(
                    Region(
                        painter.classes[int(k)],
                        float(magnitude[inside].sum()) / total,
                        (int(middle[0]), int(middle[1])),
                        float(inside.mean()),
                    )
                )
        return sorted(found, key=lambda region: -region.weight)[:NUM_REGIONS]

    def contrast(self, weights: NDArray[np.float32]) -> str:
        """Say how uneven weights are: the smallest and the largest beside their mean."""
        magnitude = np.abs(weights)
        mean = max(float(magnitude.mean()), 1e-12)
        low, high = float(magnitude.min()) / mean, float(magnitude.max()) / mean
        return f"weights from {low:.2f} to {high:.2f} times their mean"

    def draw(self, weights: NDArray[np.float32], place: tuple[int, int] | None) -> Image:
        """Draw weights as heat over the image, and a ring around the point that asked.

        Colours run from the smallest weight to the largest; :meth:`contrast` says how far apart
        they are.

        Args:
            weights: What :meth:`weights` returned.
            place: Row and column in px; None draws no ring.

        Returns:
            RGB picture (H, W, 3).
        """
        height, width = self.label.shape
        heat = np.abs(weights)
        heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
        large = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
        shades = cv2.applyColorMap(np.uint8(np.clip(large, 0, 1) * 255), cv2.COLORMAP_INFERNO)
        grey = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
        alpha = (0.25 + _HEAT * large)[..., None]
        picture = np.uint8(np.rint(grey * (1 - alpha) + shades[..., ::-1] * alpha))
        if place is not None:
            radius = max(4, max(height, width) // 80)
            centre = (int(place[1]), int(place[0]))
            cv2.circle(picture, centre, radius, (0, 0, 0), 4, cv2.LINE_AA)
            cv2.circle(picture, centre, radius, (255, 255, 255), 2, cv2.LINE_AA)
        return np.ascontiguousarray(picture)


def attention_row(block: NonLocal2d, x_NCHW: Tensor, position: int) -> Tensor:
    """Return the weights (S,) of all positions for one query.

    Args:
        block: The block.
        x_NCHW: Its input (1, C, H, W).
        position: Which of the L = H * W positions asks, row by row.
    """
    x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
    height, width = x_NCHW.shape[2:]
    row, column = divmod(position, width)
    assert row < height
    query_N1D = to_rows(block.theta(x_NCHW[:, :, row : row + 1, column : column + 1]))
    key_NSD = to_rows(block.phi(x_NCHW))
    if block.mode == "concatenation":
        query_N1D, key_NSD = block.project(query_N1D, key_NSD)
    return block.weigh(query_N1D, key_NSD)[0, 0]


def global_weights(block: ContextBlock, x_NCHW: Tensor) -> Tensor:
    """Return the weights (L,) with which a global context block pools its input (1, C, H, W)."""
    length = x_NCHW.shape[2] * x_NCHW.shape[3]
    if block.conv_mask is None:
        return x_NCHW.new_full((length,), 1 / length)
    weights: Tensor = block.conv_mask(x_NCHW).flatten().softmax(0)
    return weights


def _as_map(weights: Tensor, size: Size) -> NDArray[np.float32]:
    array: NDArray[np.float32] = weights.float().cpu().numpy().reshape(size)
    return array


def block_of(model: nn.Module) -> nn.Module:
    """Return the block of a network that attends.

    Raises:
        UserError: It has none.
    """
    blocks = [m for m in model.modules() if isinstance(m, (NonLocal2d, ContextBlock))]
    head: Any = getattr(model, "decode_head", None)
    own = [m for m in head.modules() if m in blocks] if isinstance(head, nn.Module) else []
    if not blocks:
        raise UserError("this network has no non-local or global-context block to look at")
    return (own or blocks)[0]


def look(network: Network, prepared: Prepared) -> Looked:
    """Label an image and keep what the block saw.

    The image is taken as a whole, also where the config tests by sliding windows, as positions of
    different windows do not see each other.
    """
    block = block_of(network.model)
    with _input_of(block) as seen, _whole(network.test_cfg):
        label, _ = network.label(prepared)
    return Looked(prepared.image, label, block, seen[0])


@contextmanager
def _input_of(block: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = block.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().clone())
    )
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _whole(test_cfg: Any) -> Iterator[None]:
    mode, test_cfg.mode = test_cfg.mode, "whole"
    try:
        yield
    finally:
        test_cfg.mode = mode
