"""Label files to maps of class indices: decode, shift, map, colours, and the check of the range."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from nlseg.datasets.transforms.decode import (
    ImageBackend,
    decode,
    decode_fast,
    file_backend,
    read_bytes,
    read_header,
)
from nlseg.errors import ConfigError, DataError
from nlseg.extension import Extensible
from nlseg.registry import TRANSFORMS
from nlseg.structures import IGNORE_INDEX, Sample

_SHOWN = 8


@lru_cache(maxsize=64)
def _table(reduce_zero: bool, pairs: tuple[tuple[int, int], ...]) -> NDArray[np.uint8]:
    table = np.arange(256)
    if reduce_zero:
        table[:] = table - 1
        table[[0, 255]] = 255
    shifted = table.copy()
    for old, new in pairs:
        table[shifted == old] = new
    return table.astype(np.uint8)


def label_table(reduce_zero: bool, label_map: Mapping[int, int] | None) -> NDArray[np.uint8] | None:
    """Make the table (256,) that turns raw values into class indices.

    Args:
        reduce_zero: Whether 0 becomes 255 and k becomes k - 1; 255 stays.
        label_map: New value for each value after that step; what it does not name stays.

    Returns:
        The table, or None where nothing changes.
    """
    if not reduce_zero and not label_map:
        return None
    return _table(reduce_zero, tuple((label_map or {}).items()))


def histogram(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each of the 256 values of a label map (H, W)."""
    if label.size >= 1 << 24:  # calcHist counts in float32
        return np.bincount(label.ravel(), minlength=256)
    counts: NDArray[np.float32] = cv2.calcHist([label], [0], None, [256], [0, 256])
    return counts.ravel().astype(np.int64)


def check_range(label: NDArray[Any], path: str, num_classes: int, ignore_index: int | None) -> None:
    """Refuse a label map with a value that is neither a class nor ignored.

    Args:
        label: Whole numbers of any shape.
        path: Its file, for the error.
        num_classes: Number of classes.
        ignore_index: Value that does not count.

    Raises:
        DataError: Names the file, the values and how many pixels have them.
    """
    if label.dtype != np.uint8 and label.size and label.min() >= 0 and label.max() <= 255:
        label = label.astype(np.uint8)
    if label.dtype == np.uint8:
        if ignore_index == 255 and int((label + np.uint8(1)).max(initial=0)) <= num_classes:
            return
        counts = np.bincount(label.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(label, return_counts=True)
    is_stray = ((values < 0) | (values >= num_classes)) & (values != ignore_index)
    stray = list(zip(values[is_stray].tolist(), counts[is_stray].tolist(), strict=True))
    if stray:
        shown = ", ".join(f"{value} ({count} px)" for value, count in stray[:_SHOWN])
        more = f" and {len(stray) - _SHOWN} more" if len(stray) > _SHOWN else ""
        word = "label" if len(stray) == 1 else "labels"
        raise DataError(
            f"{path}: {word} {shown}{more} outside 0..{num_classes - 1} and not the ignore index "
            f'{ignore_index}; see "Label values" in docs/datasets.md'
        )


def _code(colours: NDArray[Any]) -> NDArray[np.int32]:
    red, green, blue = (colours[..., i].astype(np.int32) for i in range(3))
    return (red << 16) | (green << 8) | blue


def _colour_pairs(colours: Any) -> tuple[tuple[tuple[int, int, int], int], ...]:
    pairs = colours.items() if isinstance(colours, Mapping) else zip(colours, range(256))  # noqa: B905
    result = []
    for colour, index in pairs:
        if not isinstance(colour, Sequence) or len(colour) != 3:
            raise ConfigError(
                f"palette_to_index: {colour!r} is not a colour; give (red, green, blue) in 0..255"
            )
        result.append(((int(colour[0]), int(colour[1]), int(colour[2])), int(index)))
    return tuple(result)


@lru_cache(maxsize=4)
def _colour_table(
    pairs: tuple[tuple[tuple[int, int, int], int], ...],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    table = np.zeros(1 << 24, np.uint8)
    known = np.zeros(1 << 24, np.bool_)
    for colour, index in pairs:
        code = _code(np.array(colour))
        table[code], known[code] = index, True
    return table, known


def colours_to_index(image_bgr: NDArray[np.uint8], path: str, colours: Any) -> NDArray[np.uint8]:
    """Turn a mask painted in colours (H, W, 3) into class indices (H, W).

    Args:
        image_bgr: The mask in BGR order.
        path: Its file, for the error.
        colours: RGB colours whose position is the class, or a mapping from RGB to class.

    Raises:
        DataError: The mask holds a colour that no class has.
    """
    table, known = _colour_table(_colour_pairs(colours))
    codes = _code(image_bgr[..., ::-1])
    if not known[codes].all():
        unknown, counts = np.unique(codes[~known[codes]], return_counts=True)
        shown = ", ".join(
            f"({code >> 16}, {code >> 8 & 255}, {code & 255}) on {count} px"
            for code, count in list(zip(unknown.tolist(), counts.tolist(), strict=True))[:_SHOWN]
        )
        raise DataError(
            f"{path}: {len(unknown)} colours are not in the palette, (red, green, blue) {shown}; "
            "add them to palette_to_index, with 255 for what is to be ignored"
        )
    return table[codes]


@TRANSFORMS.register_module()
class LoadAnnotations(Extensible, BaseTransform):
    """Load ``gt_seg_map`` (H, W) uint8 class indices from ``seg_map_path``.

    The raw values of the file go through three steps: colours to indices where asked, the shift of
    ``reduce_zero_label`` (0 to 255, k to k - 1), the sample's ``label_map``.

    Args:
        reduce_zero_label: Shift labels by one so that 0 is ignored. None takes the data set's.
        backend_args: Arguments of an mmengine file backend for files that are not local.
        file_client_args: ``backend_args`` in older configs; ``dict(backend='disk')`` is local.
        imdecode_backend: ``pillow`` keeps the indices of palette images, ``cv2`` gives their
            colours.
        palette_to_index: RGB colours whose position is the class, or a mapping from RGB tuples to
            classes, for masks that are painted in colours. None takes the data set's.

    Raises:
        ConfigError: Both ``backend_args`` and ``file_client_args`` are given.
    """

    not_called: ClassVar[Mapping[str, str]] = {
        "_load_seg_map": "write transform(self, sample)",
        "_load_bboxes": "write transform(self, sample); there are label maps alone",
        "_load_labels": "write transform(self, sample); there are label maps alone",
        "_load_kps": "write transform(self, sample); there are label maps alone",
    }

    def __init__(
        self,
        reduce_zero_label: bool | None = None,
        backend_args: Mapping[str, Any] | None = None,
        *,
        imdecode_backend: ImageBackend = "pillow",
        palette_to_index: Any = None,
        file_client_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.reduce_zero_label = reduce_zero_label
        self.backend_args = file_backend("LoadAnnotations", backend_args, file_client_args)
        self.imdecode_backend = imdecode_backend
        self.palette_to_index = palette_to_index

    def transform(self, sample: Sample) -> Sample:
        """Set ``gt_seg_map`` and list it in ``seg_fields``.

        Raises:
            DataError: The file cannot be read, is no index mask, or holds a label outside the
                class range.
            ConfigError: Pipeline and data set disagree about ``reduce_zero_label``.
        """
        path = sample["seg_map_path"]
        label = sample.pop("cached_label", None)
        if label is None:
            label = self.read(path, sample)
        check_same_size(label.shape[0], label.shape[1], sample)
        table = label_table(self.reduces(sample), sample.get("label_map"))
        if table is not None:
            label = cv2.LUT(label, table)
        elif not label.flags.writeable:
            label = label.copy()  # as mmcv's: a user's transform may change it in place
        if sample.get("num_classes") is not None:
            self.check(label, sample)
        sample["gt_seg_map"] = label
        sample["seg_fields"] = [*sample.get("seg_fields", ()), "gt_seg_map"]
        return sample

    def check(self, label: NDArray[np.uint8], sample: Sample) -> None:
        """Refuse stray labels, or note them where later steps may make other labels of them.

        Raises:
            DataError: A label is outside the class range.
        """
        ignore_index = sample.get("ignore_index", IGNORE_INDEX)
        try:
            check_range(label, sample["seg_map_path"], sample["num_classes"], ignore_index)
        except DataError as error:
            if "stray_labels" not in sample:
                raise
            sample["stray_labels"].append(error)

    def reduces(self, sample: Sample) -> bool:
        """Return whether labels are shifted: the pipeline's word, else the data set's."""
        theirs = sample.get("reduce_zero_label")
        if self.reduce_zero_label is None:
            return bool(theirs)
        if theirs is not None and self.reduce_zero_label != theirs:
            raise ConfigError(
                f"LoadAnnotations.reduce_zero_label: the pipeline says {self.reduce_zero_label} "
                f"and the data set says {theirs}; set it in the data set and leave it out here"
            )
        return self.reduce_zero_label

    def read(self, path: str, sample: Sample) -> NDArray[np.uint8]:
        """Return the raw class indices (H, W) of a file."""
        data = read_bytes(path, self.backend_args)

        def check_size(height: int, width: int) -> None:
            check_same_size(height, width, sample)

        colours = self.palette_to_index
        if colours is None:
            colours = sample.get("palette_to_index")
        if colours is not None:
            painted = decode(
                data, path, "color_ignore_orientation", "pillow", check_size=check_size
            )
            return colours_to_index(painted, path, colours)
        header = read_header(data)
        if header is not None and header.is_grey:
            label = decode_fast(data, header, header.height)
            if label is not None:
                return label
        raw = decode(data, path, "unchanged", self.imdecode_backend, check_size=check_size)
        if raw.ndim == 3 and raw.shape[2] == 1:
            raw = raw[..., 0]
        return _as_index_map(raw, path)


def _as_index_map(raw: NDArray[Any], path: str) -> NDArray[np.uint8]:
    if raw.ndim != 2:
        raise DataError(
            f"{path}: a label map has one value per pixel, this file has shape {raw.shape}; "
            'for masks painted in colours see "Masks painted in colours" in docs/datasets.md'
        )
    if raw.dtype.itemsize > 1 and raw.size and not (raw.min() >= 0 and raw.max() <= 255):
        raise DataError(
            f"{path}: labels are stored in 8 bits, this file is {raw.dtype} with values "
            f"{raw.min()}..{raw.max()}"
        )
    label: NDArray[np.uint8] = np.ascontiguousarray(raw, dtype=np.uint8)
    if raw.dtype.kind == "f" and not np.array_equal(label, raw):
        raise DataError(
            f"{path}: labels are whole numbers, this file is {raw.dtype} with fractions"
        )
    return label


def check_same_size(height: int, width: int, sample: Sample) -> None:
    """Refuse a label map whose size is not that of the image, where one is loaded.

    Raises:
        DataError: Names both files and sizes.
    """
    expected = sample.get("ori_shape")
    if expected is not None and (height, width) != tuple(expected):
        raise DataError(
            f"{sample['seg_map_path']}: label map of {height} x {width} px for "
            f"the image {sample.get('img_path')} of {expected[0]} x {expected[1]} px "
            "(height x width)"
        )
