"""Pictures of predictions while validating and testing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine import fileio
from mmengine.hooks import Hook

from nlseg.errors import DataError
from nlseg.evaluation.prediction_files import prediction_name
from nlseg.registry import HOOKS
from nlseg.structures import SegDataSample
from nlseg.visualization.overlay import Image


@HOOKS.register_module()
class SegVisualizationHook(Hook):
    """Draw labels and predictions of validation and test images.

    Args:
        draw: Whether to draw at all; ``show`` or ``show_dir`` imply it.
        interval: Draw every ``interval``-th batch. Without it every 50th, and with ``show_dir``
            every one.
        show: Open a window for each.
        wait_time: Seconds until the window goes on, 0 for ever.
        backend_args: Where image files come from, as for ``LoadImageFromFile``.
        show_dir: Write PNGs here instead of handing pictures to the visualizer's back ends.
            Sub-folders of the images are kept, so that no two share a file; pictures drawn while
            training lie below ``iter_<n>/``.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int | None = None,
        *,
        show: bool = False,
        wait_time: float = 0.0,
        backend_args: dict[str, Any] | None = None,
        show_dir: str | None = None,
    ) -> None:
        self.draw = draw or show or show_dir is not None
        self.interval = interval or (1 if show_dir is not None else 50)
        self.show = show
        self.wait_time = wait_time
        self.backend_args = backend_args
        self.show_dir = show_dir
        self.warned = False

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw the predictions of a validation batch; a full disk does not end a training."""
        try:
            self._draw(runner, batch_idx, outputs, "val")
        except OSError as error:
            if not self.warned:
                runner.logger.warning(f"a picture cannot be written ({error}); the run goes on")
            self.warned = True

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw the predictions of a test batch."""
        self._draw(runner, batch_idx, outputs, "test")

    def _draw(
        self, runner: Any, batch_idx: int, outputs: Sequence[SegDataSample] | None, mode: str
    ) -> None:
        if not self.draw or not self.every_n_inner_iters(batch_idx, self.interval):
            return
        dataset = getattr(runner, f"{mode}_dataloader").dataset
        root = image_root(dataset)
        for sample in outputs or ():
            name = prediction_name(sample.img_path, root)
            runner.visualizer.add_datasample(
                "_".join((mode, *name.with_suffix("").parts)),
                read_rgb(sample.img_path, self.backend_args),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=self._file(name, mode, runner.iter),
                step=runner.iter,
            )

    def _file(self, name: Path, mode: str, iteration: int) -> Path | None:
        if self.show_dir is None:
            return None
        return Path(self.show_dir, f"iter_{iteration}" if mode == "val" else "", name)


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


def read_rgb(path: str, backend_args: dict[str, Any] | None = None) -> Image:
    """Read an image file as RGB (H, W, 3), turned as its EXIF tag says, as the pipelines do.

    Raises:
        DataError: If it cannot be decoded.
    """
    content = np.frombuffer(fileio.get(path, backend_args=backend_args), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: is no image that can be decoded")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
