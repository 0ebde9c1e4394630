"""Overrides reach every copy of a value, and are refused where they cannot."""

from functools import partial
from pathlib import Path

import pytest

from nlseg.config import load_config as load_and_check
from nlseg.config.literals import parse_value
from nlseg.errors import ConfigError
from tests.cases import each_case

load_config = partial(load_and_check, check=False)
CONFIGS = Path(__file__).parents[2] / "configs"
SLIDE = CONFIGS / "gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-769x769.py"
VOC = CONFIGS / "nonlocal_net/nonlocal_r50-d8_4xb4-20k_voc12aug-512x512.py"
EPOCHS = CONFIGS / "nonlocal_net/nonlocal_r50-d8_1xb8-220e_cityscapes-512x1024.py"


@each_case(
    "text, value",
    [
        ("123", 123),
        ("'123'", "123"),
        ("1e-4", 1e-4),
        ("-3", -3),
        ("None", None),
        ("true", True),
        ("False", False),
        ("1,2", [1, 2]),
        ("(1, 2)", (1, 2)),
        ("(1,2),(3,4)", [(1, 2), (3, 4)]),
        ("[1, [2, 3]]", [1, [2, 3]]),
        ("{'a': 1}", {"a": 1}),
        ("dict(a=1, b=dict(c=(2, 3)))", {"a": 1, "b": {"c": (2, 3)}}),
        ("[mIoU,mDice]", ["mIoU", "mDice"]),
        ("(a, 1)", ("a", 1)),
        ("my exp, v2", "my exp, v2"),
        ("data/x y", "data/x y"),
        ("1/4", "1/4"),
        ("007", "007"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_value_is_a_literal_or_the_text(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_comma_makes_a_list_only_where_a_list_stood() -> None:
    assert parse_value("mIoU,mDice", like=["mIoU"]) == ["mIoU", "mDice"]
    assert parse_value("a,b", like="x") == "a,b"


@each_case("word", ["none", "null", "NULL"])
def test_none_in_other_languages_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="is not None: write None"):
        parse_value(word)


def test_crop_size_reaches_crops_padding_and_window() -> None:
    config = load_config(SLIDE, ["crop_size=(96, 192)"])
    assert config.model.data_preprocessor.size == (96, 192)
    assert config.train_dataloader.dataset.pipeline[3].crop_size == (96, 192)
    assert config.model.test_cfg.crop_size == (96, 192)
    # 513 / 769 of the window: 513 * 96 // 769 = 64, 513 * 192 // 769 = 128
    assert config.model.test_cfg.stride == (64, 128)
    config = load_config(VOC, ["crop_size=64,32"])
    for dataset in config.train_dataloader.dataset.datasets:
        assert dataset.pipeline[3].crop_size == (64, 32)
        assert dataset.pipeline[6].size == (32, 64)  # Pad counts (width, height)


def test_max_iters_moves_schedule_validation_and_checkpoints() -> None:
    config = load_config(SLIDE, ["max_iters=300"])
    assert config.train_cfg.max_iters == 300
    assert config.train_cfg.val_interval == 30
    assert config.param_scheduler[0].end == 300
    assert config.default_hooks.checkpoint.interval == 30


def test_path_given_beside_a_short_name_wins() -> None:
    config = load_config(SLIDE, ["train_cfg.val_interval=100", "max_iters=300"])
    assert config.train_cfg.val_interval == 100


def test_max_epochs_counts_epochs() -> None:
    config = load_config(EPOCHS, ["max_epochs=22"])
    assert config.train_cfg.max_epochs == config.param_scheduler[0].end == 22
    assert config.train_cfg.val_interval == 1
    assert config.default_hooks.checkpoint.interval == 1
    with pytest.raises(ConfigError, match="train_cfg has no max_iters; it counts max_epochs"):
        load_config(EPOCHS, ["max_iters=100"])


def test_short_names_reach_every_place() -> None:
    given = ["data_root=/d", "batch_size=3", "lr=0.5", "num_classes=7", "norm_cfg.type=BN"]
    config = load_config(VOC, given)
    assert [d.data_root for d in config.train_dataloader.dataset.datasets] == ["/d", "/d"]
    assert config.val_dataloader.dataset.data_root == config.test_dataloader.dataset.data_root
    assert config.val_dataloader.dataset.data_root == config.data_root == "/d"
    assert (config.train_dataloader.batch_size, config.val_dataloader.batch_size) == (3, 1)
    assert config.optim_wrapper.optimizer.lr == config.optimizer.lr == 0.5
    assert config.model.decode_head.num_classes == config.model.auxiliary_head.num_classes == 7
    norms = [config.model[part].norm_cfg for part in ("backbone", "decode_head", "auxiliary_head")]
    assert norms == [{"type": "BN", "requires_grad": True}] * 3


def test_variable_reaches_what_it_was_copied_to() -> None:
    config = load_config(SLIDE, ["train_pipeline.4.prob=0.25", "optimizer.momentum=0.8"])
    assert config.train_dataloader.dataset.pipeline[4].prob == 0.25
    assert config.optim_wrapper.optimizer.momentum == 0.8
    config = load_config(SLIDE, ["data_preprocessor.size_divisor=8"])
    assert config.model.data_preprocessor.size_divisor == 8


def test_variable_that_was_used_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="'img_ratios' was used up"):
        load_config(SLIDE, ["img_ratios=[1.0]"])


def test_places_that_differ_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "two_roots.py"
    path.write_text(f"_base_ = {str(SLIDE)!r}\nval_dataloader = dict(dataset=dict(data_root='/a'))")
    with pytest.raises(ConfigError, match=r"places differ.*(\n.*)+val_dataloader.*data_root='/a'"):
        load_config(path, ["data_root=/b"])
    config = load_config(path, ["val_dataloader.dataset.data_root=/b"])
    assert config.val_dataloader.dataset.data_root == "/b"


def test_zero_workers_are_not_persistent() -> None:
    config = load_config(VOC, ["num_workers=0"])
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.num_workers == 0
        assert loader.persistent_workers is False
    config = load_config(VOC, ["val_dataloader.num_workers=0"])
    assert config.val_dataloader.persistent_workers is False
    assert config.train_dataloader.persistent_workers is True


def test_list_items_by_position() -> None:
    config = load_config(SLIDE, ["param_scheduler.-1.power=2", "vis_backends.0.type=X"])
    assert config.param_scheduler[0].power == 2
    assert config.visualizer.vis_backends[0].type == "X"
    with pytest.raises(ConfigError, match=r"param_scheduler is a list: expected a position in 0"):
        load_config(SLIDE, ["param_scheduler.1.power=2"])


def test_dict_is_merged_unless_it_deletes() -> None:
    config = load_config(SLIDE, ["optim_wrapper.optimizer=dict(lr=1.0)"])
    assert config.optim_wrapper.optimizer.momentum == 0.9
    config = load_config(SLIDE, ["optim_wrapper.optimizer=dict(_delete_=True, type='Adam')"])
    assert config.optim_wrapper.optimizer == {"type": "Adam"}


def test_every_refused_override_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(SLIDE, ["optim_wraper.optimizer.lr=1", "lr", "model.pretrained.x=1", "lr=none"])
    assert "did you mean 'optim_wrapper'?" in str(caught.value)
    assert "'lr': expected key=value" in str(caught.value)
    assert "model.pretrained is 'open-mmlab://resnet50_v1c', which has no 'x'" in str(caught.value)
    assert "'none' is not None" in str(caught.value)


def test_data_of_ones_own_on_a_published_base_has_one_root(tmp_path: Path) -> None:
    own = "dict(_delete_=True, type='BaseSegDataset', data_root='mine', pipeline=[])"
    loaders = [f"{name}_dataloader = dict(dataset={own})" for name in ("train", "val", "test")]
    path = tmp_path / "mine.py"
    path.write_text("\n".join([f"_base_ = {str(VOC)!r}", *loaders]))
    config = load_config(path, ["data_root=/d"])
    assert config.train_dataloader.dataset.data_root == config.val_dataloader.dataset.data_root
    assert config.val_dataloader.dataset.data_root == "/d"
    assert config.dataset_train.data_root == "data/VOCdevkit/VOC2012"  # nothing uses it


def test_a_rate_that_a_file_overrides_is_linked_by_its_value(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    base = f"_base_ = {str(SLIDE)!r}\n"
    file.write_text(base + "optim_wrapper = dict(optimizer=dict(lr=0.002))\n")
    assert load_and_check(file).optimizer.lr != 0.002  # the variable that the base copied stays
    config = load_and_check(file, ["lr=0.5"])
    assert config.optim_wrapper.optimizer.lr == 0.5
    file.write_text(base + "optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(\n"
                           "    head=dict(lr=0.1))))\n")  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"(?s)lr: its places differ.*optim_wrapper\.optimizer\.lr"
    ):
        load_and_check(file, ["lr=0.5"])
