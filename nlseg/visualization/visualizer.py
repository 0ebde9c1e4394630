"""The visualizer that configs name: overlays of labels and predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process, master_only
from mmengine.visualization import Visualizer
from numpy.typing import ArrayLike, NDArray

from nlseg.bounds import Probability
from nlseg.registry import VISUALIZERS
from nlseg.structures import SegDataSample
from nlseg.visualization.painter import Painter
from nlseg.visualization.pictures import (
    Image,
    as_palette,
    make_palette,
    overlay,
    side_by_side,
    write_picture,
)


class _LaterFigure:
    """Stands in for the figure that the parent makes at once but overlays never need."""

    def get_dpi(self) -> float:
        return 100.0


@VISUALIZERS.register_module()
class SegLocalVisualizer(Visualizer):
    """Draw label maps over images and hand the pictures to the back ends.

    Overlays are painted with arrays alone. matplotlib is imported only when one of the parent's
    drawing methods is used.

    Args:
        name: Name of the instance.
        image: RGB picture (H, W, 3) to draw on.
        vis_backends: Where pictures and scalars go.
        save_dir: Folder of the back ends that write files.
        classes: Names of the classes; else those of the data set whose samples are drawn.
        palette: RGB colours of the classes; made up where there are none.
        dataset_name: Accepted for the sake of existing configs; the data set's own names and
            colours are used.
        alpha: Weight of the colours in [0, 1].
    """

    fig_save: Any
    ax_save: Any
    _meta: dict[str, Any] | None

    def __init__(
        self,
        name: str = "visualizer",
        image: Image | None = None,
        *,
        vis_backends: list[dict[str, Any]] | None = None,
        save_dir: str | None = None,
        classes: Sequence[str] | None = None,
        palette: ArrayLike | None = None,
        dataset_name: str | None = None,
        alpha: Probability = 0.8,
    ) -> None:
        super().__init__(name, None, vis_backends, save_dir)
        self._meta = None
        self.alpha = alpha
        if classes is not None:
            self.set_dataset_meta(classes, palette, dataset_name)
        if image is not None:
            self.set_image(image)

    def set_dataset_meta(
        self,
        classes: Sequence[str] | None = None,
        palette: ArrayLike | None = None,
        dataset_name: str | None = None,
    ) -> None:
        """Set names and RGB colours of the classes."""
        self._meta = {"classes": classes, "palette": palette}

    def _initialize_fig(self, fig_cfg: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Put the making of matplotlib's figure off until an image is set to be drawn on."""
        self._fig_cfg = fig_cfg
        return None, _LaterFigure(), None

    @master_only
    def set_image(self, image: Image) -> None:
        """Set the RGB picture (H, W, 3) that the parent's drawing methods draw on."""
        if self.ax_save is None:
            figure = super()._initialize_fig(self._fig_cfg)
            self.fig_save_canvas, self.fig_save, self.ax_save = figure
            self.dpi = self.fig_save.get_dpi()
        super().set_image(image)

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Names (``classes``) and RGB colours (``palette``) of the classes, on every process."""
        return self._meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._meta = dataset_meta

    def add_datasample(
        self,
        name: str,
        image: Image,
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | Path | None = None,
        step: int = 0,
        with_labels: bool = True,
    ) -> None:
        """Draw label and prediction side by side and show, write or log the picture.

        Files are written by every process, as each has images of its own; windows and back ends
        belong to the first.

        Args:
            name: Under which the back ends log the picture.
            image: RGB picture (H, W, 3).
            data_sample: Holds ``gt_sem_seg`` and ``pred_sem_seg`` (1, H, W); what is not there is
                not drawn.
            draw_gt: Draw the label.
            draw_pred: Draw the prediction.
            show: Open a window.
            wait_time: Seconds for which the window stays open, 0 for ever.
            out_file: Write the picture here instead of handing it to the back ends.
            step: Iteration to log it under.
            with_labels: Draw as ``Painter`` does: contours, names of the classes on their regions,
                background and ignored pixels left visible; else colours alone.
        """
        if out_file is None and not is_main_process():
            return
        picture = self.draw(
            image, data_sample, draw_gt=draw_gt, draw_pred=draw_pred, with_labels=with_labels
        )
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is None:
            self.add_image(name, picture, step)
        else:
            write_picture(Path(out_file), picture)

    def draw(
        self,
        image: Image,
        data_sample: SegDataSample | None = None,
        *,
        draw_gt: bool = True,
        draw_pred: bool = True,
        with_labels: bool = True,
    ) -> Image:
        """Return the picture that :meth:`add_datasample` logs: label left, prediction right."""
        wanted = [("gt_sem_seg", draw_gt), ("pred_sem_seg", draw_pred)]
        pictures = [
            self._overlay(image, np.asarray(data_sample.get(key).data.cpu())[0], with_labels)
            for key, draw in wanted
            if draw and data_sample is not None and key in data_sample
        ]
        return side_by_side(pictures) if pictures else image

    def _overlay(self, image: Image, label: NDArray[np.integer], with_labels: bool) -> Image:
        meta = self._meta or {}
        classes = meta.get("classes")
        if classes is None:
            palette = make_palette(256)
        else:
            palette = as_palette(meta.get("palette"), len(classes))
        if with_labels and classes is not None:
            return Painter(classes, palette, self.alpha).draw(image, label)
        return overlay(image, label, palette, self.alpha)
