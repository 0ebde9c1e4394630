from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

import nlseg.weights.pretrained
from nlseg.errors import CheckpointError
from nlseg.weights.pretrained import use_own_reader


class Block(BaseModule):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    block = Block()
    nn.init.constant_(block.conv.weight, 7)
    torch.save({"state_dict": block.state_dict(prefix="backbone.")}, tmp_path / "whole.pth")
    torch.save(block.state_dict(), tmp_path / "block.pth")
    return str(tmp_path)


def started(model: nn.Module) -> nn.Module:
    use_own_reader(model)
    model.init_weights()  # type: ignore[operator]
    return model


def test_pretrained_is_loaded_last_whatever_else_is_asked_for(weights: str) -> None:
    init_cfg = [
        {"type": "Pretrained", "checkpoint": f"{weights}/block.pth"},
        {"type": "Constant", "layer": "Conv2d", "val": 3},
    ]
    assert (started(Block(init_cfg)).conv.weight == 7).all()


def test_the_scope_of_the_moment_does_not_matter(weights: str) -> None:
    init_cfg = {"type": "Pretrained", "checkpoint": f"{weights}/block.pth"}
    with DefaultScope.overwrite_default_scope("mmengine"):
        assert (started(Block(init_cfg)).conv.weight == 7).all()


def test_prefix_takes_a_part_out_of_a_whole_file(weights: str) -> None:
    for prefix in ("backbone", "backbone."):
        init_cfg = {"type": "Pretrained", "checkpoint": f"{weights}/whole.pth", "prefix": prefix}
        assert (started(Block(init_cfg)).conv.weight == 7).all()
    init_cfg = {"type": "Pretrained", "checkpoint": f"{weights}/whole.pth", "prefix": "neck"}
    with pytest.raises(CheckpointError, match=r"prefix 'neck\.'; they begin with backbone"):
        started(Block(init_cfg))


def test_override_is_read_the_same_way(weights: str) -> None:
    outer = BaseModule(
        {
            "type": "Constant",
            "layer": "Linear",
            "val": 1,
            "override": {
                "type": "Pretrained", "name": "block", "checkpoint": f"{weights}/missing.pth"
            },
        }
    )  # fmt: skip
    outer.block = Block()
    with pytest.raises(CheckpointError, match=r"missing\.pth: is not there"):
        started(outer)


def test_mmengines_loader_stays_its_own() -> None:
    assert nlseg.weights.pretrained
    loaders = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
    assert loaders == {"mmengine.runner.checkpoint"}
