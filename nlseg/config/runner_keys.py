"""The top-level keys that a run reads, as opposed to the variables that a config file needs."""

from typing import Any

RUN_KEYS = (
    "model", "work_dir", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg",
    "val_cfg", "test_cfg", "auto_scale_lr", "optim_wrapper", "param_scheduler", "val_evaluator",
    "test_evaluator", "default_hooks", "custom_hooks", "data_preprocessor", "load_from", "resume",
    "launcher", "env_cfg", "log_processor", "log_level", "visualizer", "default_scope",
    "randomness", "experiment_name",
)  # fmt: skip
"""What mmengine's runner takes; a test holds this list to its signature."""

TOOL_KEYS = (
    "custom", "custom_imports", "runner_type", "tta_model", "tta_pipeline", "test_pipeline",
    "compile", "cfg", "mmseg_names",
)  # fmt: skip
"""What the commands and the inference API read; ``custom`` holds whatever the user likes."""

OWN_KEYS = (
    "activation_checkpointing", "channels_last", "data_check", "efficient_conv_bn_eval",
    "find_unused_parameters",
    "load_finite", "load_strict", "max_time", "model_wrapper_cfg", "non_finite", "tf32",
    "time_limits",
)  # fmt: skip
"""What nlseg's runner reads beyond mmengine's."""

KNOWN_KEYS = frozenset(RUN_KEYS + TOOL_KEYS + OWN_KEYS)


VARIABLES = frozenset((
    "backend_args", "crop_size", "data_root", "dataset_type", "img_ratios", "img_scale", "norm_cfg",
    "num_classes", "optimizer", "train_pipeline", "val_pipeline", "vis_backends",
))  # fmt: skip
"""Variables that published configs have, which stay in a resolved config that is written out."""

OLD_KEYS = ("data", "runner", "total_iters", "lr_config", "optimizer_config", "checkpoint_config",
            "evaluation", "log_config", "dist_params")  # fmt: skip
"""Top-level keys of mmsegmentation 0.x that have no place in the present form."""

DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
    "progress": {"type": "ProgressHook"},
    "data_check": {"type": "DataCheckHook"},
    "symptoms": {"type": "SymptomHook"},
    "report": {"type": "ReportHook", "testing": False},
}
"""Hooks that every run has; ``default_hooks`` of a config changes them by name."""

USUAL_HOOKS = ("visualization",)
"""Further names that published configs have under ``default_hooks``."""
