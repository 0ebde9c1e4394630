"""Predictions as label PNGs, the form in which test servers take them."""

from pathlib import Path

import cv2
import numpy as np
from mmengine import dist
from numpy.typing import NDArray

from nlseg.errors import DataError


def prediction_name(img_path: str | Path, img_root: str | Path | None = None) -> Path:
    """Name the file of an image's prediction.

    Args:
        img_path: The image.
        img_root: Folder below which sub-folders are kept in the name, so that two images of one
            name in two folders get two files.

    Returns:
        The image's path relative to ``img_root``, or its bare name, with the suffix ``.png``.
    """
    path = Path(img_path)
    if img_root is not None and path.is_relative_to(img_root):
        return path.relative_to(img_root).with_suffix(".png")
    return Path(path.name).with_suffix(".png")


class PredictionWriter:
    """Write label maps below one folder and refuse to write one file for two images.

    Args:
        output_dir: Where the files go; made if it is not there.
        img_root: See :func:`prediction_name`.
    """

    def __init__(self, output_dir: str | Path, img_root: str | Path | None = None) -> None:
        self.output_dir = Path(output_dir)
        self.img_root = img_root
        self.written: dict[Path, str] = {}

    def write(self, label: NDArray[np.integer], img_path: str) -> Path:
        """Write one label map (H, W), 8 bit or, with values above 255, 16 bit.

        Returns:
            The file.

        Raises:
            DataError: If another image has been written to the same file.
            OSError: If the file cannot be written.
        """
        file = self.output_dir / prediction_name(img_path, self.img_root)
        _claim(self.written, file, img_path)
        file.parent.mkdir(parents=True, exist_ok=True)
        depth = np.uint8 if label.size == 0 or label.max() < 256 else np.uint16
        if not cv2.imwrite(str(file), label.astype(depth)):
            raise OSError(f"{file}: could not be written")
        return file

    def check_processes(self) -> None:
        """Compare what the processes have written; to be called on all of them.

        Raises:
            DataError: If two processes have written one file for two images.
        """
        claimed: dict[Path, str] = {}
        for written in dist.all_gather_object(self.written):
            for file, img_path in written.items():
                _claim(claimed, file, img_path)


def _claim(claimed: dict[Path, str], file: Path, img_path: str) -> None:
    other = claimed.setdefault(file, img_path)
    if other != img_path:
        raise DataError(
            f"{img_path}: its prediction would overwrite {file}, which holds that of {other}; "
            "give the metric img_root=<folder of all images> to keep the folders apart"
        )
