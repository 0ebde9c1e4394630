"""From files to batches: data sets, transforms, samplers and collate functions."""

from nlseg.datasets import transforms
from nlseg.datasets.ade20k import ADE20KDataset
from nlseg.datasets.base import BaseSegDataset
from nlseg.datasets.camvid import CamVidDataset
from nlseg.datasets.cityscapes import CityscapesDataset
from nlseg.datasets.names import get_classes, get_palette
from nlseg.datasets.pascal_voc import PascalVOCDataset
from nlseg.datasets.stream import (
    DefaultSampler,
    InfiniteSampler,
    list_collate,
    permutation,
    sample_rng,
    stack_collate,
)
from nlseg.datasets.wrappers import ConcatDataset, RepeatDataset

__all__ = [
    "ADE20KDataset",
    "BaseSegDataset",
    "CamVidDataset",
    "CityscapesDataset",
    "ConcatDataset",
    "DefaultSampler",
    "InfiniteSampler",
    "PascalVOCDataset",
    "RepeatDataset",
    "get_classes",
    "get_palette",
    "list_collate",
    "permutation",
    "sample_rng",
    "stack_collate",
    "transforms",
]
