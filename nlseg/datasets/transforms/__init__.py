"""What happens to a sample between its files and the model, one class a step."""

from nlseg.datasets.transforms.colour import (
    CLAHE,
    AdjustGamma,
    PhotoMetricDistortion,
    Rerange,
    RGB2Gray,
)
from nlseg.datasets.transforms.compose import Compose, TestTimeAug
from nlseg.datasets.transforms.crop import RandomCrop
from nlseg.datasets.transforms.geometry import Pad, RandomCutOut, RandomFlip, RandomRotate
from nlseg.datasets.transforms.labels import LoadAnnotations
from nlseg.datasets.transforms.loading import LoadImageFromFile, LoadImageFromNDArray
from nlseg.datasets.transforms.pack import PackSegInputs
from nlseg.datasets.transforms.resize import (
    RandomChoiceResize,
    RandomResize,
    Resize,
    ResizeShortestEdge,
    ResizeToMultiple,
)

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
