import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import nn

from nlseg.config import load_config
from nlseg.errors import CheckpointError, ConfigError
from nlseg.models import EncoderDecoder
from nlseg.weights.files import read_checkpoint
from nlseg.weights.pretrained import use_own_reader
from tests.cases import each_case
from tests.faults import hostile


@each_case("name", hostile.REFUSED)
def test_hostile_checkpoint_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    hostile.REFUSED[name](path, mark)
    with pytest.raises(CheckpointError, match=r"a\.pth: is (refused|damaged|broken|a zip)"):
        read_checkpoint(path)
    assert not mark.exists()
    assert "antigravity" not in sys.modules


def answer_within_bounds(path: Path) -> str:
    """Read a file in a child that may take a few seconds and 600 MiB; return why it was refused."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (600 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (15, 15))
        try:
            read_checkpoint(path)
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    with open(reader) as file:
        return file.read()


@pytest.mark.parametrize("name", hostile.BOMBS)
def test_a_bomb_ends_in_a_sentence_in_seconds_and_megabytes(tmp_path: Path, name: str) -> None:
    maker, message = hostile.BOMBS[name]
    maker(tmp_path / "a.pth", tmp_path / "mark")
    answer = answer_within_bounds(tmp_path / "a.pth")
    assert answer.startswith("CheckpointError: ")
    assert message in answer
    assert "\n" not in answer


@each_case("name", hostile.SAFETENSORS)
def test_hostile_safetensors_is_refused(tmp_path: Path, name: str) -> None:
    path, mark = tmp_path / "a.safetensors", tmp_path / "mark"
    hostile.SAFETENSORS[name](path, mark)
    with pytest.raises(CheckpointError, match="is refused, not a whole safetensors file"):
        read_checkpoint(path)
    assert not mark.exists()


def test_torchscript_is_never_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: loaded.append(1))
    hostile.torchscript_program(tmp_path / "a.pth", tmp_path / "mark")
    with pytest.raises(CheckpointError, match="is a TorchScript program, not weights"):
        read_checkpoint(tmp_path / "a.pth")
    assert not loaded


def test_refusal_names_the_global(tmp_path: Path) -> None:
    for maker in (hostile.reduce_system, hostile.legacy_format):
        maker(tmp_path / "a.pth", tmp_path / "mark")
        with pytest.raises(CheckpointError, match=r"asks for \w+\.system"):
            read_checkpoint(tmp_path / "a.pth")


def test_the_files_are_hostile_indeed(tmp_path: Path) -> None:
    for maker in (hostile.reduce_system, hostile.legacy_format):
        mark = tmp_path / maker.__name__
        maker(tmp_path / "a.pth", mark)
        torch.load(tmp_path / "a.pth", weights_only=False)
        assert mark.exists()


def test_config_in_a_checkpoint_is_never_evaluated(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    hostile.config_in_meta(path, mark)
    assert read_checkpoint(path)["meta"]["iter"] == 1
    assert not mark.exists()


class UsersBlock(BaseModule):
    """A module of a user's, with mmengine's ``init_cfg``."""

    def __init__(self, init_cfg: Any) -> None:
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 4, 1)


@each_case(
    "kind", ["Pretrained", "mmengine.Pretrained", "mmengine.model.PretrainedInit", PretrainedInit]
)
def test_a_users_init_cfg_goes_through_the_guarded_reader(tmp_path: Path, kind: Any) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    hostile.reduce_system(path, mark)
    for source, message in ((str(path), "asks for"), ("http://example.org/a.pth", "only https")):
        init_cfg = {"type": kind, "checkpoint": source}
        model = nn.Sequential(UsersBlock(init_cfg))
        use_own_reader(model)
        with pytest.raises(CheckpointError, match=message):
            model[0].init_weights()
        assert init_cfg == {"type": kind, "checkpoint": source}
    assert not mark.exists()


def test_the_segmentor_guards_the_modules_of_others(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    hostile.reduce_system(path, mark)
    model = EncoderDecoder(
        {"type": UsersBlock, "init_cfg": {"type": "Pretrained", "checkpoint": str(path)}},
        {"type": "FCNHead", "in_channels": 4, "channels": 4, "num_classes": 2},
    )
    with pytest.raises(CheckpointError, match="asks for"):
        model.init_weights()
    assert not mark.exists()


@each_case("name", hostile.YAML)
def test_yaml_config_is_data_only(tmp_path: Path, name: str) -> None:
    path, mark = tmp_path / "a.yaml", tmp_path / "mark"
    path.write_text(hostile.YAML[name].format(mark=mark))
    with pytest.raises(ConfigError):
        load_config(path)
    assert not mark.exists()
    assert "antigravity" not in sys.modules
