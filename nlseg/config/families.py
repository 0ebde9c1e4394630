"""Which registry the ``type`` at a place of a config is looked up in."""

from collections.abc import Callable
from typing import Any

import mmengine.runner  # noqa: F401  registers hooks, loops and log processors
from mmengine import registry as theirs
from mmengine.registry import Registry

from nlseg import registry as ours
from nlseg.config.origin import KeyPath

FAMILIES: dict[str, Registry] = {
    "auxiliary_head": ours.MODELS,
    "backbone": ours.MODELS,
    "batch_sampler": ours.DATA_SAMPLERS,
    "collate_fn": ours.FUNCTIONS,
    "custom_hooks": ours.HOOKS,
    "dataset": ours.DATASETS,
    "datasets": ours.DATASETS,
    "decode_head": ours.MODELS,
    "default_hooks": ours.HOOKS,
    "init_cfg": ours.WEIGHT_INITIALIZERS,
    "log_processor": ours.LOG_PROCESSORS,
    "loss_decode": ours.MODELS,
    "metrics": ours.METRICS,
    "model": ours.MODELS,
    "model_wrapper_cfg": ours.MODEL_WRAPPERS,
    "neck": ours.MODELS,
    "optim_wrapper": ours.OPTIM_WRAPPERS,
    "optimizer": ours.OPTIMIZERS,
    "param_scheduler": ours.PARAM_SCHEDULERS,
    "pipeline": ours.TRANSFORMS,
    "test_evaluator": ours.METRICS,
    "transforms": ours.TRANSFORMS,
    "tta_model": ours.MODELS,
    "tta_pipeline": ours.TRANSFORMS,
    "val_evaluator": ours.METRICS,
    "vis_backends": ours.VISBACKENDS,
    "visualizer": ours.VISUALIZERS,
    "worker_init_fn": ours.FUNCTIONS,
}
LOOP_KEYS = ("train_cfg", "val_cfg", "test_cfg")
DEFAULT_TYPES = {
    "log_processor": "LogProcessor",
    "optim_wrapper": "OptimWrapper",
    "test_cfg": "TestLoop",
    "val_cfg": "ValLoop",
}


def default_type(path: KeyPath, value: dict[str, Any]) -> str | None:
    """Return what a dict at the top level builds when it names no type, None for other dicts."""
    if path == ("train_cfg",):
        counts_epochs = value.get("by_epoch", "max_epochs" in value)
        return "EpochBasedTrainLoop" if counts_epochs else "IterBasedTrainLoop"
    return DEFAULT_TYPES.get(str(path[0])) if len(path) == 1 else None


def family_at(path: KeyPath, around: Registry | None) -> Registry | None:
    """Return the registry for the value at a path.

    Args:
        path: Where the value stands.
        around: Registry of what holds the value.

    Returns:
        The registry, or None where nothing is built.
    """
    key = path[-1]
    if len(path) == 1 and key in LOOP_KEYS:
        return ours.LOOPS
    if path[0] == "default_hooks":
        return ours.HOOKS
    if key == "sampler":
        in_loader = str(path[0]).endswith("_dataloader")
        return ours.DATA_SAMPLERS if in_loader else ours.TASK_UTILS
    return FAMILIES.get(str(key), around) if isinstance(key, str) else around


def find_class(kind: Any, registry: Registry) -> Callable[..., Any] | None:
    """Return what a ``type`` names.

    Args:
        kind: A registered name, a dotted path to import, or a class itself.
        registry: Where to look; its parents are asked too.

    Returns:
        A class or function, None where there is none of that name.
    """
    if not isinstance(kind, str):
        return kind if callable(kind) else None
    found = registry.get(kind)
    if found is None and registry is ours.METRICS:
        found = ours.EVALUATOR.get(kind)
    return found if callable(found) else None


def registries() -> list[Registry]:
    """List all registries of ours and then those of mmengine, their modules imported."""
    found = [
        registry
        for module in (ours, theirs)
        for registry in vars(module).values()
        if isinstance(registry, Registry)
    ]
    for registry in found:
        registry.import_from_location()
    return found


def find_anywhere(kind: Any) -> tuple[Callable[..., Any], Registry] | None:
    """Return what a ``type`` names in whichever registry holds it, and the registry.

    Args:
        kind: A registered name.
    """
    for registry in registries():
        found = find_class(kind, registry)
        if found is not None:
            return found, registry
    return None


def names_anywhere() -> list[str]:
    """List the names in all registries."""
    return sorted({name for registry in registries() for name in registry.module_dict})


PARTS = {
    "auxiliary_head": ("model", "nlseg.models.heads"),
    "decode_head": ("model", "nlseg.models.heads"),
    "loss_decode": ("loss", "nlseg.models.losses"),
}
"""Parts of a model that have a kind of their own, and the package of ours that holds it."""


MOSTLY_THEIRS = (ours.FUNCTIONS, ours.MODEL_WRAPPERS, ours.OPTIMIZERS, ours.WEIGHT_INITIALIZERS)
"""Registries that offer mmengine's names; ours has few of its own, or a user's alone."""


def is_family_key(path: KeyPath) -> bool:
    """Return whether the key at a path, or of the list there, says which registry is meant."""
    return _last_name(path) in FAMILIES


def _last_name(path: KeyPath) -> str:
    return [key for key in path if isinstance(key, str) and key != "type"][-1]


def names_for(path: KeyPath, registry: Registry) -> tuple[str, list[str], list[str]]:
    """List what may be meant at a place.

    Args:
        path: Where a name stands.
        registry: Where it is looked up.

    Returns:
        What kind of thing is wanted, nlseg's own names of that kind (all names, where it has none),
        and all names of the registry, its parents' included.
    """
    registry.import_from_location()
    own = dict(registry.module_dict)
    every = set(own)
    parent = registry.parent
    while parent is not None:
        parent.import_from_location()
        every.update(parent.module_dict)
        parent = parent.parent
    kind, package = PARTS.get(_last_name(path), (registry.name, ""))
    offered = {} if registry in MOSTLY_THEIRS else own
    listed = [name for name, found in offered.items() if found.__module__.startswith(package)]
    return kind, sorted(listed or every), sorted(every)
