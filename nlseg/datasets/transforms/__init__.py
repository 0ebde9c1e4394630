"""What happens to a sample between its files and the model, one class a step."""

from nlseg.datasets.transforms.albu import Albu
from nlseg.datasets.transforms.colour import (
    CLAHE,
    AdjustGamma,
    PhotoMetricDistortion,
    Rerange,
    RGB2Gray,
)
from nlseg.datasets.transforms.compose import Compose, RandomApply, RandomChoice, TestTimeAug
from nlseg.datasets.transforms.crop import RandomCrop
from nlseg.datasets.transforms.geometry import (
    Pad,
    RandomCutOut,
    RandomFlip,
    RandomRotate,
    RandomRotFlip,
)
from nlseg.datasets.transforms.labels import LoadAnnotations
from nlseg.datasets.transforms.loading import LoadImageFromFile, LoadImageFromNDArray
from nlseg.datasets.transforms.mosaic import RandomMosaic
from nlseg.datasets.transforms.pack import PackSegInputs
from nlseg.datasets.transforms.resize import (
    RandomChoiceResize,
    RandomResize,
    Resize,
    ResizeShortestEdge,
    ResizeToMultiple,
    SegRescale,
)

__all__ = [
    "CLAHE",
    "AdjustGamma",
    "Albu",
    "Compose",
    "LoadAnnotations",
    "LoadImageFromFile",
    "LoadImageFromNDArray",
    "PackSegInputs",
    "Pad",
    "PhotoMetricDistortion",
    "RGB2Gray",
    "RandomApply",
    "RandomChoice",
    "RandomChoiceResize",
    "RandomCrop",
    "RandomCutOut",
    "RandomFlip",
    "RandomMosaic",
    "RandomResize",
    "RandomRotFlip",
    "RandomRotate",
    "Rerange",
    "Resize",
    "ResizeShortestEdge",
    "ResizeToMultiple",
    "SegRescale",
    "TestTimeAug",
]
