"""A checkpoint that was changed is refused with the field's name before any of it is used."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nlseg.errors import CheckpointError
from tests.cases import each_case
from tests.faults.tampered import CHANGES, EMA, Content
from tests.run.runs import assert_same, final, go_on, interrupt, train
from tests.run.toy import toy_config


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    folder = tmp_path_factory.mktemp("run")
    best = {"default_hooks.checkpoint.save_best": "mIoU"}
    train(toy_config(folder, **EMA, **best))
    loaded: Content = torch.load(folder / "iter_8.pth", weights_only=True)
    return loaded


@each_case("change, said", CHANGES)
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
