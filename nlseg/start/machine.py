"""What a training step of each candidate takes on this machine, and which weights can be read."""

import copy
import warnings
from collections.abc import Sequence

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from nlseg.config import load_config
from nlseg.errors import CheckpointError
from nlseg.plan.dry_run import describe_device
from nlseg.plan.training_step import StepProbe, drawn_batch
from nlseg.registry import MODELS, SCOPE
from nlseg.run import processes
from nlseg.run.device import revert_sync_batchnorm
from nlseg.start.choose import MEGA, ON_CPU, ON_GPU, Backbone, Measured
from nlseg.start.writing import narrow_model
from nlseg.weights.downloads import locate

_SIDE, _IMAGES = 128, 2
_STEPS = 2


def candidates() -> tuple[Backbone, ...]:
    """Return the backbones to choose from on this machine, the strongest first."""
    return ON_GPU if processes.device().type == "cuda" else ON_CPU


def measure_machine(
    backbones: Sequence[Backbone], num_classes: int, *, fetch: bool = True
) -> Measured:
    """Take training steps of each backbone on drawn images.

    Args:
        backbones: The candidates.
        num_classes: Of the data.
        fetch: Whether published weights may be fetched.
    """
    processes.start("none")
    device = processes.device()
    rates = {}
    DefaultScope.get_current_instance() or DefaultScope.get_instance(
        "nlseg_start", scope_name=SCOPE
    )
    for backbone in backbones:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again, at their place, when it trains
            probe = _probe(backbone, num_classes, device)
        inputs, samples = drawn_batch(_IMAGES, (_SIDE, _SIDE), num_classes, device)
        seconds = min(probe.measure(inputs, samples).seconds for _ in range(_STEPS))
        rates[backbone.name] = seconds / (_IMAGES * _SIDE * _SIDE / MEGA)
    usable, why_not = readable_weights(backbones, fetch=fetch)
    name = describe_device(device) if device.type == "cuda" else "CPU"
    return Measured(name, rates, usable, why_not)


def _probe(backbone: Backbone, num_classes: int, device: torch.device) -> StepProbe:
    config = copy.deepcopy(load_config(backbone.base, check=False))
    config.merge_from_dict({"model": narrow_model(backbone, num_classes)})
    config.model.pretrained = None
    model = revert_sync_batchnorm(MODELS.build(config.model)).to(device)
    return StepProbe(model, build_optim_wrapper(model, config.optim_wrapper))


def readable_weights(backbones: Sequence[Backbone], *, fetch: bool) -> tuple[frozenset[str], str]:
    """Return the backbones whose published weights are here or can be fetched, and why others not.

    Args:
        backbones: The candidates.
        fetch: Whether to look at all.
    """
    if not fetch:
        return frozenset(), "--from-scratch"
    usable, why_not = set(), ""
    for backbone in backbones:
        if backbone.weights is None or why_not:
            continue
        try:
            locate(backbone.weights)
        except CheckpointError as error:
            why_not = str(error).partition("\n")[0]
        else:
            usable.add(backbone.name)
    return frozenset(usable), why_not
