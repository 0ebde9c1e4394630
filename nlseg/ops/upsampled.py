"""Blocks of rows of upsampled logits, made one after the other, and the way back for gradients.

With the matrices R and C of the two axes, the upsampled logits of one image and class are
``R @ logits @ C.T``. Nothing larger than a block of rows of them is ever held, and a block's
gradient is taken back through R before the next block is made.
"""

# Shape suffixes: N images, K classes, h and w the logits' size, H and W the labels' size,
# B rows of a block, S rows of the logits that the block needs.

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nlseg.ops.resize import Size, axis_matrix

BLOCK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


@dataclass
class Block:
    """Some rows of an image's upsampled logits.

    Args:
        image: Which image of the batch, from 0.
        rows: Which rows of it.
        logits: The logits (B, W, K).
        grad: Their gradient, put here by whoever reads the blocks where one is wanted.
    """

    image: int
    rows: slice
    logits: Tensor
    grad: Tensor | None = None

    def release(self) -> None:
        """Let go of the tensors."""
        self.logits, self.grad = self.logits.new_empty(0), None


def upsampled_blocks(
    logits_NKhw: Tensor, size: Size, align_corners: bool, grad_NKhw: Tensor | None = None
) -> Iterator[Block]:
    """Yield all rows of the upsampled logits, image by image, from the top.

    Args:
        logits_NKhw: Logits, float32.
        size: Height H and width W in px.
        align_corners: See ``nlseg.ops.resize.resize``.
        grad_NKhw: Where the gradient with respect to the logits is written to; each block has to be
            given its ``grad`` then.
    """
    height, width = size
    rows = axis_matrix(logits_NKhw.shape[2], height, align_corners, logits_NKhw.device)
    columns = axis_matrix(logits_NKhw.shape[3], width, align_corners, logits_NKhw.device)
    classes = logits_NKhw.shape[1]
    for n, logits_Khw in enumerate(logits_NKhw):
        wide_hWK = columns.weight @ logits_Khw.permute(1, 2, 0)
        grad_hWK = None if grad_NKhw is None else torch.zeros_like(wide_hWK)
        for top, bottom in _cut(height, wide_hWK[0].numel() * 4, logits_NKhw.device.type):
            first, last = rows.first[top], rows.last[bottom - 1] + 1
            blend_BS = rows.weight[top:bottom, first:last]
            logits_BWK = (blend_BS @ wide_hWK[first:last].flatten(1)).view(-1, width, classes)
            block = Block(n, slice(top, bottom), logits_BWK)
            del logits_BWK
            yield block
            if grad_hWK is not None:
                assert block.grad is not None
                grad_hWK[first:last].flatten(1).addmm_(blend_BS.T, block.grad.flatten(1))
            block.release()  # the reader still has a name for it while the next one is made
        if grad_hWK is not None:
            assert grad_NKhw is not None
            grad_NKhw[n] = (columns.weight.T @ grad_hWK).permute(2, 0, 1)


def _cut(height: int, row_bytes: int, device: str) -> Iterator[tuple[int, int]]:
    step = max(BLOCK_BYTES.get(device, BLOCK_BYTES["cuda"]) // row_bytes, 1)
    for top in range(0, height, step):
        yield top, min(top + step, height)


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply in float32 whatever TF32 setting and autocast the network runs under."""
    restore = _multiply_exactly()
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        restore()


def _multiply_exactly() -> Callable[[], None]:
    """Set float32 products to float32, and return what sets them back.

    From PyTorch 2.9 on each library has its own setting, and asking for the common one raises
    where a script has changed one of them.
    """
    libraries = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if not all(hasattr(library, "fp32_precision") for library in libraries):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        return lambda: torch.set_float32_matmul_precision(before)
    kept = [(library, library.fp32_precision) for library in libraries if library is not None]
    for library, _ in kept:
        library.fp32_precision = "ieee"

    def restore() -> None:
        for library, precision in kept:
            library.fp32_precision = precision

    return restore
