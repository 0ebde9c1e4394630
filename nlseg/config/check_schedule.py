"""Do the numbers that count iterations or epochs fit the length of the run?"""

from collections.abc import Iterator
from typing import Any

from nlseg.config.families import find_class
from nlseg.config.origin import KeyPath
from nlseg.config.parts import Problem, error, parts_below, warning
from nlseg.config.places import at
from nlseg.registry import OPTIMIZERS, PARAM_SCHEDULERS


def check_schedule(config: Any) -> Iterator[Problem]:
    """Compare train loop, learning rate schedule, sampler, validation, checkpoints and log.

    Args:
        config: A resolved config.

    Yields:
        Errors and warnings.
    """
    yield from _check_optimizer(config)
    loop = config.get("train_cfg")
    if not isinstance(loop, dict):
        return
    by_epoch = loop.get("max_iters") is None
    length = loop.get("max_epochs" if by_epoch else "max_iters")
    unit = "epochs" if by_epoch else "iterations"
    if not isinstance(length, int):
        return
    yield from _check_rates(config, length, by_epoch, unit)
    yield from _check_sampler(config, by_epoch)
    yield from _check_units(config, by_epoch, unit)
    interval = loop.get("val_interval", 1)
    if isinstance(interval, int) and interval > length and config.get("val_dataloader"):
        text = f"{interval}, but the run has {length} {unit}: it is validated at its end only"
        yield warning(("train_cfg", "val_interval"), text)


def _check_rates(config: Any, length: int, by_epoch: bool, unit: str) -> Iterator[Problem]:
    """Schedules count what the run counts, and the last of them ends with it."""
    ends = []
    for path, scheduler in parts_below(config.get("param_scheduler"), ("param_scheduler",)):
        yield from _check_rate(path, scheduler, by_epoch)
        end = scheduler.get("end")
        if end is not None and scheduler.get("by_epoch", True) == by_epoch:
            ends.append((end, path))
    if not ends or max(ends)[0] == length:
        return
    end, path = max(ends)
    then = "the rate stays where it is" if end < length else "the schedule is cut off"
    yield warning((*path, "end"), f"{end}, but the run has {length} {unit}: {then}")


def _check_rate(path: KeyPath, scheduler: Any, by_epoch: bool) -> Iterator[Problem]:
    counts_epochs = scheduler.get("by_epoch", True)
    if scheduler.get("convert_to_iter_based", False) and not (counts_epochs and by_epoch):
        yield error((*path, "convert_to_iter_based"), "wants by_epoch=True and a run in epochs")
    if counts_epochs and not by_epoch:
        text = "True, but the run counts iterations: the rate would never change"
        yield error((*path, "by_epoch"), text)
    begin, end = scheduler.get("begin", 0), scheduler.get("end")
    if end is not None and begin >= end:
        yield error((*path, "end"), f"{end}, but it begins at {begin}")
    lowest, own = scheduler.get("eta_min"), find_class(scheduler.get("type"), PARAM_SCHEDULERS)
    from_mmengine = getattr(own, "__module__", "").startswith("mmengine.")
    if from_mmengine and isinstance(lowest, (int, float)) and lowest < 0:
        yield error((*path, "eta_min"), f"a rate is at least 0, given {lowest}: it would climb")


def _check_optimizer(config: Any) -> Iterator[Problem]:
    """PyTorch's own optimizers refuse numbers below 0 when they are built: told before."""
    path: KeyPath = ("optim_wrapper", "optimizer")
    settings = at(config, path)
    if not isinstance(settings, dict):
        return
    own = find_class(settings.get("type"), OPTIMIZERS)
    if not getattr(own, "__module__", "").startswith("torch.optim."):
        return
    for name in ("lr", "momentum", "weight_decay"):
        given = settings.get(name)
        if isinstance(given, (int, float)) and given < 0:
            yield error((*path, name), f"wants values at least 0, given {given}")


def _check_sampler(config: Any, by_epoch: bool) -> Iterator[Problem]:
    """An endless sampler has no epochs, and no end in evaluation."""
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        path: KeyPath = (loader, "sampler", "type")
        endless = at(config, path) == "InfiniteSampler"
        if endless and (by_epoch or loader != "train_dataloader"):
            text = "InfiniteSampler never ends; use DefaultSampler where the data are walked once"
            yield error(path, text)


def _check_units(config: Any, by_epoch: bool, unit: str) -> Iterator[Problem]:
    """Hooks and log count what the run counts."""
    for path in (("default_hooks", "checkpoint"), ("log_processor",)):
        settings = at(config, path)
        if not isinstance(settings, dict):
            continue
        given = settings.get("by_epoch", True)
        if given != by_epoch:
            where: KeyPath = (*path, "by_epoch")
            what = "saves" if len(path) > 1 else "logs"
            yield warning(where, f"{given}, but the run counts {unit}: what it {what} is off")
