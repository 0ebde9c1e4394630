"""An evaluation counts every image once."""

from pathlib import Path

import numpy as np
from PIL import Image

from nlseg.datasets.base import BaseSegDataset
from nlseg.datasets.wrappers import ConcatDataset, RepeatDataset
from nlseg.run.loaders import every_image_once


def two_images_one_broken(root: Path) -> BaseSegDataset:
    for folder in ("img", "lab"):
        (root / folder).mkdir()
        for name in "ab":
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / folder / f"{name}.png")
    (root / "img/b.png").write_bytes(b"")
    return BaseSegDataset(
        data_root=str(root),
        data_prefix={"img_path": "img", "seg_map_path": "lab"},
        img_suffix=".png",
        metainfo={"classes": ("a",)},
        bad_samples={"policy": "replace"},
        pipeline=[{"type": name} for name in ("LoadImageFromFile", "LoadAnnotations")],
    )


def test_no_image_stands_in_for_a_broken_one(tmp_path: Path) -> None:
    dataset = two_images_one_broken(tmp_path)
    assert dataset[1]["img_path"].endswith("a.png")  # in training
    every_image_once(RepeatDataset(dataset=ConcatDataset(datasets=[dataset]), times=2))
    assert dataset[0]["img_path"].endswith("a.png")
    assert dataset[1] is None
