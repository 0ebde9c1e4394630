"""Data that is drawn where it is not there yet, and the configs that read it."""

from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from gpu_proof.stages import ROOT
from nlseg.datasets.synthetic import write_street_scenes
from nlseg.run.command import training_config

QUICKSTART = ROOT / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"
CITYSCAPES = ROOT / "configs/nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py"
ADE = ROOT / "configs/nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py"


def scenes(work: Path, dry: bool) -> Path:
    """Return the folder of drawn street scenes of the size of Cityscapes'."""
    folder = work / "scenes"
    if not (folder / "whole").exists():
        size = (64, 128) if dry else (1024, 2048)
        write_street_scenes(folder, num_train=16, num_val=2 if dry else 4, size=size)
        (folder / "whole").touch()
    return folder


def images_of_many_sizes(work: Path, dry: bool) -> Path:
    """Return the folder of 60 noise images and labels, sized and laid out as ADE20K's are."""
    folder = work / "many_sizes"
    if (folder / "whole").exists():
        return folder
    random = np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (folder / kind / "validation").mkdir(parents=True, exist_ok=True)
    for number in range(4 if dry else 60):
        size = random.integers((256, 320), (1024, 1365)) // (8 if dry else 1)
        height, width = (int(side) for side in size)
        coarse = random.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        label = cv2.resize(coarse[..., 0] % 151, (width, height), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"images/validation/{number:03}.jpg"), image)
        cv2.imwrite(str(folder / f"annotations/validation/{number:03}.png"), label)
    (folder / "whole").touch()
    return folder


def cityscapes_config(work: Path, run: str, iterations: int, dry: bool) -> Config:
    """Read the published config of an R-50 on Cityscapes, with random weights and drawn scenes.

    Args:
        work: Folder of data and runs.
        run: Name of the run's folder.
        iterations: How long it trains.
        dry: Take the small network of the quickstart.
    """
    overrides = [
        f"data_root={scenes(work, dry)}", "model.pretrained=None", f"max_iters={iterations}",
        "val_dataloader=None", "val_cfg=None", "val_evaluator=None", "randomness.seed=0",
        "default_hooks.logger.interval=10", f"default_hooks.checkpoint.interval={iterations}",
        f"train_dataloader.num_workers={1 if dry else 8}",
    ]  # fmt: skip
    path = str(QUICKSTART if dry else CITYSCAPES)
    return training_config(path, work_dir=str(work / "runs" / run), overrides=overrides)
