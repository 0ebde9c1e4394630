"""Optimizer, learning rate, loops and hooks of mmsegmentation 0.x in the present form."""

from collections.abc import Mapping
from typing import Any

from nlseg.errors import ConfigError
from nlseg.migrate.data import Cfg


def length_of(old: Mapping[str, Any]) -> tuple[int, bool]:
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


def migrate_optimizer(old: Mapping[str, Any]) -> Cfg:
    """Turn ``optimizer``, ``optimizer_config`` and ``fp16`` into an ``optim_wrapper``."""
    optimizer = dict(old["optimizer"])
    hook = old.get("optimizer_config") or {}
    half = old.get("fp16") or (hook if "Fp16" in str(hook.get("type")) else None)
    new: Cfg = {"type": "OptimWrapper" if half is None else "AmpOptimWrapper"}
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


def migrate_schedulers(old: Mapping[str, Any]) -> list[Cfg]:
    """Turn ``lr_config`` into ``param_scheduler``, with a linear start where it warmed up."""
    length, _ = length_of(old)
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


def _main_scheduler(config: Mapping[str, Any], length: int) -> Cfg | None:
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


def migrate_loops(old: Mapping[str, Any]) -> Cfg:
    """Turn ``runner`` and ``evaluation.interval`` into the three loops."""
    length, by_epoch = length_of(old)
    interval = (old.get("evaluation") or {}).get("interval", 1 if by_epoch else length)
    kind = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    train = {"type": kind, ("max_epochs" if by_epoch else "max_iters"): length}
    return {
        "train_cfg": {**train, "val_interval": interval},
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
    }


def migrate_hooks(old: Mapping[str, Any]) -> Cfg:
    """Turn ``checkpoint_config``, ``log_config`` and ``evaluation.save_best`` into hooks."""
    _, by_epoch = length_of(old)
    saving = dict(old.get("checkpoint_config") or {})
    checkpoint: Cfg = {
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
