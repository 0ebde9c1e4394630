"""Small data sets on disk for the tests of this folder."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import RandomState
from PIL import Image

PIPELINE: list[dict[str, Any]] = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations"},
    {
        "type": "RandomResize",
        "scale": (32, 24),
        "ratio_range": (0.5, 2.0),
        "keep_ratio": True,
    },
    {"type": "RandomCrop", "crop_size": (16, 20), "cat_max_ratio": 0.75},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PhotoMetricDistortion"},
    {"type": "Pad", "size": (20, 16)},
    {"type": "PackSegInputs"},
]
LOAD = PIPELINE[:2]


def write_pairs(root: Path, names: list[str], classes: int = 3, size: Any = (24, 32)) -> None:
    """Write images of noise, ``images/<name>.png``, and label maps, ``labels/<name>.png``."""
    for number, name in enumerate(names):
        rng = RandomState(number)
        image = rng.randint(0, 256, (*size, 3)).astype(np.uint8)
        label = rng.randint(0, classes, size).astype(np.uint8)
        for folder, array in (("images", image), ("labels", label)):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def config(root: Path, **changes: Any) -> dict[str, Any]:
    """Describe the folders of ``write_pairs`` as a user would."""
    return {
        "type": "BaseSegDataset",
        "data_root": str(root),
        "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
        "img_suffix": ".png",
        "metainfo": {"classes": ("ground", "tree", "house")},
        "pipeline": PIPELINE,
        **changes,
    }
