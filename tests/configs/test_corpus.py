"""Configs as people have them, in five styles, each with the verdict that it gets."""

import json
from pathlib import Path

import pytest
import yaml

from nlseg.config import load_config
from nlseg.errors import ConfigError
from tests.configs.foreign import CONFIGS

BASE = CONFIGS / "nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py"
LOADS = ""
LAZY = "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"


def inherit(text: str) -> str:
    return f"_base_ = {str(BASE)!r}\n{text}\n"


STYLES = {
    "1.x, a leaf of a published file": ("a.py", inherit("train_cfg = dict(max_iters=9)"), LOADS),
    "1.x, scope mmseg and prefixed names": (
        "a.py",
        inherit("default_scope = 'mmseg'\nmodel = dict(decode_head=dict(type='mmseg.GCHead', "
                "_delete_=True, in_channels=2048, channels=512, num_classes=150))"),
        LOADS,
    ),
    "1.x, weights and seed": (
        "a.py",
        inherit("randomness = dict(seed=0)\nmodel = dict(pretrained=None)\nload_from = None"),
        LOADS,
    ),
    "1.x, a head that is not here": (
        "a.py",
        inherit("model = dict(decode_head=dict(type='PSPHead'))"),
        r"a\.py:2: model\.decode_head\.type: there is no model 'PSPHead'",
    ),
    "1.x, deformable convolutions": (
        "a.py",
        inherit("model = dict(backbone=dict(dcn=dict(type='DCN')))"),
        r"a\.py:2: model\.backbone\.dcn: ResNetV1c has no 'dcn'",
    ),
    "1.x, a misspelt key": (
        "a.py",
        inherit("model = dict(decode_head=dict(num_clases=3))"),
        "did you mean 'num_classes'",
    ),
    "1.x, a top-level note": ("a.py", inherit("note = 'v2'"), "--allow-unknown-keys"),
    "1.x, crop and classes that do not fit": (
        "a.py",
        inherit("model = dict(auxiliary_head=dict(num_classes=19))"),
        r"auxiliary_head\.num_classes",
    ),
    "0.x": (
        "a.py",
        (CONFIGS.parent / "tests/tools/gcnet_of_0x.py.txt").read_text(),
        "a config of mmsegmentation 0.x .*nlseg migrate",
    ),
    "lazy": ("a.py", f"{LAZY}train_cfg.update(max_iters=9)\n", LOADS),
    "lazy, with an imported class": (
        "a.py",
        f"from mmseg.models import GCHead\n{LAZY}model.decode_head = dict(type=GCHead, "
        "in_channels=2048, channels=512, num_classes=150)\n",
        LOADS,
    ),
    "lazy, a class that is not here": (
        "a.py",
        f"from mmseg.models import PSPHead\n{LAZY}model.decode_head.update(type=PSPHead)\n",
        "there is no model .*PSPHead",
    ),
    "JSON": ("a.json", "json", LOADS),
    "JSON, a misspelt key": ("a.json", '{"modle": {}}', "did you mean 'model'"),
    "YAML": ("a.yaml", "yaml", LOADS),
    "YAML, tuples as mmengine dumps them": ("a.yaml", "tuples", LOADS),
    "YAML that would run code": (
        "a.yaml",
        "a: !!python/object/apply:os.getcwd []\n",
        "could not determine a constructor",
    ),
}  # fmt: skip


def written(kind: str) -> str:
    """Return the published file as data of a kind, or a text as it is."""
    values = load_config(BASE, check=False).to_dict()
    dumps = {
        "json": lambda: json.dumps(values),
        "yaml": lambda: yaml.safe_dump(json.loads(json.dumps(values))),
        "tuples": lambda: yaml.dump(values),
    }
    return dumps[kind]() if kind in dumps else kind


@pytest.mark.parametrize("style", STYLES)
def test_verdict(style: str, tmp_path: Path) -> None:
    name, text, told = STYLES[style]
    base = load_config(BASE, check=False).pretty_text
    (tmp_path / "base.py").write_text(base)
    (tmp_path / name).write_text(written(text))
    if told == LOADS:
        config = load_config(tmp_path / name)
        assert config.model.decode_head.type in ("NLHead", "GCHead")
        return
    with pytest.raises(ConfigError, match=told):
        load_config(tmp_path / name)
