"""A small network with random weights and a few drawn scenes, tested as a user tests."""

from pathlib import Path

import torch

from nlseg.commands.test import main as nlseg_test
from nlseg.config import load_config
from nlseg.datasets.synthetic import write_street_scenes
from nlseg.registry import MODELS
from nlseg.zoo.receipt import Receipt, read_receipt

CONFIG = "nonlocal_r18-d8_1xb4-300_synthetic-96x192"
ALONE = [
    f"{split}_dataloader.{key}"
    for split in ("val", "test")
    for key in ("num_workers=0", "persistent_workers=False")
]


def draw(folder: Path) -> list[str]:
    """Write scenes and weights into a folder, and return the overrides that point at them."""
    write_street_scenes(folder / "data", num_train=1, num_val=5, size=(32, 64))
    torch.manual_seed(0)
    model = MODELS.build(load_config(CONFIG).model)
    model.init_weights()
    torch.save({"state_dict": model.state_dict()}, folder / "weights.pth")
    return [f"data_root={folder / 'data'}", *ALONE]


def tested(folder: Path, name: str, *words: str, overrides: list[str]) -> Receipt:
    """Run ``nlseg test`` and read its receipt."""
    work = folder / name
    nlseg_test(
        [CONFIG, str(folder / "weights.pth"), "--work-dir", str(work), *words, "--set", *overrides]
    )
    (path,) = work.glob("*/receipt.json")
    return read_receipt(path)
