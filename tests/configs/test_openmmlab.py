"""Configs written for mmsegmentation load as they are, in every notation that mmengine knows."""

import json
import re
from pathlib import Path

import pytest

from nlseg.config.load import load_config, trace_of
from nlseg.errors import ConfigError
from tests.cases import each_case
from tests.configs.foreign import CONFIGS, write_foreign_tree

PUBLISHED = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.glob("*/*.py")
    if re.search("_r(50|101)-d8_4xb[24]-", path.name)
)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published files as mmsegmentation has them."""
    root = tmp_path_factory.mktemp("mmseg_configs")
    write_foreign_tree(root)
    return root


def test_there_are_32_published_files() -> None:
    assert len(PUBLISHED) == 32


@each_case("name", PUBLISHED)
def test_foreign_config_equals_ours(foreign: Path, name: str) -> None:
    assert "mmseg" in (foreign / "_base_/default_runtime.py").read_text()
    config = load_config(foreign / name, check=True).to_dict()
    assert config.pop("custom_imports") == {"imports": ["json"]}
    assert config == load_config(CONFIGS / name, check=False).to_dict()


def test_class_that_is_not_here_is_named_with_its_file(foreign: Path) -> None:
    path = foreign / "nonlocal_net/psp.py"
    path.write_text(
        "_base_ = './nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py'\n"
        "model = dict(decode_head=dict(type='mmseg.PSPHead'),\n"
        "             auxiliary_head=dict(type='mmdet.FCNHead'))\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path, check=True)
    text = str(caught.value)
    assert f"{path}:2: model.decode_head.type: there is no model 'PSPHead'" in text
    assert f"{path}:3: model.auxiliary_head.type: there is no model 'mmdet.FCNHead'" in text
    assert "NLHead" in text


def test_base_variables_and_reserved_variables(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("a = dict(b=[1, dict(c=2)])\nwork = 'x'\n")
    (tmp_path / "leaf.py").write_text(
        "_base_ = ['./base.py']\n"
        "copy = {{_base_.a.b}}\n"
        "a = dict(_delete_=True, d=3)\n"
        "name = '{{ fileBasename }} {{ fileBasenameNoExtension }} {{ fileExtname }}'\n"
        "folder = '{{ fileDirname }}'\n"
        "size = {{'$SIZE_OF_A_TEST:7'}}\n"
        "again = _base_.work + '!'\n"
    )
    config = load_config(tmp_path / "leaf.py", check=False)
    assert config["copy"] == [1, {"c": 2}]
    assert config.a == {"d": 3}
    assert config.name == "leaf.py leaf .py"
    assert config.folder == str(tmp_path)
    assert config.size == 7
    assert config.again == "x!"
    assert trace_of(config).where(("copy", 1, "c")).endswith("base.py:1")
    assert trace_of(config).where(("a", "d")).endswith("leaf.py:3")


LAZY = """
from mmengine.config import read_base
from mmengine.hooks import CheckpointHook
from mmseg.models import EncoderDecoder, NLHead
from torch.optim import SGD

with read_base():
    from .lazy_base import *

model.update(dict(type=EncoderDecoder, decode_head=dict(type=NLHead)))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type=SGD, lr=0.5))
default_hooks = dict(checkpoint=dict(type=CheckpointHook))
"""


def test_lazy_config_uses_our_classes(tmp_path: Path) -> None:
    base = "model = dict(pretrained=None)\ndefault_scope = 'mmseg'\n"
    (tmp_path / "lazy_base.py").write_text(base)
    (tmp_path / "lazy.py").write_text(LAZY)
    config = load_config(tmp_path / "lazy.py", check=False)
    assert config.model == {
        "pretrained": None,
        "type": "EncoderDecoder",
        "decode_head": {"type": "NLHead"},
    }
    assert config.default_scope == "nlseg"
    assert config.default_hooks.checkpoint.type == "CheckpointHook"
    assert config.optim_wrapper.optimizer.type == "torch.optim.SGD"
    assert trace_of(config).where(("optim_wrapper", "optimizer", "lr")).endswith("lazy.py:11")
    assert trace_of(config).where(("model", "decode_head", "type")).endswith("lazy.py:10")
    assert trace_of(config).where(("model", "pretrained")).endswith("lazy_base.py:1")


def test_lazy_config_without_a_scope_loads_and_is_checked(tmp_path: Path) -> None:
    published = load_config(CONFIGS / PUBLISHED[0], check=False)
    text = published.pretty_text.replace("default_scope = 'nlseg'", "default_scope = None")
    imports = (
        ("mmseg.models", "EncoderDecoder"),
        ("mmseg.models", "GCHead"),
        ("torch.optim", "SGD"),
    )
    for module, name in imports:
        text = f"from {module} import {name}\n{text}".replace(f"type='{name}'", f"type={name}")
    (tmp_path / "whole.py").write_text(text)
    path = tmp_path / "lazy.py"
    path.write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n    from .whole import *\n"
        "model.update(\n    auxiliary_head=dict(num_clases=3))\n"
    )
    with pytest.raises(
        ConfigError, match=r"lazy\.py:5: model\.auxiliary_head\.num_clases: FCNHead"
    ):
        load_config(path)
    path.write_text(path.read_text().replace("num_clases=3", "num_convs=2"))
    config = load_config(path)
    assert config.default_scope == "nlseg"  # names are looked up, where mmengine has classes
    assert config.model.decode_head.type == "GCHead"
    assert config.optim_wrapper.optimizer.type == "torch.optim.SGD"
    assert not {"GCHead", "SGD", "read_base"} & config.keys()
    line = trace_of(config).where(("model", "decode_head", "channels"))
    assert line.startswith(f"{tmp_path}/whole.py:")


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_json_and_yaml_become_the_same_config(tmp_path: Path, suffix: str) -> None:
    config = load_config(CONFIGS / PUBLISHED[0], check=False)
    plain = json.loads(json.dumps(config.to_dict()))  # tuples become lists
    path = tmp_path / f"written.{suffix}"
    Path(path).write_text(json.dumps(plain))
    read = load_config(path, check=True)
    assert read.model.backbone.strides in ((1, 2, 1, 1), [1, 2, 1, 1])
    assert json.loads(json.dumps(read.to_dict())) == plain


def test_yaml_with_bases_and_lines(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a:\n  b: 1\n  c: [1, 2]\nd: 3\n")
    (tmp_path / "leaf.yaml").write_text("_base_: base.yaml\na:\n  b: 2\n")
    config = load_config(tmp_path / "leaf.yaml", check=False)
    assert config.to_dict() == {"a": {"b": 2, "c": [1, 2]}, "d": 3}
    trace = trace_of(config)
    assert trace.where(("a", "b")).endswith("leaf.yaml:3")
    assert trace.where(("a", "c")).endswith("base.yaml:3")


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config(path, check=False)
    assert not (tmp_path / "made").exists()


@each_case(
    "text, told",
    [
        ("_base_ = ['./schedule_20.py']\n", r"x\.py:1: _base_: there is no .*schedule_20\.py; did"),
        ("a = (1,\nb = 2\n", r"x\.py:\d: "),
        ("a = 1\nb = a + c\n", r"x\.py:2: NameError: name 'c' is not defined"),
        ("_base_ = ['./schedule_20k.py', './schedule_20k.py']\n", "Duplicate key is not allowed"),
    ],
)
def test_file_that_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "schedule_20k.py").write_text("lr = 1\n")
    (tmp_path / "x.py").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_config(tmp_path / "x.py", check=False)


def test_custom_import_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("custom_imports = dict(imports=['not_there_at_all'])\n")
    with pytest.raises(ConfigError, match="folder that holds the module has to be on PYTHONPATH"):
        load_config(tmp_path / "x.py", check=False)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.py")
