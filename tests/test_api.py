from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nlseg.api import inference_model, inference_pipeline, init_model
from nlseg.errors import CheckpointError, DataError

CONFIG = (
    Path(__file__).parents[1] / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return init_model(CONFIG, device="cpu")


def picture() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 255, (64, 128, 3), dtype=np.uint8)


def test_model_knows_its_classes(model: torch.nn.Module) -> None:
    assert model.dataset_meta["classes"][0] == "road"
    assert not model.training


def test_file_and_picture_give_the_same(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture())
    from_file, from_array = inference_model(model, str(path)), inference_model(model, picture())
    assert from_file.pred_sem_seg.data.shape == (1, 64, 128)
    assert torch.equal(from_file.pred_sem_seg.data, from_array.pred_sem_seg.data)
    assert from_file.seg_logits.data.shape == (19, 64, 128)
    assert torch.equal(from_file.seg_logits.data.argmax(0), from_file.pred_sem_seg.data[0])
    # a picture before a file must not change how files are read
    again = inference_model(model, [picture(), path])
    assert torch.equal(again[1].pred_sem_seg.data, from_file.pred_sem_seg.data)


def test_config_is_not_changed(model: torch.nn.Module) -> None:
    before = model.cfg.pretty_text
    inference_model(model, picture())
    assert model.cfg.pretty_text == before
    assert any(step["type"] == "LoadAnnotations" for step in model.cfg.test_pipeline)
    assert len(inference_pipeline(model.cfg).transforms) == len(model.cfg.test_pipeline) - 1


def test_weights_must_fit_and_bring_their_classes(model: torch.nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    torch.save(
        {"meta": {"CLASSES": ("x",), "PALETTE": [[1, 2, 3]]}, "state_dict": state},
        tmp_path / "a.pth",
    )
    other = init_model(CONFIG, tmp_path / "a.pth", device="cpu")
    assert other.dataset_meta["classes"] == ("x",)
    assert torch.equal(
        other.state_dict()["decode_head.conv_seg.bias"], state["decode_head.conv_seg.bias"]
    )
    state.pop("decode_head.conv_seg.bias")
    torch.save({"state_dict": state}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"missing \(1\):\n    decode_head\.conv_seg\.bias"):
        init_model(CONFIG, tmp_path / "b.pth", device="cpu")


def test_wrong_picture_is_refused(model: torch.nn.Module) -> None:
    with pytest.raises(DataError, match=r"shape \(64, 128\)"):
        inference_model(model, picture()[:, :, 0])
