"""The baseline for preparing training samples: mmcv's transforms, each on whole frames."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import mmcv
import mmcv.transforms
import numpy as np

from nlseg.datasets.stream import sample_rng
from nlseg.datasets.transforms import PackSegInputs
from nlseg.structures import Sample, SampleIndex
from nlseg.visualization.pictures import Image


class BaselineAnnotations(mmcv.transforms.BaseTransform):
    """Decode the label map with pillow, shift and map it on copies."""

    def transform(self, sample: Sample) -> Sample:
        """Add ``gt_seg_map``."""
        with open(sample["seg_map_path"], "rb") as file:
            data = file.read()
        label = mmcv.imfrombytes(data, flag="unchanged", backend="pillow").squeeze()
        label = label.astype(np.uint8)
        if sample["reduce_zero_label"]:
            label[label == 0] = 255
            label = label - 1
            label[label == 254] = 255
        if sample["label_map"] is not None:
            raw = label.copy()
            for old, new in sample["label_map"].items():
                label[raw == old] = new
        sample["gt_seg_map"] = label
        return sample


class BaselineCrop(mmcv.transforms.BaseTransform):
    """Cut a random box; count the classes of each candidate by sorting its pixels.

    Args:
        crop_size: Height and width in px.
        cat_max_ratio: Largest share of labelled pixels that one class may take.
    """

    def __init__(self, crop_size: Sequence[int], cat_max_ratio: float) -> None:
        self.crop_size = crop_size
        self.cat_max_ratio = cat_max_ratio

    def _draw(self, shape: Sequence[int]) -> tuple[slice, slice]:
        top = np.random.randint(0, max(shape[0] - self.crop_size[0], 0) + 1)
        left = np.random.randint(0, max(shape[1] - self.crop_size[1], 0) + 1)
        return slice(top, top + self.crop_size[0]), slice(left, left + self.crop_size[1])

    def transform(self, sample: Sample) -> Sample:
        """Crop image and label."""
        box = self._draw(sample["img"].shape)
        for _ in range(10 if self.cat_max_ratio < 1 else 0):
            labels, counts = np.unique(sample["gt_seg_map"][box], return_counts=True)
            counts = counts[labels != 255]
            if len(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio:
                break
            box = self._draw(sample["img"].shape)
        sample["img"], sample["gt_seg_map"] = sample["img"][box], sample["gt_seg_map"][box]
        return sample


class BaselineDistortion(mmcv.transforms.BaseTransform):
    """Distort colours in floating point, one step after the other."""

    def _levels(self, image: Image, alpha: float = 1, beta: float = 0) -> Image:
        changed: Image = np.clip(image.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)
        return changed

    def _contrast(self, image: Image) -> Image:
        if np.random.randint(2):
            return self._levels(image, alpha=np.random.uniform(0.5, 1.5))
        return image

    def transform(self, sample: Sample) -> Sample:
        """Change brightness, contrast, saturation and hue."""
        image = sample["img"]
        if np.random.randint(2):
            image = self._levels(image, beta=np.random.uniform(-32, 32))
        first = np.random.randint(2)
        if first:
            image = self._contrast(image)
        if np.random.randint(2):
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            hsv[..., 1] = self._levels(hsv[..., 1], alpha=np.random.uniform(0.5, 1.5))
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if np.random.randint(2):
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + np.random.randint(-18, 18)) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        sample["img"] = image if first else self._contrast(image)
        return sample


def baseline_steps(pipeline: Sequence[Mapping[str, Any]]) -> list[Callable[[Any], Any]]:
    """Build the baseline form of a training pipeline."""
    steps: list[Callable[[Any], Any]] = []
    for config in pipeline:
        kind, arguments = config["type"], {k: v for k, v in config.items() if k != "type"}
        if kind == "LoadAnnotations":
            steps.append(BaselineAnnotations())
        elif kind == "RandomCrop":
            steps.append(BaselineCrop(arguments["crop_size"], arguments.get("cat_max_ratio", 1)))
        elif kind == "PhotoMetricDistortion":
            steps.append(BaselineDistortion())
        elif kind == "PackSegInputs":
            steps.append(PackSegInputs())
        elif kind == "RandomResize":  # by class: a name would find nlseg's own in its scope
            steps.append(
                mmcv.transforms.RandomResize(**arguments, resize_type=mmcv.transforms.Resize)
            )
        else:
            steps.append(getattr(mmcv.transforms, kind)(**arguments))
    return steps


class BaselineDataset:
    """A data set's samples through the baseline's transforms, with the same random draws.

    Args:
        dataset: Where files and seed come from.
        pipeline: Configs of the transforms.
    """

    def __init__(self, dataset: Any, pipeline: Sequence[Mapping[str, Any]]) -> None:
        self.dataset = dataset
        self.steps = baseline_steps(pipeline)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, index: SampleIndex) -> Any:
        """Return one training sample."""
        sample = self.dataset.get_data_info(index.index)
        np.random.set_state(sample_rng(self.dataset.seed, index.number).get_state())
        for step in self.steps:
            sample = step(sample)
        return sample
