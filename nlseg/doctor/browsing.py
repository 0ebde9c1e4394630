"""Samples of a data set as pictures: as they are stored, and as the pipeline returns them."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from numpy.typing import NDArray

from nlseg.datasets.stream import permutation
from nlseg.errors import ConfigError
from nlseg.evaluation.prediction_files import image_root, prediction_name
from nlseg.registry import DATASETS, MODELS
from nlseg.structures import SampleIndex
from nlseg.visualization.pictures import (
    Cell,
    Image,
    as_palette,
    fit_longest,
    overlay,
    write_class_names,
    write_picture,
)

_LOADING = ("LoadImageFromFile", "LoadAnnotations")
_ANOTHER_DRAW = 1_000_003
Shown = tuple[Image, NDArray[np.integer] | None, str]
"""A picture (H, W, 3), the labels to lay over it, and its caption."""
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
        full_size: Folder that gets every picture at its full size, to be linked from the small one.

    Raises:
        ConfigError: The config has no such split, or it is loaded in an unusual way.
    """

    def __init__(
        self,
        config: Config,
        split: str = "train",
        seed: int = 0,
        alpha: float = 0.6,
        full_size: Path | None = None,
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
        self.full_size = full_size
        model = config.get("model") or {}
        preparing = model.get("data_preprocessor", config.get("data_preprocessor"))
        ours = preparing and preparing.get("type") == "SegDataPreProcessor"
        self.preprocessor: Any = MODELS.build(dict(preparing)) if ours else None
        for dataset in (self.dataset, self.raw):
            if hasattr(dataset, "set_seed"):
                dataset.set_seed(seed)
        meta = self.dataset.metainfo
        self.classes: Sequence[str] = meta.get("classes") or ()
        self.palette: Image = as_palette(meta.get("palette"), len(self.classes))

    def rows(self, count: int, num_draws: int = 3) -> Iterator[list[Cell]]:
        """Yield the pictures of the first samples: image, label, what the pipeline makes of them.

        The last one is the tensor that the network gets: normalised and padded, shown again as a
        picture; it is there where the config has a preprocessor.

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
            shown: list[Shown] = [(picture, None, str(name)), (picture, label, "label")]
            draws = num_draws if self.is_training else 1
            made = [
                self.dataset[SampleIndex(image, number + draw * _ANOTHER_DRAW)]
                for draw in range(draws)
            ]
            shown += [self._augmented(one) for one in made]
            if self.preprocessor is not None and made:
                shown.append(self._network_input(made[0]))
            yield [self._cell(one, f"{number:04d}_{i}.png") for i, one in enumerate(shown)]

    def _cell(self, shown: Shown, name: str) -> Cell:
        """Paint a picture for the page, and at its full size where that is kept."""
        picture, label, caption = shown
        link = ""
        if self.full_size is not None:
            write_picture(self.full_size / name, self._paint(picture, label))
            link = f"{self.full_size.name}/{name}"
        return Cell(self._paint(fit_longest(picture, LONGEST), label), caption, link)

    def _augmented(self, sample: Mapping[str, Any]) -> Shown:
        picture, label = unpack(sample)
        height, width = picture.shape[:2]
        words = f"{height} x {width} px"
        return picture, label, f"augmented, {words}" if self.is_training else words

    def _network_input(self, sample: Mapping[str, Any]) -> Shown:
        """Turn what the preprocessor makes of a sample back into a picture, padding included."""
        one = copy.deepcopy(sample["data_samples"])
        batch = {"inputs": [sample["inputs"]], "data_samples": [one]}
        trains = self.is_training and "gt_sem_seg" in one
        preprocessor = self.preprocessor
        made = preprocessor(batch, trains)
        tensor = made["inputs"][0]
        levels = tensor * preprocessor.std + preprocessor.mean
        picture = levels.permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8).numpy()
        if not preprocessor.swap_channels:  # the network is given BGR
            picture = picture[..., ::-1]
        height, width = tensor.shape[-2:]
        rows, columns = height - sample["inputs"].shape[-2], width - sample["inputs"].shape[-1]
        words = f"tensor, {height} x {width} px, {tensor.min():.2f} to {tensor.max():.2f}, "
        words += f"{rows} rows and {columns} columns of padding"
        label = made["data_samples"][0].gt_sem_seg.data.numpy()[0] if trains else None
        return np.ascontiguousarray(picture), label, words

    def _paint(self, picture: Image, label: NDArray[np.integer] | None) -> Image:
        """Lay the label's colours over a picture."""
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
    if "pipeline" in settings and isinstance(settings.get("dataset"), Mapping):
        return only_loading(settings["dataset"])  # what mixes samples: stored are those inside
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
