"""What a run's log says of the data: every set and transform with what it was given."""

from pathlib import Path

from nlseg.datasets import ConcatDataset, RepeatDataset
from nlseg.datasets.transforms import Compose
from nlseg.datasets.transforms.compose import describe_pipelines
from nlseg.registry import DATASETS
from nlseg.structures import Sample
from tests.datasets.folders import config, write_pairs


def leave(sample: Sample) -> Sample:
    return sample


class Foreign:
    pipeline = None

    def __len__(self) -> int:
        return 7


def test_each_data_set_and_transform_is_told_once_with_what_it_was_given(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a", "b"])
    crop = {"type": "RandomCrop", "crop_size": [8, 8]}
    resize = {"type": "RandomResize", "scale": [16, 8], "ratio_range": (0.5, 2.0)}
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, resize, crop]
    first = DATASETS.build(config(tmp_path, pipeline=steps))
    second = DATASETS.build(config(tmp_path, pipeline=[steps[0], leave], indices=1))
    whole = ConcatDataset([RepeatDataset(first, 3), second])
    assert describe_pipelines({"train": whole, "val": Foreign()}).splitlines() == [
        "train: BaseSegDataset, 2 images",
        "    LoadImageFromFile()",
        "    LoadAnnotations()",
        "    RandomResize(scale=(16, 8), ratio_range=(0.5, 2.0))",
        "    RandomCrop(crop_size=(8, 8))",
        "    in one step: FusedLoadCrop(LoadImageFromFile, LoadAnnotations, "
        "FusedCrop(RandomResize, RandomCrop))",
        "train: BaseSegDataset, 1 images",
        "    LoadImageFromFile()",
        "    leave()",
        "val: Foreign, 7 images",
    ]


def test_a_pipeline_lists_its_transforms() -> None:
    pipeline = Compose([{"type": "RandomFlip", "prob": 0.5}, {"type": "PackSegInputs"}])
    assert repr(pipeline) == "Compose(\n    RandomFlip(prob=0.5)\n    PackSegInputs()\n)"
