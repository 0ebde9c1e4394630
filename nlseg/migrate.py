"""Configs of mmsegmentation 0.x in the present form."""

import re
from collections.abc import Mapping
from typing import Any

from nlseg.errors import ConfigError

Settings = dict[str, Any]
BACKENDS = {
    "TensorboardLoggerHook": "TensorboardVisBackend",
    "WandbLoggerHook": "WandbVisBackend",
    "MlflowLoggerHook": "MLflowVisBackend",
}
READ = frozenset((
    "checkpoint_config", "cudnn_benchmark", "data", "data_root", "dataset_type", "device",
    "dist_params", "evaluation", "fp16", "gpu_ids", "img_norm_cfg", "load_from", "log_config",
    "log_level", "lr_config", "model", "mp_start_method", "norm_cfg", "opencv_num_threads",
    "optimizer", "optimizer_config", "resume_from", "runner", "seed", "test_cfg", "test_pipeline",
    "total_epochs", "total_iters", "train_cfg", "train_pipeline", "workflow", "crop_size",
    "img_scale", "backbone_norm_cfg", "auto_resume", "deterministic",
))  # fmt: skip
KEPT = ("custom_hooks", "custom_imports", "work_dir")
IMG_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
DROPPED = ("DefaultFormatBundle", "ImageToTensor", "Normalize", "Pad")
SAME_NAME = ("img_suffix", "seg_map_suffix", "reduce_zero_label", "ignore_index", "data_root")
OLD_NAME = re.compile(r"(?P<model>.+?)_(?P<crop>\d+x\d+)_(?P<length>\d+[ke])_(?P<data>.+)")


def migrate_config(old: Mapping[str, Any], where: str = "the config") -> Settings:
    """Turn a resolved config of 0.x into the present form.

    Args:
        old: The config, with ``data`` and ``runner`` or ``total_iters``.
        where: Its file, for the error.

    Returns:
        The new config. Keys that it has no place for are under ``custom``.

    Raises:
        ConfigError: The config is not of the form of 0.x.
    """
    if "data" not in old or "model" not in old:
        hint = "; it has the present form already" if "train_dataloader" in old else ""
        raise ConfigError(f"{where}: no config of 0.x, which has 'data' and 'model'{hint}")
    new: Settings = {"model": _migrate_model(old)}
    new.update(_migrate_data(old))
    new["optim_wrapper"] = _migrate_optimizer(old)
    new["param_scheduler"] = _migrate_schedulers(old)
    new.update(_migrate_loops(old))
    new["default_hooks"] = _migrate_hooks(old)
    new.update(_migrate_runtime(old))
    left = {key: value for key, value in old.items() if key not in READ and key not in KEPT}
    new.update({key: old[key] for key in KEPT if key in old})
    return {**new, "custom": left} if left else new


def _migrate_model(old: Mapping[str, Any]) -> Settings:
    model = dict(old["model"])
    train = old["data"]["train"]
    model["data_preprocessor"] = _preprocessor_of(_pipeline_of(train))
    for key in ("train_cfg", "test_cfg"):  # the oldest configs have them beside the model
        model.setdefault(key, dict(old.get(key) or {}))
    return model


def _pipeline_of(dataset: Any) -> list[Any]:
    """Return the pipeline of a data set, or of the first one inside it."""
    while not isinstance(dataset, Mapping) or "pipeline" not in dataset:
        dataset = dataset[0] if isinstance(dataset, list) else dataset["dataset"]
    return list(dataset["pipeline"])


def _migrate_data(old: Mapping[str, Any]) -> Settings:
    data = old["data"]
    train = _migrate_train_pipeline(_pipeline_of(data["train"]))
    labels = next((s for s in train if s["type"] == "LoadAnnotations"), {"type": "LoadAnnotations"})
    tested = [data[name] for name in ("test", "val") if name in data]
    if not tested:
        raise ConfigError("data: has neither 'val' nor 'test'; give the one that scores are for")
    single, several = _migrate_test_pipeline(_pipeline_of(tested[0]), labels)
    workers = data.get("workers_per_gpu", 2)
    evaluation = {"batch_size": 1, "num_workers": 4, "persistent_workers": True}
    new: Settings = {
        "train_dataloader": {
            "batch_size": data.get("samples_per_gpu", 2),
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "sampler": {
                "type": "DefaultSampler" if _length_of(old)[1] else "InfiniteSampler",
                "shuffle": True,
            },
            "dataset": _migrate_dataset(data["train"], train),
        }
    }
    for name in ("val", "test"):
        new[f"{name}_dataloader"] = {
            **evaluation,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": _migrate_dataset(data.get(name, tested[-1]), single),
        }
        new[f"{name}_evaluator"] = _evaluator(old)
    new.update(tta_pipeline=several, tta_model={"type": "SegTTAModel"}, test_pipeline=single)
    return new


def _evaluator(old: Mapping[str, Any]) -> Any:
    metric = old.get("evaluation", {}).get("metric", "mIoU")
    names = [metric] if isinstance(metric, str) else list(metric)
    areas = [name for name in names if name != "cityscapes"]
    found: list[Settings] = [{"type": "IoUMetric", "iou_metrics": areas}] if areas else []
    if "cityscapes" in names:
        found.append({"type": "CityscapesMetric", "output_dir": "work_dirs/cityscapes_results"})
    return found[0] if len(found) == 1 else found


def _migrate_runtime(old: Mapping[str, Any]) -> Settings:
    hooks = [hook["type"] for hook in old.get("log_config", {}).get("hooks", [])]
    backends = [{"type": "LocalVisBackend"}]
    backends += [{"type": BACKENDS[name]} for name in hooks if name in BACKENDS]
    new: Settings = {
        "default_scope": "nlseg",
        "env_cfg": {
            "cudnn_benchmark": old.get("cudnn_benchmark", True),
            "mp_cfg": {
                "mp_start_method": old.get("mp_start_method", "fork"),
                "opencv_num_threads": old.get("opencv_num_threads", 0),
            },
            "dist_cfg": dict(old.get("dist_params", {"backend": "nccl"})),
        },
        "vis_backends": backends,
        "visualizer": {
            "type": "SegLocalVisualizer", "vis_backends": backends, "name": "visualizer",
        },
        "log_processor": {"by_epoch": _length_of(old)[1]},
        "log_level": old.get("log_level", "INFO"),
        "load_from": old.get("resume_from") or old.get("load_from"),
        "resume": bool(old.get("resume_from")),
    }  # fmt: skip
    if old.get("seed") is not None:
        new["randomness"] = {"seed": old["seed"]}
    return new


def migrate_name(stem: str, *, gpus: int, batch_size: int) -> str:
    """Rename a config file after the present rule.

    Args:
        stem: Old name without suffix, such as ``nonlocal_r50-d8_512x1024_40k_cityscapes``.
        gpus: Number of GPUs that the config is written for.
        batch_size: Images per GPU.

    Returns:
        ``nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024``, or the old name where it has no such form.
    """
    found = OLD_NAME.fullmatch(stem)
    if found is None:
        return stem
    model, crop, length, data = found.group("model", "crop", "length", "data")
    return f"{model}_{gpus}xb{batch_size}-{length}_{data}-{crop}"


def _migrate_dataset(old: Mapping[str, Any] | list[Any], pipeline: list[Settings]) -> Settings:
    """Turn a data set of 0.x into the present form.

    Args:
        old: Its config. Lists of folders or of splits, and a list of data sets, are joined.
        pipeline: The new pipeline of each data set.

    Returns:
        The new config, a ``ConcatDataset`` where there are several.
    """
    if isinstance(old, list):
        return _joined([_migrate_dataset(item, pipeline) for item in old])
    if "dataset" in old:
        return {**old, "dataset": _migrate_dataset(old["dataset"], pipeline)}
    lengths = [len(old[key]) for key in ("img_dir", "ann_dir", "split") if _is_list(old.get(key))]
    if not lengths:
        return _single(old, pipeline)
    parts = [{**old} for _ in range(max(lengths))]
    for key in ("img_dir", "ann_dir", "split"):
        for index, part in enumerate(parts):
            if _is_list(old.get(key)):
                part[key] = old[key][index]
    return _joined([_single(part, pipeline) for part in parts])


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _joined(parts: list[Settings]) -> Settings:
    return parts[0] if len(parts) == 1 else {"type": "ConcatDataset", "datasets": parts}


def _single(old: Mapping[str, Any], pipeline: list[Settings]) -> Settings:
    new: Settings = {"type": old["type"]}
    new.update({key: old[key] for key in SAME_NAME if old.get(key) is not None})
    meta = {key: old[key] for key in ("classes", "palette") if old.get(key) is not None}
    if meta:
        new["metainfo"] = meta
    if old.get("split"):
        new["ann_file"] = old["split"]
    names = {"img_path": old.get("img_dir"), "seg_map_path": old.get("ann_dir")}
    new["data_prefix"] = {key: value for key, value in names.items() if value is not None}
    new["pipeline"] = pipeline
    return new


def _migrate_train_pipeline(old: list[Mapping[str, Any]]) -> list[Settings]:
    """Turn a training pipeline of 0.x into the present form.

    Normalisation and padding leave it: the preprocessor does them. ``Resize`` with a range of
    ratios becomes ``RandomResize``, ``Collect`` becomes ``PackSegInputs``.
    """
    return [new for step in old if (new := _migrate_step(step)) is not None]


def _migrate_step(step: Mapping[str, Any]) -> Settings | None:
    kind = step["type"]
    if kind in DROPPED:
        return None
    if kind == "Collect":
        return {"type": "PackSegInputs"}
    if kind == "Resize":
        return _resize(step)
    if kind == "RandomFlip" and "flip_ratio" in step:
        kept = {key: value for key, value in step.items() if key != "flip_ratio"}
        return {**kept, "prob": step["flip_ratio"]}
    return dict(step)


def _resize(step: Mapping[str, Any]) -> Settings:
    scale, keep_ratio = step.get("img_scale"), step.get("keep_ratio", True)
    if isinstance(scale, list) and len(scale) == 1:
        scale = scale[0]
    if step.get("ratio_range") is not None:
        ratios = {"ratio_range": step["ratio_range"]}
        return {"type": "RandomResize", "scale": scale, **ratios, "keep_ratio": keep_ratio}
    if not isinstance(scale, list):
        return {"type": "Resize", "scale": scale, "keep_ratio": keep_ratio}
    if step.get("multiscale_mode") == "value":
        return {"type": "RandomChoiceResize", "scales": scale, "keep_ratio": keep_ratio}
    return {"type": "RandomResize", "scale": scale, "keep_ratio": keep_ratio}


def _migrate_test_pipeline(
    old: list[Mapping[str, Any]], annotations: Settings
) -> tuple[list[Settings], list[Settings]]:
    """Turn a test pipeline of 0.x into the present form.

    Args:
        old: The pipeline, with ``MultiScaleFlipAug``.
        annotations: The step of training that loads labels.

    Returns:
        The single-scale pipeline, which loads labels after resizing, and the multi-scale one.
    """
    augment = next((step for step in old if step["type"] == "MultiScaleFlipAug"), {})
    scale = augment.get("img_scale")
    single: list[Settings] = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": scale, "keep_ratio": True},
        dict(annotations),
        {"type": "PackSegInputs"},
    ]
    ratios = augment.get("img_ratios") or IMG_RATIOS
    flips = [{"type": "RandomFlip", "prob": p, "direction": "horizontal"} for p in (0.0, 1.0)]
    branches: list[list[Settings]] = [
        [{"type": "Resize", "scale_factor": ratio, "keep_ratio": True} for ratio in ratios],
        flips,
        [{"type": "LoadAnnotations"}],
        [{"type": "PackSegInputs"}],
    ]
    several = {"type": "TestTimeAug", "transforms": branches}
    return single, [{"type": "LoadImageFromFile", "backend_args": None}, several]


def _preprocessor_of(pipeline: list[Mapping[str, Any]]) -> Settings:
    """Collect what the preprocessor does now: normalisation and padding of a 0.x pipeline."""
    steps = {step["type"]: step for step in pipeline}
    new: Settings = {"type": "SegDataPreProcessor"}
    normalize, pad = steps.get("Normalize", {}), steps.get("Pad", {})
    new.update({key: normalize[key] for key in ("mean", "std") if key in normalize})
    new["bgr_to_rgb"] = normalize.get("to_rgb", True)
    new["pad_val"] = pad.get("pad_val", 0)
    new["seg_pad_val"] = pad.get("seg_pad_val", 255)
    new.update({key: pad[key] for key in ("size", "size_divisor") if pad.get(key) is not None})
    if "size" not in new and "size_divisor" not in new:
        new["size"] = steps.get("RandomCrop", {}).get("crop_size")
    return new


def _length_of(old: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the length of a run and whether it counts epochs.

    Args:
        old: A config of 0.x.

    Raises:
        ConfigError: The config does not say how long it trains.
    """
    runner = old.get("runner") or {}
    for key in ("max_iters", "max_epochs"):
        total = runner.get(key, old.get(key.replace("max", "total")))
        if total is not None:
            return int(total), key == "max_epochs"
    raise ConfigError("this is no config of 0.x: it has no runner.max_iters and no total_iters")


def _migrate_optimizer(old: Mapping[str, Any]) -> Settings:
    """Turn ``optimizer``, ``optimizer_config`` and ``fp16`` into an ``optim_wrapper``."""
    optimizer = dict(old["optimizer"])
    hook = old.get("optimizer_config") or {}
    half = old.get("fp16") or (hook if "Fp16" in str(hook.get("type")) else None)
    new: Settings = {"type": "OptimWrapper" if half is None else "AmpOptimWrapper"}
    if half is not None:
        new["loss_scale"] = half.get("loss_scale", "dynamic")
    paramwise, constructor = optimizer.pop("paramwise_cfg", None), optimizer.pop("constructor", "")
    new.update(optimizer=optimizer, clip_grad=hook.get("grad_clip"))
    if paramwise:
        new["paramwise_cfg"] = paramwise
    if constructor and constructor != "DefaultOptimizerConstructor":
        new["constructor"] = constructor.replace("Optimizer", "OptimWrapper")
    if hook.get("cumulative_iters"):
        new["accumulative_counts"] = hook["cumulative_iters"]
    return new


def _migrate_schedulers(old: Mapping[str, Any]) -> list[Settings]:
    """Turn ``lr_config`` into ``param_scheduler``, with a linear start where it warmed up."""
    length, _ = _length_of(old)
    config = old.get("lr_config") or {"policy": "fixed"}
    by_epoch = config.get("by_epoch", True)
    warm = config.get("warmup_iters", 0) if config.get("warmup") else 0
    found = []
    if warm:
        factor = config.get("warmup_ratio", 0.1)
        found.append(
            {"type": "LinearLR", "start_factor": factor, "begin": 0, "end": warm, "by_epoch": False}
        )
    main = _main_scheduler(config, length)
    if main is not None:
        begin = warm if not by_epoch else 0
        found.append({**main, "begin": begin, "end": length, "by_epoch": by_epoch})
    return found


def _main_scheduler(config: Mapping[str, Any], length: int) -> Settings | None:
    policy = str(config.get("policy", "fixed")).lower()
    if policy == "poly":
        power, low = config.get("power", 1.0), config.get("min_lr", 0.0)
        return {"type": "PolyLR", "eta_min": low, "power": power}
    if policy in ("cosineannealing", "cosineannealinglr"):
        return {"type": "CosineAnnealingLR", "T_max": length, "eta_min": config.get("min_lr", 0.0)}
    if policy == "step":
        step, gamma = config["step"], config.get("gamma", 0.1)
        if isinstance(step, int):
            return {"type": "StepLR", "step_size": step, "gamma": gamma}
        return {"type": "MultiStepLR", "milestones": list(step), "gamma": gamma}
    if policy == "fixed":
        return None
    raise ConfigError(
        f"lr_config.policy: {policy!r} is not among poly, step, CosineAnnealing and fixed"
    )


def _migrate_loops(old: Mapping[str, Any]) -> Settings:
    """Turn ``runner`` and ``evaluation.interval`` into the three loops."""
    length, by_epoch = _length_of(old)
    interval = (old.get("evaluation") or {}).get("interval", 1 if by_epoch else length)
    kind = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    train = {"type": kind, ("max_epochs" if by_epoch else "max_iters"): length}
    return {
        "train_cfg": {**train, "val_interval": interval},
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
    }


def _migrate_hooks(old: Mapping[str, Any]) -> Settings:
    """Turn ``checkpoint_config``, ``log_config`` and ``evaluation.save_best`` into hooks."""
    _, by_epoch = _length_of(old)
    saving = dict(old.get("checkpoint_config") or {})
    checkpoint: Settings = {
        "type": "CheckpointHook",
        "by_epoch": saving.get("by_epoch", by_epoch),
        "interval": saving.get("interval", 1),
    }
    if "max_keep_ckpts" in saving:
        checkpoint["max_keep_ckpts"] = saving["max_keep_ckpts"]
    best = (old.get("evaluation") or {}).get("save_best")
    if best:
        checkpoint["save_best"] = best
    interval = (old.get("log_config") or {}).get("interval", 50)
    return {
        "timer": {"type": "IterTimerHook"},
        "logger": {"type": "LoggerHook", "interval": interval, "log_metric_by_epoch": by_epoch},
        "param_scheduler": {"type": "ParamSchedulerHook"},
        "checkpoint": checkpoint,
        "sampler_seed": {"type": "DistSamplerSeedHook"},
        "visualization": {"type": "SegVisualizationHook"},
    }
