"""Counting: which label meets which prediction, as one integer histogram.

Every score of a segmentation follows from how many pixels of true class i were predicted as class
j. One histogram over the code ``label * columns + prediction`` counts them all at once, exactly,
where three float histograms over masked copies (intersection, prediction, label) are the common
way: those lose whole pixels once a sum passes 2**24.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nlseg.structures import IGNORE_INDEX

_EXACT_FLOAT32 = 2**24  # cv2 returns its counts as float32: exact up to here
_BLOCK = 2**16  # pixels that stay in the cache between the passes over them


def confusion_matrix(
    pred: Tensor, label: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Count the pixels of every (true, predicted) pair of classes.

    Args:
        pred: Predicted classes, any shape, any integer type.
        label: True classes, as many values as ``pred``, on the same device.
        num_classes: Number of classes K.
        ignore_index: Label value that does not count.

    Returns:
        Counts (K, K), int64, on the device of ``pred``; rows true, columns predicted. Pixels with
        a value outside 0..K-1 are not among them; :func:`count_pairs` keeps those too.

    Raises:
        ValueError: If sizes or devices differ or a type is not an integer type.
    """
    counts = count_pairs(pred, label, num_classes, ignore_index=ignore_index)
    return counts[:num_classes, :num_classes].contiguous()


def count_pairs(
    pred: Tensor, label: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Count pairs as :func:`confusion_matrix` does, with one more row and column for strays.

    Row K holds labels that are neither a class nor ``ignore_index``, column K predictions that are
    no class. With them the totals equal those of mmsegmentation, where a stray label leaves the
    intersection and the labelled area but the prediction on it still adds to the predicted area
    (and so to the union), and a stray prediction leaves the predicted area only.

    Args:
        pred: Predicted classes, any shape, any integer type.
        label: True classes, as many values as ``pred``, on the same device.
        num_classes: Number of classes K.
        ignore_index: Label value that does not count, whatever was predicted there. It may be one
            of the classes.

    Returns:
        Counts (K + 1, K + 1), int64, on the device of ``pred``. On CUDA nothing waits for the host.

    Raises:
        ValueError: If sizes or devices differ or a type is not an integer type.
    """
    _check(pred, label)
    if pred.device.type == "cpu" and num_classes <= 256:
        codes = _byte_codes(pred, label)
        if codes is not None:
            return _count_codes(codes, num_classes, ignore_index)
    return _count_any(pred, label, num_classes, ignore_index)


def _count_any(pred: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Count pairs of any integers on any device."""
    stray, ignored, columns = num_classes, num_classes + 1, num_classes + 1
    pred, label = pred.flatten().long(), label.flatten().long()
    row = label.masked_fill((label < 0) | (label >= num_classes), stray)
    row = row.masked_fill(label == ignore_index, ignored)
    column = pred.masked_fill((pred < 0) | (pred >= num_classes), stray)
    code = row * columns + column
    size = (num_classes + 2) * columns
    on_cpu = code.device.type == "cpu"
    table = torch.bincount(code, minlength=size) if on_cpu else _histogram(code, size)
    return table.view(num_classes + 2, columns)[: num_classes + 1].contiguous()


def _histogram(code: Tensor, size: int, lanes: int = 32) -> Tensor:
    """Count codes 0..size-1 without telling the host anything, as ``bincount`` must on a GPU.

    Neighbouring pixels mostly share their code, so each adds to one of ``lanes`` tables: otherwise
    a whole warp would queue for one address.
    """
    lane = torch.arange(code.numel(), device=code.device) % lanes
    table = torch.zeros(lanes * size, dtype=torch.int64, device=code.device)
    table.scatter_add_(0, code + lane * size, torch.ones_like(code))
    return table.view(lanes, size).sum(0)


def _byte_codes(pred: Tensor, label: Tensor) -> NDArray[np.uint16] | None:
    """Pack label and prediction into the high and the low byte of one code each.

    Returns:
        Codes (N,), or None where a value lies outside 0..255.
    """
    predicted, true = pred.numpy().ravel(), label.numpy().ravel()
    codes = np.empty(true.size, np.uint16)
    for start in range(0, codes.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        # The bitwise or of integers is in 0..255 exactly when all of them are.
        for values in (predicted[part], true[part]):
            if values.dtype != np.uint8 and not 0 <= int(np.bitwise_or.reduce(values)) < 256:
                return None
        np.copyto(codes[part], true[part], casting="unsafe")
        codes[part] <<= 8
        codes[part] |= predicted[part].astype(np.uint8)
    return codes


def _count_codes(codes: NDArray[np.uint16], num_classes: int, ignore_index: int) -> Tensor:
    """Count byte codes (N,) into a table with one row and one column for strays."""
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for start in range(0, codes.size, _EXACT_FLOAT32):
        row = codes[None, start : start + _EXACT_FLOAT32]  # one long row: calcHist walks rows
        table = cv2.calcHist([row], [0], None, [65536], [0, 65536]).reshape(256, 256)
        if 0 <= ignore_index < 256:
            table[ignore_index] = 0
        counts[:-1, :-1] += table[:num_classes, :num_classes].astype(np.int64)
        counts[-1, :-1] += table[num_classes:, :num_classes].sum(0).astype(np.int64)
        counts[:-1, -1] += table[:num_classes, num_classes:].sum(1).astype(np.int64)
        counts[-1, -1] += int(table[num_classes:, num_classes:].sum())
    return torch.from_numpy(counts)


def _check(pred: Tensor, label: Tensor) -> None:
    if pred.numel() != label.numel():
        raise ValueError(
            f"confusion_matrix: prediction {tuple(pred.shape)} and label {tuple(label.shape)} "
            "differ in size; bring the prediction to the label's size first"
        )
    if pred.device != label.device:
        raise ValueError(
            f"confusion_matrix: prediction is on {pred.device}, label on {label.device}; "
            "move one of them"
        )
    for name, values in (("prediction", pred), ("label", label)):
        if values.is_floating_point() or values.is_complex():
            raise ValueError(
                f"confusion_matrix: the {name} is {values.dtype}; class indices are integers "
                "(logits need argmax first)"
            )
