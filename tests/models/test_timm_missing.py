"""Without timm, or with a torchvision that does not fit torch, a sentence says what to install."""

import sys
from pathlib import Path

import pytest

from nlseg.config import load_config
from nlseg.config.reference import describe
from nlseg.errors import ConfigError
from nlseg.models import TIMMBackbone

NAME = "nonlocal_convnext-tiny-d8_4xb2-40k_cityscapes-512x1024"


def test_without_timm_its_extra_is_named_and_configs_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    config = load_config(NAME)
    assert config.model.backbone.type == "TIMMBackbone"
    with pytest.raises(ConfigError) as caught:
        TIMMBackbone("convnext_tiny")
    told = "TIMMBackbone needs timm, which is not installed; pip install 'nlseg[timm]'"
    assert str(caught.value) == told


def test_a_torchvision_of_another_build_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    text = "raise RuntimeError('operator torchvision::nms does not exist')\n"
    (tmp_path / "timm.py").write_text(text)  # what importing timm comes to then
    monkeypatch.setattr("torch.__version__", "2.13.0+cpu")
    with pytest.raises(
        ConfigError, match=r"torchvision does not fit torch 2\.13\.0\+cpu"
    ) as caught:
        TIMMBackbone("convnext_tiny")
    assert "(operator torchvision::nms does not exist)" in str(caught.value)
    assert "install torchvision 0.28, built for the same CUDA or for CPUs" in str(caught.value)


def test_arguments_that_go_on_to_timm_are_described() -> None:
    lines = describe("TIMMBackbone").splitlines()
    assert "pretrained: True or False; default True" in lines
    assert any(line.startswith("drop_path_rate: a number, in [0, 1)") for line in lines)
