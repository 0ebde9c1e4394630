"""Configs as people have them, in five styles, each with the verdict that it gets."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from nlseg.config import load_config
from nlseg.errors import ConfigError
from nlseg.registry import DATASETS, MODELS
from tests.cases import each_case
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


@each_case("style", STYLES)
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


CONTEXT = """
_base_ = ['./fcn.py', './context.py', {runtime!r}, {schedule!r}]
crop_size = (480, 480)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor, pretrained='open-mmlab://resnet{depth}_v1c',
    backbone=dict(depth={depth}),
    decode_head=dict(num_classes={classes}), auxiliary_head=dict(num_classes={classes}),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(320, 320)))
optimizer = dict(type='SGD', lr=0.004, momentum=0.9, weight_decay=0.0001)
optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer)
"""
FCN = """
_base_ = {base!r}
model = dict(
    decode_head=dict(
        _delete_=True, type='FCNHead', in_channels=2048, in_index=3, channels=512, num_convs=2,
        concat_input=True, dropout_ratio=0.1, num_classes=19, align_corners=False,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
"""
CONTEXT_DATA = """
dataset_type = 'PascalContextDataset{suffix}'
data_root = 'data/VOCdevkit/VOC2010/'
crop_size = (480, 480)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'{reduce}),
    dict(type='RandomResize', scale=(520, 520), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(520, 520), keep_ratio=True),
    dict(type='LoadAnnotations'{reduce}), dict(type='PackSegInputs')]
folders = dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext')
train_dataloader = dict(
    batch_size=4, num_workers=4, persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix=folders, pipeline=train_pipeline,
        ann_file='ImageSets/SegmentationContext/train.txt'))
val_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix=folders, pipeline=test_pipeline,
        ann_file='ImageSets/SegmentationContext/val.txt'))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
"""


@each_case("classes", [60, 59])
@each_case("schedule", ["40k", "80k"])
@each_case("depth", [50, 101])
def test_pascal_context_with_fcn(depth: int, schedule: str, classes: int, tmp_path: Path) -> None:
    base = CONFIGS / "_base_"
    (tmp_path / "fcn.py").write_text(FCN.format(base=str(base / "models/nonlocal_r50-d8.py")))
    nine = classes == 59
    (tmp_path / "context.py").write_text(
        CONTEXT_DATA.format(
            suffix="59" if nine else "", reduce=", reduce_zero_label=True" if nine else ""
        )
    )
    leaf = CONTEXT.format(
        runtime=str(base / "default_runtime.py"),
        schedule=str(base / f"schedules/schedule_{schedule}.py"), depth=depth, classes=classes,
    )  # fmt: skip
    (tmp_path / "leaf.py").write_text(leaf.replace("'./", f"'{tmp_path}/"))
    config = load_config(tmp_path / "leaf.py")
    assert config.train_cfg.max_iters == int(schedule[:-1]) * 1000
    assert config.optim_wrapper.optimizer.lr == 0.004
    with torch.device("meta"):
        model = MODELS.build({**config.model.to_dict(), "pretrained": None})
    assert model.decode_head.conv_seg.out_channels == classes
    kind = DATASETS.get(config.train_dataloader.dataset.type)
    assert len(kind.METAINFO["classes"]) == classes
    assert kind.REDUCE_ZERO_LABEL is nine
