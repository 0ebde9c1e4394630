from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from nlseg.run.command import training_config
from tests import tiny_data
from tests.faults.forked import train_forked
from tests.faults.kills import LAST, hard_config, undisturbed
from tests.run import toy
from tests.run.runs import assert_same, final

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("watchful_loaders")]


def test_killed_worker_costs_nothing(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    toy.let_one_die()  # others of this process may have had theirs
    reference = undisturbed(tmp_path / "whole")
    config = hard_config(tmp_path / "run", workers=2, **{"train_dataloader.dataset.die_at": 50})
    assert train_forked(config) == 0
    log = (tmp_path / "run/child.log").read_text()
    assert "workers are started again at batch" in log
    assert_same(final(reference, LAST), final(tmp_path / "run", LAST))


def street_config(folder: Path) -> Config:
    tiny_data.cityscapes(folder / "data")
    overrides = [
        f"data_root={folder / 'data'}", "train_cfg.max_iters=2", "train_cfg.val_interval=2",
        "train_dataloader.batch_size=2", "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
    ]  # fmt: skip
    return training_config(CONFIG, work_dir=str(folder / "work"), overrides=overrides)


def truncate(folder: Path) -> Path:
    path = next(iter(sorted((folder / "data/leftImg8bit/train").rglob("*.png"))))
    path.write_bytes(path.read_bytes()[:300])
    return path


def mislabel(folder: Path) -> Path:
    path = next(iter(sorted((folder / "data/gtFine/train").rglob("*_labelTrainIds.png"))))
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), np.full_like(label, 77))
    return path


@pytest.mark.parametrize("harm", [truncate, mislabel])
def test_bad_file_ends_with_2_and_its_name(tmp_path: Path, harm) -> None:
    torch.set_num_threads(1)
    config = street_config(tmp_path)
    path = harm(tmp_path)
    assert train_forked(config) == 2
    log = (tmp_path / "work/child.log").read_text()
    message = log[log.rindex("\nerror: ") :]  # one line, or a list of what the data check found
    assert path.name in message
    assert "Traceback" not in message
