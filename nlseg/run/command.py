"""What the commands add to a config, and how they end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from nlseg.config import load_config
from nlseg.errors import ConfigError, UserError, ending_at_the_user
from nlseg.files import flush_standard_streams
from nlseg.run import processes


def run(main: Callable[[], None]) -> None:
    """Run a command; a user's mistake is told once, without a traceback, with exit code 2.

    The process group is left before the interpreter ends: its threads would abort the process.
    """
    try:
        with ending_at_the_user():
            try:
                main()
                processes.stop()
            except (SystemExit, UserError):
                processes.stop()
                raise
            except RuntimeError as error:
                if lost := processes.lost(error, "at the start"):
                    raise lost from None
                raise
    finally:
        flush_standard_streams()


def training_config(
    path: str,
    *,
    work_dir: str | None = None,
    resume: str | bool | None = None,
    amp: bool = False,
    max_time: str | None = None,
    overrides: Sequence[str] = (),
    launcher: str = "none",
    allow_unknown: bool = False,
) -> Config:
    """Read a config for training and add what the command line says.

    Args:
        path: Config file.
        work_dir: Run folder; else the config's, else ``work_dirs/<name of the config>``.
        resume: True resumes from the newest checkpoint, a path from that one; None leaves it to the
            config.
        amp: Train in half precision.
        max_time: Stop in time, such as '3:50:00'.
        overrides: ``key=value`` strings.
        launcher: Who starts the processes.
        allow_unknown: Accept top-level keys that no part of a run reads.
    """
    cfg = load_config(path, overrides, allow_unknown=allow_unknown)
    cfg.launcher = launcher
    cfg.work_dir = _work_dir(cfg, path, work_dir)
    if resume is not None:
        cfg.resume = True
        if isinstance(resume, str):
            cfg.load_from = resume
        else:
            cfg.load_from = None  # weights to begin with are of no use to a resumed run
    if amp:
        use_half_precision(cfg)
    if max_time is not None:
        cfg.max_time = max_time
    return cfg


def use_half_precision(cfg: Config) -> None:
    """Turn the optimizer wrapper into its half precision form.

    Raises:
        ConfigError: The config has a wrapper of its own, of which nothing is known.
    """
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise ConfigError(f"optim_wrapper.type: --amp replaces OptimWrapper only, not {kind}")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def evaluation_config(
    path: str,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    amp: bool = False,
    overrides: Sequence[str] = (),
    launcher: str = "none",
    allow_unknown: bool = False,
) -> Config:
    """Read a config for a test and add what the command line says.

    Args:
        path: Config file.
        checkpoint: Weights: file, https address or published name.
        work_dir: Folder for logs.
        out: Folder for predicted label maps.
        show_dir: Folder for a picture of every image.
        tta: Average over several scales and flips.
        amp: Predict in half precision.
        overrides: ``key=value`` strings.
        launcher: Who starts the processes.
        allow_unknown: Accept top-level keys that no part of a run reads.
    """
    cfg = load_config(path, overrides, allow_unknown=allow_unknown)
    cfg.launcher = launcher
    cfg.work_dir = _work_dir(cfg, path, work_dir)
    cfg.load_from, cfg.resume = checkpoint, False
    if tta:
        use_test_time_augmentation(cfg)
    if out is not None:
        write_predictions(cfg, out)
    if show_dir is not None:
        show_every_image(cfg, show_dir)
    if amp:
        cfg.test_cfg.fp16 = True
    return without_training(cfg)


def without_training(cfg: Config) -> Config:
    """Take out of a config what a test does not need, so that it builds without training data."""
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        cfg[key] = None
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        cfg[key] = None
    return cfg


def use_test_time_augmentation(cfg: Config) -> None:
    """Wrap the model and swap the innermost test pipeline.

    Raises:
        ConfigError: The config has no ``tta_pipeline`` or ``tta_model``.
    """
    for key in ("tta_pipeline", "tta_model"):
        if key not in cfg:
            raise ConfigError(f"{key}: not in the config, but --tta needs it; see configs/_base_")
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    for part in dataset.get("datasets", [dataset]):
        part.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def write_predictions(cfg: Config, folder: str) -> None:
    """Let the test's evaluators write the predicted label maps into a folder."""
    for evaluator in _evaluators(cfg.test_evaluator):
        evaluator.update(output_dir=folder)
        if evaluator.type.rpartition(".")[2] == "CityscapesMetric":
            evaluator.update(keep_results=True)


def show_every_image(cfg: Config, folder: str) -> None:
    """Let the visualization hook write a picture of every image into a folder."""
    hooks = cfg.setdefault("default_hooks", {})
    hook = hooks.setdefault("visualization", {"type": "SegVisualizationHook"})
    hook.update(draw=True, interval=1, show_dir=folder)


def _evaluators(evaluator: Any) -> list[Any]:
    if isinstance(evaluator, (list, tuple)):
        return list(evaluator)
    return _evaluators(evaluator.metrics) if "metrics" in evaluator else [evaluator]


def _work_dir(cfg: Config, path: str, work_dir: str | None) -> str:
    return work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(path).stem)
