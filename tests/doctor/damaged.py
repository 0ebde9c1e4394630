"""A small data set to damage in one way at a time."""

from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

ROOT = Path(__file__).parents[2]
SIZE = (24, 32)
PALETTE = [[10, 20, 30], [200, 0, 0], [0, 200, 0]]


def make_label(i, num_classes=3):
    """Label map (24, 32) that holds every class."""
    rows = np.arange(SIZE[0])[:, None] // 4 + np.arange(SIZE[1])[None] // 8 + i
    return (rows % num_classes).astype(np.uint8)


def make_image(i):
    return np.random.RandomState(i).randint(0, 256, (*SIZE, 3)).astype(np.uint8)


def save(array, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def make_data(root, relabel=lambda label: label, num=4, **options):
    """Write train (images 0..) and val (images 100..) of ``num`` pairs below ``root``."""
    for split, first in (("train", 0), ("val", 100)):
        for i in range(num):
            save(make_image(first + i), Path(root, split, "img", f"{i}.png"))
            save(relabel(make_label(i)), Path(root, split, "lab", f"{i}.png"), **options)


def make_config(root, stages=("train", "val"), **changes):
    """Config of BaseSegDatasets with three classes; ``changes`` go into the data sets."""
    config = {
        "model": {
            "decode_head": {"num_classes": 3},
            "data_preprocessor": {"mean": [127.5] * 3, "std": [73.9] * 3},
        }
    }
    for split in stages:
        dataset = {
            "type": "BaseSegDataset",
            "data_root": str(root),
            "data_prefix": {"img_path": f"{split}/img", "seg_map_path": f"{split}/lab"},
            "img_suffix": ".png",
            "metainfo": {"classes": ("a", "b", "c"), "palette": PALETTE},
            "pipeline": [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}],
        }
        config[f"{split}_dataloader"] = {"dataset": {**dataset, **changes}}
    return Config(config)


def write_config(root):
    """Write a whole config file, based on a published one, and return its path."""
    base = next((ROOT / "configs/nonlocal_net").glob("nonlocal_r18-d8_*camvid*.py"))
    parts = [f"_base_ = [{str(base)!r}]"]
    for split in ("train", "val", "test"):
        stage = "train" if split == "train" else "val"
        loader = make_config(root, stages=[stage])[f"{stage}_dataloader"]
        dataset = {"_delete_": True, **loader["dataset"].to_dict()}
        dataset["pipeline"] = [*dataset["pipeline"], {"type": "PackSegInputs"}]
        parts.append(f"{split}_dataloader = dict(dataset={dataset!r})")
    heads = ", ".join(f"{head}=dict(num_classes=3)" for head in ("decode_head", "auxiliary_head"))
    parts.append(f"model = dict({heads})")
    path = Path(root, "config.py")
    path.write_text("\n".join(parts) + "\n")
    return path
