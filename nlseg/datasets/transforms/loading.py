"""Image files to samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from nlseg.datasets.transforms.decode import (
    BGR_TYPES,
    ColorType,
    ImageBackend,
    PngHeader,
    decode,
    decode_fast,
    fast_decoder,
    file_backend,
    read_bytes,
    read_header,
)
from nlseg.errors import DataError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample


@TRANSFORMS.register_module()
class LoadImageFromFile(BaseTransform):
    """Load ``img`` (H, W, 3) in BGR order from ``img_path``.

    What becomes of grey, palette, CMYK and 16-bit files, alpha channels and EXIF rotation is said
    in :mod:`nlseg.datasets.transforms.decode`.

    Args:
        to_float32: Give float32 instead of uint8.
        color_type: ``color`` for 8-bit colours, ``grayscale`` for one 8-bit channel, each also with
            ``_ignore_orientation`` behind, or ``unchanged`` for channels and depth of the file.
        imdecode_backend: ``cv2`` or ``pillow``.
        ignore_empty: Give None instead of an error for a file that cannot be read.
        backend_args: Arguments of an mmengine file backend for files that are not local.
        file_client_args: ``backend_args`` in older configs; ``dict(backend='disk')`` is local.

    Raises:
        ConfigError: Both ``backend_args`` and ``file_client_args`` are given.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: ColorType = "color",
        *,
        imdecode_backend: ImageBackend = "cv2",
        ignore_empty: bool = False,
        backend_args: Mapping[str, Any] | None = None,
        file_client_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.to_float32 = to_float32
        self.color_type = color_type
        self.imdecode_backend = imdecode_backend
        self.ignore_empty = ignore_empty
        self.backend_args = file_backend("LoadImageFromFile", backend_args, file_client_args)

    def transform(self, sample: Sample) -> Sample | None:
        """Set ``img``, ``img_shape`` and ``ori_shape`` (height, width).

        Raises:
            DataError: The file cannot be read or decoded.
        """
        if "cached_img" in sample:
            return self.take_cached(sample)
        try:
            return self.put(sample, self.read(sample["img_path"]))
        except DataError:
            if self.ignore_empty:
                return None
            raise

    def take_cached(self, sample: Sample) -> Sample:
        """Use the decoded image that the sample brings along."""
        return self.put(sample, sample.pop("cached_img"))

    def put(self, sample: Sample, image: NDArray[Any]) -> Sample:
        """Set the image's keys."""
        sample["img"] = image.astype(np.float32) if self.to_float32 else image
        sample["img_shape"] = sample["ori_shape"] = image.shape[:2]
        return sample

    @property
    def is_plain(self) -> bool:
        """Return whether this gives uint8 BGR images and an error for a bad file."""
        return self.color_type in BGR_TYPES and not (self.to_float32 or self.ignore_empty)

    def partial_header(self, data: bytes) -> PngHeader | None:
        """Return the header of a file of which ``decode`` can give the first rows only."""
        header = read_header(data) if self.color_type in BGR_TYPES else None
        if header is None or not (header.is_plain and header.is_rgb) or fast_decoder() is None:
            return None
        return header

    def read(self, path: str) -> NDArray[Any]:
        """Return the decoded image (H, W, 3) of a file."""
        return self.decode(read_bytes(path, self.backend_args), path)

    def decode(self, data: bytes, path: str, rows: int | None = None) -> NDArray[Any]:
        """Decode an image (H, W, 3), or, where the format allows, its first rows only.

        Args:
            data: The file's bytes.
            path: Its name, for the error.
            rows: Rows that will be looked at; None for all of them. More may come.
        """
        header = self.partial_header(data)
        if header is not None:
            image = decode_fast(data, header, rows or header.height)
            if image is not None:
                return image
        return decode(data, path, self.color_type, self.imdecode_backend)


@TRANSFORMS.register_module()
class LoadImageFromNDArray(LoadImageFromFile):
    """Take ``img`` (H, W, 3) as an array that is already in the sample."""

    def transform(self, sample: Sample) -> Sample:
        """Set ``img_path`` to None and ``img_shape``, ``ori_shape`` from the array."""
        sample["img_path"] = None
        return self.put(sample, sample["img"])
