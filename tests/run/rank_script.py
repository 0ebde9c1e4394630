"""What each of two processes does in tests of two processes."""

import atexit
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from nlseg.errors import ConfigError
from nlseg.models.residual import BasicBlock
from nlseg.ops.synchronized_norm import SynchronizedNorm, never_wait
from nlseg.run import processes
from tests.run.processes import kernels
from tests.run.runs import go_on, interrupt, train
from tests.run.toy import ToyData, ToyModel, toy_config

AMP = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.dtype": "bfloat16"}
EMA = {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
BEST = {"default_hooks.checkpoint.save_best": "mIoU", "default_hooks.checkpoint.max_keep_ckpts": 1}
EPOCHS = {
    "train_cfg": {"_delete_": True, "type": "EpochBasedTrainLoop", "max_epochs": 2},
    "train_dataloader.sampler.type": "DefaultSampler",
    "param_scheduler": [{"type": "MultiStepLR", "milestones": [1], "by_epoch": True}],
    "default_hooks.checkpoint": {"type": "CheckpointHook", "by_epoch": True, "interval": 1},
}


def accumulate(count: int) -> dict[str, Any]:
    """Take a step every ``count`` iterations."""
    return {"optim_wrapper.accumulative_counts": count}


MANY_IMAGES = {"val_dataloader.batch_size": 1, "val_dataloader.dataset.size": 30}
INTERRUPTED: dict[str, tuple[int, bool, dict[str, Any]]] = {
    "bf16": (6, False, AMP),
    "amid an accumulation": (4, False, accumulate(2)),
    "amid an epoch": (2, False, EPOCHS),
    "amid an epoch and an accumulation": (8, False, {**EPOCHS, **accumulate(5), **AMP}),
    "in validation": (8, True, {**MANY_IMAGES, **EMA}),
    "all": (6, False, {**EMA, **AMP, **accumulate(2), **BEST}),
}
"""Name -> iteration (from 0) in which the signal comes, whether in a validation, settings."""


def collectives() -> None:
    if os.environ["RANK"] == "1":
        time.sleep(1)  # a slow one is waited for
    processes.start("pytorch", timeout_s=60)
    rank = processes.rank()
    assert processes.device().type == "cpu"
    assert processes.broadcast_text("from zero" if rank == 0 else "other") == "from zero"
    assert processes.broadcast_text("") == ""
    assert processes.any_of(rank == 1)
    assert not processes.any_of(False)
    counts = processes.sum_over_ranks(torch.tensor([2**40, rank]))
    assert counts.tolist() == [2**41, 1]
    processes.stop()


def norms() -> None:
    """Normalize some of 4 images here and the others there, and compare with one norm of all."""
    processes.start("pytorch", timeout_s=60)
    for numbers in ((3, 1), (4, 0), (0, 4)):
        _compare_norms(numbers, _layer)
        _compare_norms(
            numbers, lambda norm: torch.compile(norm, fullgraph=True, backend="aot_eager")
        )
        _compare_norms(numbers, _kernels)
    _compare_computed_again()
    for way in (_layer, _kernels):
        norm = nn.SyncBatchNorm(6)
        norm.running_mean.fill_(0.3)
        never_wait(norm)
        x = torch.ones(0, 6, 5, 7, requires_grad=True)
        way(norm)(x).sum().backward()
        assert x.grad is not None
        assert norm.running_mean.eq(torch.tensor(0.3)).all()
        assert norm.running_var.eq(1).all()
        assert way(norm.eval())(x).shape == x.shape
    processes.stop()


def _compare_norms(numbers: tuple[int, int], way: Callable[[Any], Any]) -> None:
    """Compare outputs, gradients and running statistics of two steps.

    Args:
        numbers: How many of the 4 images each process has.
        way: Makes the function that normalizes out of a synchronized norm.
    """
    generator = torch.Generator().manual_seed(0)
    images, noise, drawn = torch.randn(3, 4, 6, 5, 7, dtype=torch.float64, generator=generator)
    own = slice(0, numbers[0]) if processes.rank() == 0 else slice(numbers[0], 4)
    whole, part = nn.BatchNorm2d(6).double(), nn.SyncBatchNorm(6).double()
    for layer in (whole, part):
        layer.weight.data, layer.bias.data = drawn[0, :, 0, 0], drawn[1, :, 0, 0]
    never_wait(part)
    call = way(part)
    for _ in range(2):
        x, x_own = images.clone().requires_grad_(), images[own].clone().requires_grad_()
        y, y_own = whole(x), call(x_own)
        grads = torch.autograd.grad((y * noise).sum(), (x, whole.weight, whole.bias))
        grad_own, *others = torch.autograd.grad(
            (y_own * noise[own]).sum(), (x_own, part.weight, part.bias)
        )
        torch.testing.assert_close(y_own, y[own])
        torch.testing.assert_close(grad_own, grads[0][own])
        for all_ranks, expected in zip(others, grads[1:], strict=True):
            torch.testing.assert_close(processes.sum_over_ranks(all_ranks), expected)
    torch.testing.assert_close(part.state_dict(), whole.state_dict())


def _compare_computed_again() -> None:
    """Compare a block that is computed again in the backward pass with one that is not."""
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(processes.rank()))
    x.requires_grad_()
    plain = BasicBlock(4, 4, norm_cfg={"type": "SyncBN"})
    again = BasicBlock(4, 4, norm_cfg={"type": "SyncBN"}, with_cp=True)
    again.load_state_dict(plain.state_dict())
    grads = []
    for block in (plain, again):
        never_wait(block)
        grads.append(torch.autograd.grad(block(x).square().sum(), (x, *block.parameters())))
    torch.testing.assert_close(grads[1], grads[0])
    norm, noise = nn.SyncBatchNorm(4), torch.randn_like(x)
    call = _kernels(norm)
    for way in (call, partial(checkpoint, call, use_reentrant=False)):
        loss = (way(x) * noise).sum()
        grads.append(torch.autograd.grad(loss, (x, *norm.parameters())))
    torch.testing.assert_close(grads[3], grads[2])
    torch.testing.assert_close(again.state_dict(), plain.state_dict())


def _layer(norm: Any) -> Any:
    return norm


def _kernels(norm: Any) -> Any:
    """Run what a GPU runs, with the formulas of its kernels in their place."""
    for name in ("stats", "gather_stats_with_counts", "elemt", "backward_reduce", "backward_elemt"):
        setattr(torch, f"batch_norm_{name}", getattr(kernels, name))

    def call(x: torch.Tensor) -> Any:
        if not norm.training:
            return norm(x)
        norm.num_batches_tracked.add_(1)
        apply: Any = SynchronizedNorm.apply
        return apply(
            x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps,
            norm.momentum, dist.group.WORLD, 2,
        )  # fmt: skip

    return call


def training(folder: str, launcher: str, batch_size: str) -> None:
    torch.set_num_threads(1)
    config = toy_config(
        Path(folder), iters=4, launcher=launcher,
        **{
            "train_dataloader.batch_size": int(batch_size), "model.dropout": 0.0,
            "model.use_norm": False, "model.sync": True, "default_hooks.logger.interval": 1,
            "log_processor.window_size": 1,
        },
    )  # fmt: skip
    runner = train(config)
    losses = runner.message_hub.get_scalar("train/loss").last(4)
    print("LOSSES", *losses)
    processes.stop()
    _print_threads()
    assert runner.model is not None  # so that it, which owns the group, was there until now


def leaving(folder: str) -> None:
    """Train as a user's own script does, which ends without another word."""
    torch.set_num_threads(1)
    atexit.register(_print_threads)  # comes after what is registered later
    runner = train(two_of(Path(folder)))
    assert runner.model is not None


def _print_threads() -> None:
    print("THREADS", *(file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")))


def two_of(folder: Path, **changes: Any) -> Any:
    """Make the config of one of two processes with 2 samples each."""
    return toy_config(folder, launcher="pytorch", **{"train_dataloader.batch_size": 2, **changes})


def resuming(folder: str, begun_by_one: str, log: str) -> None:
    """Train every setting whole, and in two parts of which rank 1 alone is asked to stop.

    Before that, go on with a run that one process began.
    """
    torch.set_num_threads(1)
    go_on(two_of(Path(begun_by_one), **{"train_dataloader.dataset.log": log}))
    for name, (at, validation, changes) in INTERRUPTED.items():
        train(two_of(Path(folder, name, "whole"), **changes))
        parts = two_of(Path(folder, name, "parts"), **changes)
        interrupt(parts, at, validation=validation, rank=1)
        go_on(parts)
    processes.stop()


def disagreeing(folder: str) -> None:
    """Give rank 1 another config, then other data, then another file to begin with."""
    torch.set_num_threads(1)
    last = os.environ["RANK"] == "1"
    _refused(two_of(Path(folder, "config"), **({"model.dropout": 0.5} if last else {})))
    whole = ToyData.__len__
    ToyData.__len__ = lambda data: whole(data) - last  # type: ignore[method-assign]
    _refused(two_of(Path(folder, "data")))
    ToyData.__len__ = whole  # type: ignore[method-assign]
    torch.manual_seed(int(last))
    own = Path(folder, "disk of one", os.environ["RANK"])
    own.mkdir(parents=True)
    os.chdir(own)
    torch.save({"state_dict": ToyModel().state_dict()}, "weights.pth")
    config = two_of(Path(folder, "weights"))
    config.load_from = "weights.pth"
    _refused(config)
    processes.stop()


def _refused(config: Any) -> None:
    try:
        train(config)
    except ConfigError as error:
        print(error)
    else:
        raise AssertionError("was not refused")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
