"""Samples of a data set as pictures: as they are stored, and as the pipeline returns them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from nlseg.datasets.stream import permutation
from nlseg.errors import ConfigError
from nlseg.evaluation.prediction_files import image_root, prediction_name
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex
from nlseg.visualization.pictures import (
    Cell,
    Image,
    as_palette,
    fit_longest,
    overlay,
    write_class_names,
)

_LOADING = ("LoadImageFromFile", "LoadAnnotations")
_ANOTHER_DRAW = 1_000_003
LONGEST, NAMES = 480, 22
"""Longer side of a picture and height of the names on it in px, whatever the images' size."""


class Browser:
    """Draws samples of one split of a config.

    In training, sample n of the rows is sample n of the stream that a run with this seed trains on:
    the same image under the same draws.

    Args:
        config: What :func:`nlseg.config.load_config` returns.
        split: ``train``, ``val`` or ``test``.
        seed: Of the run.
        alpha: Weight of the label's colours in [0, 1].

    Raises:
        ConfigError: The config has no such split, or it is loaded in an unusual way.
    """

    def __init__(
        self, config: Config, split: str = "train", seed: int = 0, alpha: float = 0.6
    ) -> None:
        loader = config.get(f"{split}_dataloader")
        if not loader:
            raise ConfigError(
                f"{split}_dataloader: the config has none, so there is no {split} set"
            )
        settings = Config(dict(loader.dataset)).to_dict()
        self.dataset = DATASETS.build(settings)
        self.raw = DATASETS.build(only_loading(settings))
        self.is_training = split == "train"
        self.seed = seed
        self.alpha = alpha
        for dataset in (self.dataset, self.raw):
            if hasattr(dataset, "set_seed"):
                dataset.set_seed(seed)
        meta = self.dataset.metainfo
        self.classes: Sequence[str] = meta.get("classes") or ()
        self.palette: Image = as_palette(meta.get("palette"), len(self.classes))

    def rows(self, count: int, num_draws: int = 3) -> Iterator[list[Cell]]:
        """Yield the pictures of the first samples: image, label, what the pipeline makes of them.

        Args:
            count: Number of samples.
            num_draws: How often each is augmented; outside of training once.
        """
        size = len(self.dataset)
        root = image_root(self.raw)
        for number in range(min(count, size)):
            image = int(permutation(self.seed, 0, size)[number]) if self.is_training else number
            sample = self.raw[SampleIndex(image, number)]
            picture, label = unpack(sample)
            name = prediction_name(sample["data_samples"].img_path, root).with_suffix("")
            shown = [fit_longest(picture, LONGEST), self._paint(picture, label)]
            row = [Cell(shown[0], str(name)), Cell(shown[1], "label")]
            for draw in range(num_draws if self.is_training else 1):
                index = SampleIndex(image, number + draw * _ANOTHER_DRAW)
                row.append(self._augmented(index))
            yield row

    def _augmented(self, index: SampleIndex) -> Cell:
        picture, label = unpack(self.dataset[index])
        height, width = picture.shape[:2]
        words = (
            f"augmented, {height} x {width} px" if self.is_training else f"{height} x {width} px"
        )
        return Cell(self._paint(picture, label), words)

    def _paint(self, picture: Image, label: NDArray[np.integer] | None) -> Image:
        picture = fit_longest(picture, LONGEST)
        if label is None:
            return picture
        size = picture.shape[1::-1]  # test pipelines resize images only
        label = cv2.resize(label.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        painted = overlay(picture, label, self.palette, self.alpha)
        write_class_names(painted, label, self.classes, self.palette, size=NAMES)
        return painted


def unpack(sample: Mapping[str, Any]) -> tuple[Image, NDArray[np.integer] | None]:
    """Return the RGB picture (H, W, 3) and the label map (H, W) of a packed sample."""
    image = sample["inputs"].numpy().transpose(1, 2, 0)[..., ::-1]
    label = sample["data_samples"].get("gt_sem_seg")
    return np.ascontiguousarray(image), None if label is None else label.data.numpy()[0]


def only_loading(settings: dict[str, Any]) -> dict[str, Any]:
    """Keep the loading steps of a data set's pipeline, also inside joined and repeated ones."""
    changed = dict(settings)
    if "datasets" in settings:
        changed["datasets"] = [only_loading(part) for part in settings["datasets"]]
    elif isinstance(settings.get("dataset"), Mapping):
        changed["dataset"] = only_loading(settings["dataset"])
    else:
        steps = settings.get("pipeline") or ()
        kept = [step for step in steps if step["type"].rpartition(".")[2] in _LOADING]
        if not kept:
            raise ConfigError(
                f"pipeline: has none of {', '.join(_LOADING)}, so raw samples cannot be shown"
            )
        changed["pipeline"] = [*kept, {"type": "PackSegInputs"}]
    return changed
