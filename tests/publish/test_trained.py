"""From a training with averaged weights to a published folder, and on from there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nlseg.api import inference_model, init_model
from nlseg.errors import CheckpointError
from nlseg.run.resume import read
from tests import tiny_data
from tests.run import prepared

ROOT = Path(__file__).parents[2]
CONFIG = f"""
_base_ = '{ROOT}/configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py'
model = dict(
    backbone=dict(stem_channels=8, base_channels=4),
    decode_head=dict(in_channels=32, channels=8),
    auxiliary_head=dict(in_channels=16, channels=8))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_iters=4, val_interval=4)
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=4, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=4))
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
"""


def nlseg(folder: Path, *words: str, code: int = 0) -> str:
    done = prepared.run("-m", "nlseg", *words, cwd=folder)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    tiny_data.cityscapes(folder / "data/quickstart")
    (folder / "mine.py").write_text(CONFIG)
    nlseg(folder, "train", "mine.py", "--work-dir", "work")
    nlseg(folder, "publish", "work/iter_4.pth", "--out", "street")
    return folder


def logits(folder: Path, weights: Path) -> torch.Tensor:
    picture = np.random.RandomState(0).randint(0, 256, (64, 96, 3), dtype=np.uint8)
    model = init_model(folder / "mine.py", weights, "cpu")
    return inference_model(model, picture).seg_logits.data


@pytest.mark.slow
def test_both_files_hold_the_average_and_not_what_was_trained(trained: Path) -> None:
    content = torch.load(trained / "work/iter_4.pth", weights_only=True)
    own = {
        key.removeprefix("module."): value
        for key, value in content["ema_state_dict"].items()
        if key.startswith("module.")
    }
    torch.save({"state_dict": own}, trained / "own.pth")
    torch.save({"state_dict": content["state_dict"]}, trained / "average.pth")
    average = logits(trained, trained / "average.pth")
    assert not torch.equal(average, logits(trained, trained / "own.pth"))
    (weights,) = (trained / "street").glob("*.pth")
    for file in (weights, trained / "street/model.safetensors"):
        assert torch.equal(logits(trained, file), average), file


@pytest.mark.slow
def test_a_published_file_is_no_run_to_resume_and_starts_a_new_one(trained: Path) -> None:
    (file,) = (trained / "street").glob("*.pth")
    for other in (file, trained / "street/model.safetensors"):
        with pytest.raises(CheckpointError, match="holds weights but no optimizer, so no run can"):
            read(other)
    said = nlseg(trained, "train", "mine.py", "--work-dir", "on", "--resume", str(file), code=2)
    remedy = f"--cfg-options load_from={file}"
    assert remedy in said
    assert "Traceback" not in said
    said = nlseg(trained, "train", "mine.py", "--work-dir", "new", *remedy.split(), "max_iters=1")
    assert f"from {file}" in said
    assert (trained / "new/iter_1.pth").is_file()
