"""The parts of a run, each built from its place in the config; the runner puts them together."""

import copy
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.optim import OptimWrapper as MMOptimWrapper
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import BaseLoop, LogProcessor, get_priority
from mmengine.runner import Runner as MMRunner
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from mmengine.utils import ManagerMixin
from mmengine.visualization import Visualizer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from nlseg.errors import ConfigError, UserError
from nlseg.ops.synchronized_norm import never_wait
from nlseg.registry import (
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPERS,
    PARAM_SCHEDULERS,
    VISUALIZERS,
)
from nlseg.run import processes
from nlseg.run.back_ends import guarded_back_ends
from nlseg.run.control import CloseUserLoop, OpenUserLoop
from nlseg.run.device import prefer_fused, revert_sync_batchnorm
from nlseg.run.loaders import clean_loader_config
from nlseg.run.logs import for_console, guard_handlers
from nlseg.run.loop import TrainLoop
from nlseg.run.processes import Agreement
from nlseg.run.protocol import RunnerProtocol
from nlseg.run.step import OptimWrapper
from nlseg.weights.pretrained import use_own_reader

_TOGETHER = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)


def check_complete(parts: Mapping[str, Any]) -> None:
    """Refuse a config that has a loop without its data, or data without their loop.

    Args:
        parts: The arguments of a runner by name.

    Raises:
        ConfigError: Some of the keys that go together are missing.
    """
    for names in _TOGETHER:
        missing = [name for name in names if parts[name] is None]
        if missing and len(missing) < len(names):
            given = " and ".join(name for name in names if name not in missing)
            raise ConfigError(f"{missing[0]}: needed beside {given}; give all of them or none")
    if parts["param_scheduler"] is not None and parts["optim_wrapper"] is None:
        raise ConfigError("param_scheduler: there is no optim_wrapper whose rates it could change")


def refuse_unknown_overrides(cls: type, runner: type) -> None:
    """Refuse a method of a runner's child that mmengine's runner would call and ours does not.

    Raises:
        ConfigError: Names the method.
    """
    for name, value in vars(cls).items():
        if callable(value) and hasattr(MMRunner, name) and not hasattr(runner, name):
            raise ConfigError(
                f"{cls.__name__}.{name}: nlseg's runner calls no such method, so that this one "
                "would be ignored"
            )


def dump_config(cfg: Config, folder: Path, default: str) -> None:
    """Write the resolved config into a folder, but never over the file it comes from.

    Args:
        cfg: The config.
        folder: Where.
        default: Its name, where it comes from no file.

    Raises:
        UserError: The folder cannot be written to.
    """
    source = Path(cfg.filename or default)
    if processes.is_main() and source.resolve() != (folder / source.name).resolve():
        try:
            cfg.dump(folder / source.name)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written to: {error.strerror}") from None


def unused_name(name: str, kind: type[ManagerMixin]) -> str:
    """Return a name that no object of a kind has in this process, ``name`` where that is free.

    mmengine returns the object of an earlier run for its name, and with it that run's files.
    """
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(one for one in names if not kind.check_instance_created(one))


def enter_scope(name: str, scope: str | None) -> DefaultScope | None:
    """Let names in configs mean, from now on, those of a registry scope first."""
    return None if scope is None else DefaultScope.get_instance(name, scope_name=scope)


def build_logger(name: str, file: Path, level: int | str) -> MMLogger:
    """Build the log of a run, which mmengine knows by its name; the terminal gets less of it."""
    logger = MMLogger.get_instance(name=name, log_file=str(file), log_level=level, file_mode="a")
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(for_console)
    guard_handlers(logger)
    return logger


def build_log_processor(config: LogProcessor | Mapping[str, Any] | None) -> LogProcessor:
    """Build what turns scalars into log lines."""
    if isinstance(config, LogProcessor):
        return config
    return LOG_PROCESSORS.build({"type": "LogProcessor", **(config or {})})


def build_visualizer(
    config: Visualizer | Mapping[str, Any] | None, name: str, folder: str, logger: MMLogger
) -> Visualizer:
    """Build the visualizer, whose back ends cannot end a run.

    Args:
        config: Its config; one that is built is returned as it is.
        name: Where the config gives none.
        folder: Where its back ends write.
        logger: Told of the first failure of each.
    """
    if isinstance(config, Visualizer):
        return config
    if config is None:
        config = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    settings = {"name": name, "save_dir": folder, **config}
    settings["name"] = unused_name(settings["name"], Visualizer)
    if settings.get("vis_backends"):
        settings["vis_backends"] = guarded_back_ends(settings["vis_backends"], logger.warning)
    return VISUALIZERS.build(settings)


def with_preprocessor(model: Any, data_preprocessor: Mapping[str, Any] | None) -> Any:
    """Give a network's config the preprocessor, unless it has one."""
    if data_preprocessor is None or not isinstance(model, Mapping):
        return model
    return {"data_preprocessor": data_preprocessor, **model}


def build_model(model: nn.Module | Mapping[str, Any]) -> nn.Module:
    """Build the network from its config."""
    built: nn.Module = model if isinstance(model, nn.Module) else MODELS.build(dict(model))
    return built


def wrap_model(
    model: nn.Module, cfg: Config, wrapper: Mapping[str, Any] | None, *, distributed: bool
) -> nn.Module:
    """Bring a network to its device and, with several processes, wrap it.

    Args:
        model: The network.
        cfg: ``channels_last`` and ``find_unused_parameters`` are read.
        wrapper: Config of another wrapper than DistributedDataParallel.
        distributed: Whether a launcher started the processes.
    """
    if is_model_wrapper(model):
        return model
    model = model.to(processes.device())
    if processes.world_size() == 1 or processes.device().type == "cpu":
        model = revert_sync_batchnorm(model)
    never_wait(model)
    if cfg.get("channels_last"):
        to_layout: Any = model.to
        model = to_layout(memory_format=torch.channels_last)
    if not distributed:
        return model
    if wrapper is None:
        return processes.wrap(
            model, find_unused_parameters=bool(cfg.get("find_unused_parameters", False))
        )
    config = {"type": "MMDistributedDataParallel", **wrapper}
    kind = MODEL_WRAPPERS.get(config["type"]) if isinstance(config["type"], str) else config["type"]
    given: dict[str, Any] = {"module": model}
    if isinstance(kind, type) and issubclass(kind, DistributedDataParallel):
        given["device_ids"] = processes.device_ids()
    wrapped: nn.Module = MODEL_WRAPPERS.build(config, default_args=given)
    return wrapped


def init_weights(model: nn.Module) -> None:
    """Let a network fill its parameters, the same on all processes."""
    network = processes.unwrap(model)
    use_own_reader(network)
    if hasattr(network, "init_weights"):
        network.init_weights()  # type: ignore[operator]
        processes.share_state(network)


def turn_on_options(model: nn.Module, cfg: Config) -> None:
    """Turn on what mmengine offers by a top-level key of the config."""
    network = processes.unwrap(model)
    if modules := cfg.get("activation_checkpointing"):
        turn_on_activation_checkpointing(network, modules)
    if modules := cfg.get("efficient_conv_bn_eval"):
        turn_on_efficient_conv_bn_eval(network, modules)


def build_dataloader(config: DataLoader | Mapping[str, Any], seed: int | None) -> DataLoader:
    """Build a loader whose workers outlive a signal."""
    if isinstance(config, DataLoader):
        return config
    loader: DataLoader = MMRunner.build_dataloader(clean_loader_config(config), seed)
    return loader


def build_train_loop(runner: RunnerProtocol, config: Any, loader: Any) -> BaseLoop:
    """Build the training loop.

    Args:
        runner: The runner.
        config: The loop, or its config: ``type``, or ``by_epoch`` in its place, and its arguments.
        loader: The training loader or its config.

    Raises:
        ConfigError: Both ``type`` and ``by_epoch`` are given, or the loop cannot do what the
            config asks for.
    """
    if isinstance(config, BaseLoop):
        return config
    settings = dict(config)
    by_epoch = settings.pop("by_epoch", None)
    if by_epoch is not None and "type" in settings:
        raise ConfigError("train_cfg.by_epoch: stands in place of type; give one of them")
    epochs = "max_epochs" in settings if by_epoch is None else by_epoch
    settings.setdefault("type", "EpochBasedTrainLoop" if epochs else "IterBasedTrainLoop")
    loop = LOOPS.build(
        settings, default_args={"runner": runner, "dataloader": _built_loader(runner, loader)}
    )
    if not isinstance(loop, TrainLoop):
        _join_user_loop(runner, loop)
    return loop


def build_eval_loop(
    runner: RunnerProtocol, config: Any, default: str, loader: Any, evaluator: Any
) -> BaseLoop:
    """Build a validation or test loop.

    Args:
        runner: The runner.
        config: The loop or its config.
        default: Its ``type`` where the config names none.
        loader: The loader or its config.
        evaluator: The evaluator or its config.
    """
    if isinstance(config, BaseLoop):
        return config
    parts = {"dataloader": _built_loader(runner, loader), "evaluator": evaluator}
    return LOOPS.build({"type": default, **config}, default_args={"runner": runner, **parts})


def _built_loader(runner: RunnerProtocol, loader: Any) -> Any:
    """Build a loader before its loop, as mmengine's loops would ask a runner for private names."""
    single = isinstance(loader, Mapping) and "dataset" in loader
    return runner.build_dataloader(loader, seed=runner.seed) if single else loader


def _join_user_loop(runner: RunnerProtocol, loop: BaseLoop) -> None:
    """Let hooks do for a training loop of the user's own what nlseg's loops do themselves."""
    if runner.cfg.get("non_finite", {}).get("policy") == "rollback":
        raise ConfigError(
            f"non_finite.policy: {type(loop).__name__} cannot roll back; choose 'stop' or 'skip', "
            "or train with IterBasedTrainLoop or EpochBasedTrainLoop"
        )
    runner.register_hook(OpenUserLoop())
    runner.register_hook(CloseUserLoop())


def build_wrapper(model: nn.Module, config: Any, agreement: Agreement) -> MMOptimWrapper:
    """Build the optimizer wrapper, which asks all processes before each step if it is ours.

    Args:
        model: The network whose parameters are trained.
        config: A wrapper, the config of one, or built wrappers by name.
        agreement: How all processes are asked.
    """
    wrapper = _wrapper_of(model, config)
    if isinstance(wrapper, OptimWrapper):
        wrapper.agreement = agreement
    return wrapper


def _wrapper_of(model: nn.Module, config: Any) -> MMOptimWrapper:
    if isinstance(config, MMOptimWrapper):
        return config
    config = prefer_fused(dict(config))
    if isinstance(config.get("optimizer"), Optimizer):
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **config})
    if config.get("optimizer") is not None or "constructor" in config:
        return build_optim_wrapper(model, config)
    if not all(isinstance(part, MMOptimWrapper) for part in config.values()):
        raise ConfigError("optim_wrapper.optimizer: missing, and no constructor is named")
    return OptimWrapperDict(**OrderedDict(config))


def scale_rates(
    wrapper: MMOptimWrapper, config: Mapping[str, Any] | None, batch_total: int, logger: MMLogger
) -> None:
    """Scale the learning rates with the batch size, where ``auto_scale_lr`` is enabled.

    Args:
        wrapper: The optimizer wrapper; to be called before schedulers are built.
        config: ``auto_scale_lr``.
        batch_total: Samples of one iteration over all processes.
        logger: Told what is done.

    Raises:
        ConfigError: The batch size that the rates are meant for is not given.
    """
    if not config or not config.get("enable", False):
        return
    if "base_batch_size" not in config:
        raise ConfigError("auto_scale_lr.base_batch_size: needed where enable is True")
    ratio = batch_total / config["base_batch_size"]
    logger.info(
        f"learning rates are meant for a batch of {config['base_batch_size']} and are scaled by "
        f"{ratio:g} for one of {batch_total}"
    )
    parts = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    for group in [group for part in parts for group in part.optimizer.param_groups]:
        group["lr"] = group["lr"] * ratio


def build_schedulers(config: Any, wrapper: MMOptimWrapper, runner: RunnerProtocol) -> Any:
    """Build parameter schedulers: a list, or by the names of several optimizers a dict of lists.

    Args:
        config: One scheduler or a list of them, or these by the names of the optimizers.
        wrapper: The optimizer wrapper.
        runner: Its lengths of training are where a scheduler ends that does not say so.
    """
    if not isinstance(wrapper, OptimWrapperDict):
        return _schedulers_of(config, wrapper, runner)
    by_name = isinstance(config, Mapping) and "type" not in config
    return {
        name: _schedulers_of(config[name] if by_name else config, part, runner)
        for name, part in wrapper.items()
    }


def _schedulers_of(config: Any, wrapper: Any, runner: RunnerProtocol) -> list[Any]:
    built = []
    for item in config if isinstance(config, Sequence) else [config]:
        if isinstance(item, Mapping):
            by_epoch = item.get("by_epoch", True)
            end = runner.max_epochs if by_epoch else runner.max_iters
            given = {"optimizer": wrapper, "epoch_length": len(runner.train_dataloader)}
            item = PARAM_SCHEDULERS.build({"end": end, **copy.deepcopy(item)}, default_args=given)
        built.append(item)
    return built


def build_evaluator(config: Any) -> Evaluator:
    """Build an evaluator from the config of one metric or a list of them."""
    if isinstance(config, Evaluator):
        return config
    if isinstance(config, Mapping) and "metrics" in config:
        return EVALUATOR.build({"type": "Evaluator", **config})
    return Evaluator(config)


def insert_hook(
    hooks: list[Hook], hook: Hook | Mapping[str, Any], priority: str | int | None = None
) -> None:
    """Put a hook into a list behind those of the same priority.

    Args:
        hooks: In the order in which they are called; changed in place.
        hook: The hook or its config, which may hold a ``priority``.
        priority: Name or number from 0, called first, to 100; before that of the config.
    """
    if isinstance(hook, Mapping):
        config = dict(copy.deepcopy(hook))
        given = config.pop("priority", None)
        hook = HOOKS.build(config)
        priority = given if priority is None else priority
    if not isinstance(hook, Hook):
        raise TypeError(f"a hook is a Hook or the config of one, not {hook!r}")
    if priority is not None:
        hook.priority = priority
    own = get_priority(hook.priority)
    later = (i for i, other in enumerate(hooks) if get_priority(other.priority) > own)
    hooks.insert(next(later, len(hooks)), hook)
