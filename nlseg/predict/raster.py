"""Label rasters that do not fit in memory: windows are read from the file, blended, written tiled.

The result equals sliding windows over the whole image, because each block of the output sums the
logits of all windows of one common grid that touch it, in the order of that grid. Windows on the
border of a block are computed again for the next block; memory does not depend on the raster.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nlseg.errors import DataError, UserError
from nlseg.ops.resize import Size
from nlseg.ops.sliding_window import Window, window_grid
from nlseg.predict.outputs import Writer, write_picture
from nlseg.predict.sources import Source
from nlseg.structures import SegDataSample

SUFFIXES = (".tif", ".tiff", ".jp2")
NO_DATA = 255
LARGE_PX = 40_000_000
_BLOCK = 512
_SUM_BYTES = 128 << 20
_CACHE_BYTES = 64 << 20  # of tiles in GDAL, which would take a share of the machine's memory
_OVERVIEW_PX = 2048
_WINDOW: Size = (1024, 1024)


def is_raster(path: Path) -> bool:
    """Return whether a file is to be read in windows: georeferenced, or larger than 40 megapixels.

    Raises:
        UserError: It is large, but rasterio is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        return False
    if importlib.util.find_spec("rasterio") is None:
        if path.stat().st_size > LARGE_PX:
            raise UserError(
                f"{path}: a raster of this size needs rasterio: pip install 'nlseg[geo]'"
            )
        return False
    import rasterio

    try:
        with rasterio.open(path) as raster:
            return raster.crs is not None or raster.width * raster.height > LARGE_PX
    except rasterio.errors.RasterioError as error:
        raise DataError(f"{path}: cannot be read as a raster: {error}") from error


class RasterLabeller:
    """Labels rasters.

    Args:
        model: The segmentor, in evaluation mode.
        writer: Knows folders and colours.
        window: Height and width of a window in px; None for the config's sliding window, else 1024.
        stride: Steps between windows in px; None for the config's, else two thirds of a window.
    """

    def __init__(
        self, model: Any, writer: Writer, window: Size | None = None,
        stride: Size | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.writer = writer
        settings = self.model.test_cfg
        self.window: Size = window or settings.crop_size or _WINDOW
        two_thirds = (2 * self.window[0] // 3, 2 * self.window[1] // 3)
        self.stride: Size = stride or settings.stride or two_thirds
        self.channels = int(self.model.out_channels)

    @property
    def file_suffix(self) -> str:
        """Suffix of the label raster."""
        return ".tif"

    def run(self, source: Source, step: Callable[[int, int], None]) -> dict[str, Any]:
        """Label one raster.

        Args:
            source: The file.
            step: Called with blocks done and blocks in all.

        Returns:
            What the summary says of it: size and shares.

        Raises:
            DataError: It has no three bands of 8 bits, or cannot be read.
        """
        import rasterio

        target = self.writer.path("mask", source.name).with_suffix(self.file_suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.stem}.{os.getpid()}{self.file_suffix}")
        counts = np.zeros(len(self.writer.painter.classes), np.int64)
        settings = {"GDAL_CACHEMAX": _CACHE_BYTES}
        try:
            with (
                rasterio.Env(**({} if "GDAL_CACHEMAX" in os.environ else settings)),
                rasterio.open(source.path) as raster,
            ):
                self._check(raster, source.path)
                size = (raster.height, raster.width)
                with rasterio.open(temporary, "w", **self._profile(raster)) as out:
                    if len(counts) <= NO_DATA:
                        out.write_colormap(1, self._colours())
                    blocks = list(self.blocks(size))
                    for number, block in enumerate(blocks, 1):
                        label = self._label_block(raster, size, block)
                        inside = label[label != NO_DATA] if len(counts) <= NO_DATA else label
                        counts += np.bincount(inside.ravel(), minlength=len(counts))
                        out.write(label, 1, window=_as_rasterio(block))
                        step(number, len(blocks))
            os.replace(temporary, target)
        except rasterio.errors.RasterioError as error:
            raise DataError(f"{source.path}: cannot be read as a raster: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        if "overlay" in self.writer.kinds:
            self._write_overview(source, target)
        total = max(1, int(counts.sum()))
        names = self.writer.painter.classes
        shares = {names[k]: float(n) / total for k, n in enumerate(counts) if n}
        return {"size": list(size), "shares": shares}

    def blocks(self, size: Size) -> Iterator[Window]:
        """Cut a raster into the blocks that are summed at once."""
        side = int((_SUM_BYTES / 4 / (self.channels + 1)) ** 0.5) // _BLOCK * _BLOCK
        side = max(_BLOCK, side)
        for top in range(0, size[0], side):
            for left in range(0, size[1], side):
                yield Window(top, min(top + side, size[0]), left, min(left + side, size[1]))

    def _check(self, raster: Any, path: Path) -> None:
        if raster.count < 3 or set(raster.dtypes[:3]) != {"uint8"}:
            raise DataError(
                f"{path}: has {raster.count} bands of {', '.join(sorted(set(raster.dtypes)))}; "
                "the first three have to be red, green and blue of uint8 (gdal_translate -ot Byte "
                "-scale makes them)"
            )

    def _profile(self, raster: Any) -> dict[str, Any]:
        wide = len(self.writer.painter.classes) > NO_DATA
        return {
            "driver": "GTiff", "height": raster.height, "width": raster.width, "count": 1,
            "dtype": "uint16" if wide else "uint8", "nodata": None if wide else NO_DATA,
            "crs": raster.crs, "transform": raster.transform, "tiled": True,
            "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate",
            "BIGTIFF": "IF_SAFER",
        }  # fmt: skip

    def _colours(self) -> dict[int, tuple[int, int, int]]:
        return {k: tuple(map(int, c)) for k, c in enumerate(self.writer.painter.palette)}  # type: ignore[misc]

    def _label_block(self, raster: Any, size: Size, block: Window) -> NDArray[np.integer]:
        height, width = block.bottom - block.top, block.right - block.left
        total = torch.zeros((self.channels, height, width))
        seen = torch.zeros((1, height, width))
        for window in window_grid(size, self.window, self.stride):
            top, bottom = max(window.top, block.top), min(window.bottom, block.bottom)
            left, right = max(window.left, block.left), min(window.right, block.right)
            if top >= bottom or left >= right:
                continue
            logits = self._logits(raster, window)
            part = logits[
                :, top - window.top : bottom - window.top, left - window.left : right - window.left
            ]
            place = (
                slice(None),
                slice(top - block.top, bottom - block.top),
                slice(left - block.left, right - block.left),
            )
            total[place] += part
            seen[place] += 1
        total.div_(seen)
        if self.channels == 1:
            label = (total.sigmoid() > self.model.last_head.threshold)[0]
        else:
            label = total.argmax(0)
        wide = len(self.writer.painter.classes) > NO_DATA
        result: NDArray[np.integer] = label.numpy().astype(np.uint16 if wide else np.uint8)
        if not wide:
            valid = raster.dataset_mask(window=_as_rasterio(block))
            result[valid == 0] = NO_DATA
        return result

    def _logits(self, raster: Any, window: Window) -> Tensor:
        """Return the logits (K, h, w) of one window, on the host."""
        rgb = raster.read((1, 2, 3), window=_as_rasterio(window))
        image = torch.from_numpy(np.ascontiguousarray(rgb[::-1]))
        settings = self.model.test_cfg
        mode, settings.mode = settings.mode, "whole"
        try:
            with torch.inference_mode():
                batch = {"inputs": [image], "data_samples": [SegDataSample()]}
                inputs = self.model.data_preprocessor(batch, False)["inputs"]
                logits: Tensor = self.model.inference(inputs)[0]
        finally:
            settings.mode = mode
        height, width = rgb.shape[1:]
        return logits[:, :height, :width].float().cpu()

    def _write_overview(self, source: Source, target: Path) -> None:
        """Write an overlay of at most 2048 px."""
        import rasterio

        with rasterio.open(source.path) as raster, rasterio.open(target) as labels:
            shrink = max(1.0, max(raster.height, raster.width) / _OVERVIEW_PX)
            shape = (max(1, int(raster.height / shrink)), max(1, int(raster.width / shrink)))
            image = np.moveaxis(raster.read((1, 2, 3), out_shape=(3, *shape)), 0, -1)
            label = labels.read(1, out_shape=shape)
        picture = self.writer.painter.draw_with_legend(np.ascontiguousarray(image), label)
        write_picture(self.writer.path("overlay", source.name), picture)


def _as_rasterio(window: Window) -> Any:
    from rasterio.windows import Window as RasterioWindow

    return RasterioWindow(
        window.left, window.top, window.right - window.left, window.bottom - window.top
    )
