"""Configs of mmsegmentation 0.x in the present form."""

import re
from collections.abc import Mapping
from typing import Any

from nlseg.errors import ConfigError
from nlseg.migrate.data import (
    Cfg,
    migrate_dataset,
    migrate_test_pipeline,
    migrate_train_pipeline,
    preprocessor_of,
)
from nlseg.migrate.schedule import (
    migrate_hooks,
    migrate_loops,
    migrate_optimizer,
    migrate_schedulers,
)

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


def migrate_config(old: Mapping[str, Any], where: str = "the config") -> Cfg:
    """Turn a resolved config of 0.x into the present form.

    Args:
        old: The config, with ``data`` and ``runner`` or ``total_iters``.
        where: Its file, for the error.

    Returns:
        The new config. What has no place in it stands under ``custom``.

    Raises:
        ConfigError: The config is not of the form of 0.x.
    """
    if "data" not in old or "model" not in old:
        hint = "; it has the present form already" if "train_dataloader" in old else ""
        raise ConfigError(f"{where}: no config of 0.x, which has 'data' and 'model'{hint}")
    new: Cfg = {"model": _migrate_model(old)}
    new.update(_migrate_data(old))
    new["optim_wrapper"] = migrate_optimizer(old)
    new["param_scheduler"] = migrate_schedulers(old)
    new.update(migrate_loops(old))
    new["default_hooks"] = migrate_hooks(old)
    new.update(_migrate_runtime(old))
    left = {key: value for key, value in old.items() if key not in READ and key not in KEPT}
    new.update({key: old[key] for key in KEPT if key in old})
    return {**new, "custom": left} if left else new


def _migrate_model(old: Mapping[str, Any]) -> Cfg:
    model = dict(old["model"])
    train = old["data"]["train"]
    model["data_preprocessor"] = preprocessor_of(_pipeline_of(train))
    for key in ("train_cfg", "test_cfg"):  # stood beside the model in the oldest configs
        model.setdefault(key, dict(old.get(key) or {}))
    return model


def _pipeline_of(dataset: Any) -> list[Any]:
    """Return the pipeline of a data set, or of the first one inside it."""
    while not isinstance(dataset, Mapping) or "pipeline" not in dataset:
        dataset = dataset[0] if isinstance(dataset, list) else dataset["dataset"]
    return list(dataset["pipeline"])


def _migrate_data(old: Mapping[str, Any]) -> Cfg:
    data = old["data"]
    train = migrate_train_pipeline(_pipeline_of(data["train"]))
    labels = next((s for s in train if s["type"] == "LoadAnnotations"), {"type": "LoadAnnotations"})
    single, several = migrate_test_pipeline(_pipeline_of(data.get("test", data["val"])), labels)
    workers = data.get("workers_per_gpu", 2)
    evaluation = {"batch_size": 1, "num_workers": 4, "persistent_workers": True}
    new: Cfg = {
        "train_dataloader": {
            "batch_size": data.get("samples_per_gpu", 2),
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "sampler": {
                "type": "DefaultSampler" if _counts_epochs(old) else "InfiniteSampler",
                "shuffle": True,
            },
            "dataset": migrate_dataset(data["train"], train),
        }
    }
    for name in ("val", "test"):
        new[f"{name}_dataloader"] = {
            **evaluation,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": migrate_dataset(data.get(name, data["val"]), single),
        }
        new[f"{name}_evaluator"] = _evaluator(old)
    new.update(tta_pipeline=several, tta_model={"type": "SegTTAModel"}, test_pipeline=single)
    return new


def _counts_epochs(old: Mapping[str, Any]) -> bool:
    return "max_epochs" in old.get("runner", {}) or "total_epochs" in old


def _evaluator(old: Mapping[str, Any]) -> Any:
    metric = old.get("evaluation", {}).get("metric", "mIoU")
    names = [metric] if isinstance(metric, str) else list(metric)
    areas = [name for name in names if name != "cityscapes"]
    found: list[Cfg] = [{"type": "IoUMetric", "iou_metrics": areas}] if areas else []
    if "cityscapes" in names:
        found.append({"type": "CityscapesMetric", "output_dir": "work_dirs/cityscapes_results"})
    return found[0] if len(found) == 1 else found


def _migrate_runtime(old: Mapping[str, Any]) -> Cfg:
    hooks = [hook["type"] for hook in old.get("log_config", {}).get("hooks", [])]
    backends = [{"type": "LocalVisBackend"}]
    backends += [{"type": BACKENDS[name]} for name in hooks if name in BACKENDS]
    new: Cfg = {
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
        "log_processor": {"by_epoch": _counts_epochs(old)},
        "log_level": old.get("log_level", "INFO"),
        "load_from": old.get("resume_from") or old.get("load_from"),
        "resume": bool(old.get("resume_from")),
    }  # fmt: skip
    if old.get("seed") is not None:
        new["randomness"] = {"seed": old["seed"]}
    return new


OLD_NAME = re.compile(r"(?P<model>.+?)_(?P<crop>\d+x\d+)_(?P<length>\d+[ke])_(?P<data>.+)")


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
