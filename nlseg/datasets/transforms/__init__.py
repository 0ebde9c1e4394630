"""What happens to a sample between its files and the model, one class a step."""

from nlseg.datasets.transforms.annotations import LoadAnnotations
from nlseg.datasets.transforms.colour import PhotoMetricDistortion
from nlseg.datasets.transforms.compose import Compose
from nlseg.datasets.transforms.crop import RandomCrop
from nlseg.datasets.transforms.formatting import PackSegInputs
from nlseg.datasets.transforms.geometry import Pad, RandomFlip
from nlseg.datasets.transforms.levels import CLAHE, AdjustGamma, Rerange, RGB2Gray
from nlseg.datasets.transforms.loading import LoadImageFromFile, LoadImageFromNDArray
from nlseg.datasets.transforms.random_resize import RandomChoiceResize, RandomResize
from nlseg.datasets.transforms.resize import Resize
from nlseg.datasets.transforms.resize_variants import ResizeShortestEdge, ResizeToMultiple
from nlseg.datasets.transforms.rotate import RandomCutOut, RandomRotate
from nlseg.datasets.transforms.tta import TestTimeAug

__all__ = [
    "CLAHE",
    "AdjustGamma",
    "Compose",
    "LoadAnnotations",
    "LoadImageFromFile",
    "LoadImageFromNDArray",
    "PackSegInputs",
    "Pad",
    "PhotoMetricDistortion",
    "RGB2Gray",
    "RandomChoiceResize",
    "RandomCrop",
    "RandomCutOut",
    "RandomFlip",
    "RandomResize",
    "RandomRotate",
    "Rerange",
    "Resize",
    "ResizeShortestEdge",
    "ResizeToMultiple",
    "TestTimeAug",
]
