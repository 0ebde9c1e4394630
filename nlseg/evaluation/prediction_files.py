"""Predictions as label PNGs, the form in which test servers take them."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import dist
from numpy.typing import ArrayLike, NDArray

from nlseg.errors import DataError
from nlseg.files import write_file
from nlseg.label_png import encode_label


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


def image_root(dataset: Any) -> str | None:
    """Find the folder that holds all images of a data set, also of a joined or repeated one.

    Returns:
        The common folder of all image folders, or None where the data set tells none.
    """
    roots = sorted(set(_image_roots(dataset)))
    try:
        return os.path.commonpath(roots) if roots else None
    except ValueError:  # absolute and relative ones
        return None


def _image_roots(dataset: Any) -> list[str]:
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    roots = [root for part in inner if part is not None for root in _image_roots(part)]
    prefix = getattr(dataset, "data_prefix", None) or {}
    return roots + ([str(prefix["img_path"])] if prefix.get("img_path") else [])


def root_of_shared_names(dataset: Any) -> str | None:
    """Return the folder above all images if two of them have the same name, else None."""
    if not hasattr(dataset, "get_data_info"):
        return None
    paths = (Path(dataset.get_data_info(index)["img_path"]) for index in range(len(dataset)))
    shared = any(number > 1 for number in Counter(path.stem for path in paths).values())
    return image_root(dataset) if shared else None


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

    def write(
        self, label: NDArray[np.integer], img_path: str, palette: ArrayLike | None = None
    ) -> Path:
        """Write one label map (H, W), 8 bit or, with values above 255, 16 bit.

        Args:
            label: Classes (H, W).
            img_path: The image.
            palette: RGB colours (K, 3) of the values; makes an indexed PNG, whose values are the
                classes and which viewers show in colour.

        Returns:
            The file.

        Raises:
            DataError: If another image has been written to the same file.
            OSError: If the file cannot be written.
        """
        file = self.output_dir / prediction_name(img_path, self.img_root)
        _claim(self.written, file, img_path)
        file.parent.mkdir(parents=True, exist_ok=True)
        data = encode_label(label, palette)
        write_file(file, data)
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
