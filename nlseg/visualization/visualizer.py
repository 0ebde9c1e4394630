"""The visualizer that configs name: overlays of labels and predictions."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process, master_only
from mmengine.registry import VISBACKENDS
from mmengine.structures import PixelData
from mmengine.utils import ManagerMixin
from mmengine.visualization import Visualizer
from mmengine.visualization.vis_backend import BaseVisBackend
from numpy.typing import ArrayLike
from torch import nn

from nlseg.bounds import Probability
from nlseg.errors import ConfigError
from nlseg.extension import Extensible, extension_point
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

_Backend: TypeAlias = dict[str, Any] | BaseVisBackend


@VISUALIZERS.register_module()
class SegLocalVisualizer(Extensible, Visualizer):
    """Draw label maps over images and hand the pictures to the back ends.

    Overlays are painted with arrays alone. The parent is initialised, and matplotlib imported,
    when an image is set for one of its own drawing methods.

    Args:
        name: Name of the instance.
        image: RGB picture (H, W, 3) to draw on.
        vis_backends: Where pictures and scalars go: back ends or their configs, each with a
            ``name`` of its own if one class is used twice.
        save_dir: The back ends write into its folder ``vis_data``.
        classes: Names of the classes; else those of the data set whose samples are drawn.
        palette: RGB colours of the classes; made up where there are none.
        dataset_name: Accepted for the sake of existing configs; the data set's own names and
            colours are used.
        alpha: Weight of the colours in [0, 1].
    """

    not_called: ClassVar[Mapping[str, str]] = {
        "_get_center_loc": "names are placed by Painter; write _draw_sem_seg(self, image, sem_seg, "
        "classes, palette, with_labels)",
        "_draw_depth_map": "there are no depth maps; write draw(self, image, data_sample, ...)",
    }

    fig_save: Any = None
    _meta: dict[str, Any] | None

    def __init__(
        self,
        name: str = "visualizer",
        image: Image | None = None,
        *,
        vis_backends: _Backend | Sequence[_Backend] | None = None,
        save_dir: str | None = None,
        classes: Sequence[str] | None = None,
        palette: ArrayLike | None = None,
        dataset_name: str | None = None,
        alpha: Probability = 0.8,
    ) -> None:
        ManagerMixin.__init__(self, name)
        self.backends = _build_backends(vis_backends, save_dir)
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

    @master_only
    def set_image(self, image: Image) -> None:
        """Set the RGB picture (H, W, 3) that the parent's drawing methods draw on."""
        if self.fig_save is None:
            super().__init__(self.instance_name)
        super().set_image(image)

    @master_only
    def get_backend(self, name: str) -> BaseVisBackend | None:
        """Return the back end of this name."""
        return self.backends.get(name)

    @master_only
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Hand the config of the run to the back ends."""
        for backend in self.backends.values():
            backend.add_config(config, **kwargs)

    @master_only
    def add_graph(self, model: nn.Module, data_batch: Any, **kwargs: Any) -> None:
        """Hand the network and a batch that it takes to the back ends."""
        for backend in self.backends.values():
            backend.add_graph(model, data_batch, **kwargs)

    @master_only
    def add_image(self, name: str, image: Image, step: int = 0) -> None:
        """Hand an RGB picture (H, W, 3) to the back ends."""
        for backend in self.backends.values():
            backend.add_image(name, image, step)

    @master_only
    def add_scalar(self, name: str, value: float, step: int = 0, **kwargs: Any) -> None:
        """Hand one value to the back ends."""
        for backend in self.backends.values():
            backend.add_scalar(name, value, step, **kwargs)

    @master_only
    def add_scalars(
        self,
        scalar_dict: dict[str, float],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Hand several values to the back ends, which may add them to a file of their own too."""
        for backend in self.backends.values():
            backend.add_scalars(scalar_dict, step, file_path, **kwargs)

    def close(self) -> None:
        """Close the back ends."""
        for backend in self.backends.values():
            backend.close()

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
        meta = self._meta or {}
        classes, palette = meta.get("classes"), meta.get("palette")
        wanted = [("gt_sem_seg", draw_gt), ("pred_sem_seg", draw_pred)]
        pictures = [
            self._draw_sem_seg(image, data_sample.get(key), classes, palette, with_labels)
            for key, draw in wanted
            if draw and data_sample is not None and key in data_sample
        ]
        return side_by_side(pictures) if pictures else image

    @extension_point
    def _draw_sem_seg(
        self,
        image: Image,
        sem_seg: PixelData,
        classes: Sequence[str] | None,
        palette: ArrayLike | None,
        with_labels: bool = True,
    ) -> Image:
        """Return an image (H, W, 3) with one label map (1, H, W) over it."""
        label = np.asarray(sem_seg.data.cpu())[0]
        colours = make_palette(256) if classes is None else as_palette(palette, len(classes))
        if with_labels and classes is not None:
            return Painter(classes, colours, self.alpha).draw(image, label)
        return overlay(image, label, colours, self.alpha)


def _build_backends(
    configs: _Backend | Sequence[_Backend] | None, save_dir: str | None
) -> dict[str, BaseVisBackend]:
    """Return the back ends by name; one that must write files but is told no folder is left out.

    Raises:
        TypeError: Something is neither a back end nor the config of one.
        ConfigError: Two back ends have one name.
    """
    folder = None if save_dir is None else str(Path(save_dir, "vis_data"))
    backends: dict[str, BaseVisBackend] = {}
    for config in [configs] if isinstance(configs, Mapping | BaseVisBackend) else configs or ():
        if isinstance(config, Mapping):
            settings = {"save_dir": folder, **config}
            name = settings.pop("name", None)
            backend = VISBACKENDS.build(settings)
        elif isinstance(config, BaseVisBackend):
            name, backend = None, config
        else:
            raise TypeError(f"vis_backends: {config!r} is neither a back end nor the config of one")
        parameter = inspect.signature(type(backend).__init__).parameters.get("save_dir")
        given = not isinstance(config, Mapping) or settings["save_dir"] is not None
        if parameter is not None and parameter.default is parameter.empty and not given:
            warnings.warn(f"{type(backend).__name__} is left out: it needs save_dir", stacklevel=3)
            continue
        name = name or type(backend).__name__
        if name in backends:
            raise ConfigError(f"vis_backends: two are called '{name}'; give one a name of its own")
        backends[name] = backend
    return backends
