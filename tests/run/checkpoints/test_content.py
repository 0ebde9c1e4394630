"""A checkpoint that was changed is refused with the field's name before any of it is used."""

import copy
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.errors import CheckpointError
from tests.run.runs import assert_same, final, go_on, interrupt, train
from tests.run.toy import toy_config

EMA: dict[str, Any] = {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
Content = dict[str, Any]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    folder = tmp_path_factory.mktemp("run")
    best = {"default_hooks.checkpoint.save_best": "mIoU"}
    train(toy_config(folder, **EMA, **best))
    loaded: Content = torch.load(folder / "iter_8.pth", weights_only=True)
    return loaded


def put(place: str, value: Any) -> Callable[[Content], None]:
    """Make what sets a field, named by its keys."""

    def change(content: Content) -> None:
        *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
        for key in path:
            content = content[key]
        content[last] = value

    return change


def drop(place: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
        for key in path:
            content = content[key]
        del content[last]

    return change


MOMENTUM = "optimizer/state/0/momentum_buffer"
CHANGES = [
    (put("meta", None), r"meta\.iter: is missing"),
    (put("meta", 7), r"meta: is 7, not a dict"),
    (drop("meta/iter"), r"meta\.iter: is missing"),
    (put("meta/iter", "8"), r"meta\.iter: is '8', not a whole number"),
    (put("meta/iter", -1), r"meta\.iter: is -1"),
    (put("meta/iter", 10**6), r"has trained for 1000000, more than the 12"),
    (put("meta/epoch", "x"), r"meta\.epoch: is 'x'"),
    (put("meta/samples", -3), r"meta\.samples: is -3"),
    (put("meta/jumped", 0.5), r"meta\.jumped: is 0\.5"),
    (put("meta/seed", "x"), r"meta\.seed: is 'x'"),
    (put("meta/best", 3), r"meta\.best: is 3"),
    (put("meta/best/mIoU/score", "x"), r"meta\.best\.mIoU\.score: is 'x'"),
    (put("meta/best/mIoU/score", math.nan), r"meta\.best\.mIoU\.score: is nan"),
    (put("meta/best/mIoU/file", "../../x"), r"meta\.best\.mIoU\.file: is no name"),
    (put("meta/settings", "x"), r"meta\.settings: is 'x'"),
    (put("meta/settings/batch_size", None), None),  # as in a file of an older state
    (put("meta/settings/batch_size", "4"), r"meta\.settings\.batch_size: is '4'"),
    (put("meta/recent", {"train/loss": "x"}), r"meta\.recent\.train/loss: is no list"),
    (put("meta/recent", {"train/loss": [None]}), r"meta\.recent\.train/loss: holds what is no"),
    (put("optimizer", None), r"optimizer\.param_groups: is missing"),
    (put("optimizer", "x"), r"optimizer: is 'x', not a dict"),
    (put("optimizer/state", None), r"optimizer\.state: is missing"),
    (put(MOMENTUM, None), r"optimizer\.state\[0\]\.momentum_buffer"),
    (put(MOMENTUM, "x"), r"optimizer\.state\[0\]\.momentum_buffer: is 'x'"),
    (put(MOMENTUM, torch.ones(3)), r"momentum_buffer: has shape \(3,\), its parameter \(8, 6\)"),
    (put(MOMENTUM, torch.full((8, 6), math.nan)), r"momentum_buffer: holds NaN"),
    (drop(MOMENTUM), r"optimizer\.state\[0\]\.momentum_buffer: is missing, other parameters"),
    (drop("optimizer/state/2"), r"optimizer\.state: has 5 entries, but was written with 6"),
    (put("optimizer/param_groups/0/lr", "x"), r"optimizer\.param_groups\[0\]\.lr: is 'x'"),
    (put("optimizer/param_groups/0/params", [0, 1]), r"params: has 2 parameters, the optimizer 6"),
    (put("param_schedulers", [{}]), r"param_schedulers\[0\]: is not the state"),
    (put("param_schedulers", 3), r"param_schedulers: is not the state of 1"),
    (put("param_schedulers/0/last_step", "x"), r"param_schedulers\[0\]\.last_step: is 'x'"),
    (put("param_schedulers/0/last_step", None), r"param_schedulers\[0\]\.last_step: is None"),
    (put("state_dict/head.weight", None), r"state_dict\.head\.weight: is no tensor"),
    (put("ema_state_dict", "x"), r"ema_state_dict: is 'x'"),
    (put("ema_state_dict/module.head.bias", None), r"ema_state_dict\.module\.head\.bias: is no"),
    (put("ema_state_dict/module.head.bias", torch.ones(9)), r"module\.head\.bias: is no average"),
    (put("ema_state_dict/steps", torch.ones(2, 2)), r"ema_state_dict, or what a hook reads"),
    (put("message_hub", 7), r"message_hub: is 7"),
    (put("message_hub/runtime_info", [1]), r"message_hub\.runtime_info: is a list"),
]


@pytest.mark.parametrize(
    ("change", "said"), CHANGES, ids=[f"{i} {said}" for i, (_, said) in enumerate(CHANGES)]
)
def test_changed_field_is_refused_by_its_name(
    tmp_path: Path, content: Content, change: Callable[[Content], None], said: str | None
) -> None:
    torch.set_num_threads(1)
    changed = copy.deepcopy(content)
    change(changed)
    torch.save(changed, tmp_path / "iter_8.pth")  # it has no JSON beside it
    config = toy_config(tmp_path, **EMA)
    if said is None:
        assert go_on(config).iter == 12
        return
    with pytest.raises(CheckpointError, match=said):
        go_on(config)


def test_checkpoints_alone_copied_elsewhere_are_enough(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train(toy_config(tmp_path / "whole", **EMA))
    interrupt(toy_config(tmp_path / "parts", **EMA), 5)
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "parts").glob("*.pth"):
        shutil.copy(path, tmp_path / "copy")
    assert go_on(toy_config(tmp_path / "copy", **EMA)).iter == 12
    assert_same(final(tmp_path / "whole"), final(tmp_path / "copy"))
