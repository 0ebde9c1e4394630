"""Matrix products of rows and weights at the full rate of the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Shape suffixes: M rows, K deep, N columns; P products.


def product(rows_MK: Tensor, weights_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """Return rows @ weights^T + bias, shape (M, N): ``F.linear``, but float32 runs in oneDNN.

    PyTorch sends float32 products on a CPU to MKL, which on AMD reaches half the rate of oneDNN;
    only convolutions go there. So rows become pixels of a 1x1 convolution, channels last, which
    copies nothing; in a batch, because with one image and one thread oneDNN would not be taken.
    """
    if rows_MK.device.type != "cpu" or rows_MK.dtype != torch.float32:
        return F.linear(rows_MK, weights_NK, bias_N)
    num_rows, depth = rows_MK.shape
    batch = 32 if num_rows % 32 == 0 else 1
    pixels = rows_MK.reshape(batch, 1, num_rows // batch, depth).permute(0, 3, 1, 2)
    out = F.conv2d(pixels, weights_NK[:, :, None, None], bias_N)
    return out.permute(0, 2, 3, 1).reshape(num_rows, len(weights_NK))


def products(rows_PMK: Tensor, weights_PNK: Tensor) -> Tensor:
    """Return every rows @ weights^T, shape (P, M, N)."""
    if rows_PMK.device.type != "cpu" or rows_PMK.dtype != torch.float32:
        return torch.bmm(rows_PMK, weights_PNK.mT)
    if len(rows_PMK) == 1:
        return product(rows_PMK[0], weights_PNK[0])[None]
    return torch.stack([product(*pair) for pair in zip(rows_PMK, weights_PNK, strict=True)])
