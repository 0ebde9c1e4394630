"""Makes a config, and the data set that it reads, small enough for one iteration in a test."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nlseg.config.linked import LINKED
from nlseg.config.overrides import set_value
from nlseg.config.places import walk

FACTOR = 8
CROPS = {(512, 1024): (64, 128), (769, 769): (97, 97), (512, 512): (64, 64), (360, 480): (48, 64)}
EXPANSION = {18: 1, 50: 4, 101: 4}
TIMM = {  # a small network of the same kind, and the channels of its last map and the one before
    "convnext_tiny.fb_in1k": ({"model_name": "test_convnext"}, (64, 48)),
    "vit_small_patch16_224.augreg_in21k_ft_in1k": (
        {"model_name": "test_vit", "out_indices": (2, 3, 4, 5), "img_size": (64, 64)}, (64, 64),
    ),
}  # fmt: skip
SIZES = [(64, 128), (72, 128), (80, 100)]
CLASSES = {
    "CityscapesDataset": 19,
    "ADE20KDataset": 150,
    "PascalVOCDataset": 21,
    "CamVidDataset": 11,
}


def shrink(config: Any, root: Path, work_dir: Path) -> Any:
    """Cut widths, sizes and lengths; kinds of layers, steps and hooks stay."""
    values = config._cfg_dict
    crop = tuple(values["model"]["data_preprocessor"]["size"])
    for path, value in LINKED["crop_size"](values, CROPS.get(crop, crop)):
        set_value(values, path, value)
    for path, item in list(walk(values)):
        if path and path[-1] == "scale":
            set_value(values, path, tuple(side // FACTOR for side in item))
    _narrow(values["model"])
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        values[name].update(num_workers=0, persistent_workers=False)
    values["train_dataloader"]["batch_size"] = 2
    for path, _ in list(walk(values)):
        if path and path[-1] == "data_root":
            set_value(values, path, str(root))
    length = "max_iters" if "max_iters" in values["train_cfg"] else "max_epochs"
    for path, value in LINKED[length](values, 1):
        set_value(values, path, value)
    values.update(work_dir=str(work_dir), log_level="ERROR", randomness={"seed": 0})
    return config


def _narrow(model: Any) -> None:
    model["pretrained"] = None
    if model["backbone"]["type"] == "TIMMBackbone":
        small, (top, middle) = TIMM[model["backbone"]["model_name"]]
        model["backbone"].update(small, pretrained=False)
    else:
        top = 8 * 8 * EXPANSION[model["backbone"]["depth"]]
        middle = top // 2
        model["backbone"].update(base_channels=8, stem_channels=8)
    model["decode_head"].update(in_channels=top, channels=16)
    model["auxiliary_head"].update(in_channels=middle, channels=8)


def write_data(root: Path, kind: str) -> None:
    """Draw three images for each split, of several sizes, in the layout of a data set."""
    rng = np.random.RandomState(0)
    if kind == "PascalVOCDataset":
        _write_voc(root, rng)
        return
    layouts = {
        "CityscapesDataset": (
            "leftImg8bit/{}/town/{}_leftImg8bit.png", "gtFine/{}/town/{}_gtFine_labelTrainIds.png",
            ("train", "val"),
        ),
        "ADE20KDataset": (
            "images/{}/{}.jpg", "annotations/{}/{}.png", ("training", "validation"),
        ),
        "CamVidDataset": ("images/{}/{}.jpg", "annotations/{}/{}.png", ("train", "val", "test")),
    }  # fmt: skip
    image, label, splits = layouts[kind]
    for split in splits:
        for name, size in enumerate(SIZES):
            _write(root / image.format(split, name), rng.randint(0, 256, (*size, 3)))
            _write(root / label.format(split, name), _label(rng, size, CLASSES[kind]))


def _write_voc(root: Path, rng: np.random.RandomState) -> None:
    for name in ("train", "aug", "val"):
        folder = "SegmentationClassAug" if name == "aug" else "SegmentationClass"
        for number, size in enumerate(SIZES):
            _write(root / f"JPEGImages/{name}{number}.jpg", rng.randint(0, 256, (*size, 3)))
            _write(root / f"{folder}/{name}{number}.png", _label(rng, size, 21))
        file = root / f"ImageSets/Segmentation/{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}{number}\n" for number in range(len(SIZES))))


def _label(rng: np.random.RandomState, size: tuple[int, int], classes: int) -> np.ndarray:
    coarse = rng.randint(0, classes, (4, 8))
    return cv2.resize(coarse.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)


def _write(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), pixels.astype(np.uint8))
