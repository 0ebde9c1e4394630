"""Configs of mmsegmentation 0.x become the recorded configs of 1.x."""

import ast
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from nlseg.errors import ConfigError
from nlseg.migrate import migrate_config, migrate_name
from tests.cases import each_case

GOLDEN = Path(__file__).parents[1] / "golden/configs_literal.json.gz"
RECORDED = json.loads(gzip.decompress(GOLDEN.read_bytes()))
NORM = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}
SAME = (
    "model", "train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator",
    "test_evaluator", "tta_pipeline", "tta_model", "optim_wrapper", "param_scheduler", "train_cfg",
    "val_cfg", "test_cfg", "default_hooks", "env_cfg", "visualizer", "log_processor", "log_level",
    "load_from", "resume",
)  # fmt: skip


def recorded(name: str) -> dict[str, Any]:
    return ast.literal_eval(RECORDED[name])


def old_pipelines(
    scale: tuple[int, int], crop: tuple[int, int], **labels: Any
) -> tuple[list[Any], list[Any]]:
    train = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", **labels},
        {"type": "Resize", "img_scale": scale, "ratio_range": (0.5, 2.0)},
        {"type": "RandomCrop", "crop_size": crop, "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "Normalize", **NORM},
        {"type": "Pad", "size": crop, "pad_val": 0, "seg_pad_val": 255},
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": ["img", "gt_semantic_seg"]},
    ]
    inner = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        {"type": "Normalize", **NORM},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    augment = {"type": "MultiScaleFlipAug", "img_scale": scale, "flip": False, "transforms": inner}
    return train, [{"type": "LoadImageFromFile"}, augment]


def old_config(name: str, images: str, labels: str, parts: tuple[str, str]) -> dict[str, Any]:
    """Write the 0.x config that the recorded 1.x config descends from."""
    new = recorded(name)
    length = new["train_cfg"]["max_iters"]
    ade = "ade" in name
    scale = new["test_pipeline"][1]["scale"]
    extra = {"reduce_zero_label": True} if ade else {}
    train, test = old_pipelines(scale, new["crop_size"], **extra)
    sets = {}
    for split, part, steps in zip(
        ("train", "val", "test"), (*parts, parts[1]), (train, test, test), strict=True
    ):
        folders = {"img_dir": f"{images}/{part}", "ann_dir": f"{labels}/{part}"}
        kind = {"type": new["dataset_type"], "data_root": new["data_root"]}
        sets[split] = {**kind, **folders, "pipeline": steps}
    model = {key: value for key, value in new["model"].items() if key != "data_preprocessor"}
    batch, workers = (4, 4) if ade else (2, 2)
    return {
        "model": model,
        "norm_cfg": new["norm_cfg"],
        "img_norm_cfg": NORM,
        "data": {"samples_per_gpu": batch, "workers_per_gpu": workers, **sets},
        "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005},
        "optimizer_config": {},
        "lr_config": {"policy": "poly", "power": 0.9, "min_lr": 1e-4, "by_epoch": False},
        "runner": {"type": "IterBasedRunner", "max_iters": length},
        "checkpoint_config": {"by_epoch": False, "interval": length // 10},
        "evaluation": {"interval": length // 10, "metric": "mIoU", "pre_eval": True},
        "log_config": {"interval": 50, "hooks": [{"type": "TextLoggerHook", "by_epoch": False}]},
        "dist_params": {"backend": "nccl"},
        "log_level": "INFO",
        "load_from": None,
        "resume_from": None,
        "workflow": [("train", 1)],
        "cudnn_benchmark": True,
    }


@each_case(
    "name, images, labels, parts",
    [
        (
            "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024",
            "leftImg8bit", "gtFine", ("train", "val"),
        ),
        (
            "gcnet/gcnet_r101-d8_4xb2-80k_cityscapes-769x769",
            "leftImg8bit", "gtFine", ("train", "val"),
        ),
        (
            "gcnet/gcnet_r50-d8_4xb4-160k_ade20k-512x512",
            "images", "annotations", ("training", "validation"),
        ),
    ],
)  # fmt: skip
def test_migrated_config_has_the_recorded_values(
    name: str, images: str, labels: str, parts: tuple[str, str]
) -> None:
    new = migrate_config(old_config(name, images, labels, parts))
    expected = recorded(name)
    assert {key: new[key] for key in SAME} == {key: expected[key] for key in SAME}
    assert "custom" not in new
    assert new["default_scope"] == "nlseg"


@each_case("name", sorted(RECORDED))
def test_old_names_become_the_published_names(name: str) -> None:
    stem = name.split("/")[1]
    model, recipe, data = stem.rsplit("_", 2)
    gpus, length = recipe.split("-")
    dataset, crop = data.split("-")
    old = f"{model}_{crop}_{length}_{dataset}"
    batch = int(gpus[3:])
    assert migrate_name(old, gpus=4, batch_size=batch) == stem
    assert migrate_name("my_own_name", gpus=4, batch_size=batch) == "my_own_name"


def small_old_config(**changes: Any) -> dict[str, Any]:
    name = "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024"
    return {**old_config(name, "i", "l", ("train", "val")), **changes}


def test_lists_of_folders_are_joined() -> None:
    old = small_old_config()
    train = {
        **old["data"]["train"],
        "ann_dir": ["SegmentationClass", "SegmentationClassAug"],
        "split": ["train.txt", "aug.txt"],
    }
    old["data"] = {**old["data"], "train": train}
    joined = migrate_config(old)["train_dataloader"]["dataset"]
    assert joined["type"] == "ConcatDataset"
    assert [d["ann_file"] for d in joined["datasets"]] == ["train.txt", "aug.txt"]
    assert joined["datasets"][1]["data_prefix"] == {
        "img_path": "i/train",
        "seg_map_path": "SegmentationClassAug",
    }


def test_classes_repeat_and_flip_ratio() -> None:
    old = small_old_config()
    inner = {**old["data"]["train"], "classes": ("a", "b"), "palette": [[0, 0, 0], [1, 1, 1]]}
    inner["pipeline"] = [{"type": "RandomFlip", "flip_ratio": 0.25}, {"type": "Collect"}]
    train = {"type": "RepeatDataset", "times": 3, "dataset": inner}
    old["data"] = {**old["data"], "train": train}
    dataset = migrate_config(old)["train_dataloader"]["dataset"]
    assert dataset["times"] == 3
    assert dataset["dataset"]["metainfo"]["classes"] == ("a", "b")
    assert dataset["dataset"]["pipeline"] == [
        {"type": "RandomFlip", "prob": 0.25},
        {"type": "PackSegInputs"},
    ]


def test_warmup_half_precision_and_accumulation() -> None:
    warm = {"warmup": "linear", "warmup_iters": 1500, "warmup_ratio": 1e-6}
    old = small_old_config(
        lr_config={"policy": "poly", "power": 1.0, "min_lr": 0.0, "by_epoch": False, **warm},
        optimizer_config={
            "type": "Fp16OptimizerHook", "loss_scale": 512.0, "grad_clip": {"max_norm": 1},
            "cumulative_iters": 2,
        },
        resume_from="old.pth",
        seed=3,
    )  # fmt: skip
    new = migrate_config(old)
    first, second = new["param_scheduler"]
    assert first == {
        "type": "LinearLR", "start_factor": 1e-6, "begin": 0, "end": 1500, "by_epoch": False,
    }  # fmt: skip
    assert (second["begin"], second["end"]) == (1500, 40000)
    wrapper = new["optim_wrapper"]
    assert (wrapper["type"], wrapper["loss_scale"]) == ("AmpOptimWrapper", 512.0)
    assert (wrapper["clip_grad"], wrapper["accumulative_counts"]) == ({"max_norm": 1}, 2)
    assert (new["load_from"], new["resume"], new["randomness"]) == ("old.pth", True, {"seed": 3})


def test_epochs_step_policy_and_total_epochs() -> None:
    old = small_old_config(
        total_epochs=24, lr_config={"policy": "step", "step": [16, 22]}, evaluation={"interval": 2}
    )
    del old["runner"]
    new = migrate_config(old)
    assert new["train_cfg"] == {
        "type": "EpochBasedTrainLoop",
        "max_epochs": 24,
        "val_interval": 2,
    }
    assert new["param_scheduler"][0]["milestones"] == [16, 22]
    assert new["train_dataloader"]["sampler"]["type"] == "DefaultSampler"


def test_what_has_no_place_is_kept_under_custom() -> None:
    assert migrate_config(small_old_config(my_key=1))["custom"] == {"my_key": 1}


def test_config_of_another_form_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no config of 0\.x, which has 'data' and 'model'"):
        migrate_config({"model": {}})
    old = small_old_config(runner={})
    with pytest.raises(ConfigError, match=r"no runner.max_iters and no total_iters"):
        migrate_config(old)
    old = small_old_config()
    (validated,) = [old["data"].pop(name) for name in ("val", "test") if name in old["data"]][:1]
    with pytest.raises(ConfigError, match="data: has neither 'val' nor 'test'"):
        migrate_config(old)
    old["data"]["test"] = validated
    assert migrate_config(old)["val_dataloader"] == migrate_config(old)["test_dataloader"]
