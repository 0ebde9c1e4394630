"""Whether checkpoints can be written, found out before the first iteration rather than at the end.

One real save is tried at its true size, and the room for all files that will lie side by side is
compared with what is free.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.optim import Optimizer

from nlseg.errors import UserError
from nlseg.files import try_writing
from nlseg.memory import free_memory
from nlseg.run.checkpoint import bytes_in

_ZEROS = bytes(1 << 20)
_MIB = 1 << 20
_REMEDY = "make room, keep fewer (max_keep_ckpts), or give checkpoint.out_dir another folder"


@dataclass(frozen=True)
class Budget:
    """What the checkpoints of a run need.

    Args:
        folder: Where they go.
        size: Bytes of one, as it will be once the optimizer has taken a step.
        missing: Bytes of these that the optimizer does not hold yet.
        kept: Periodic checkpoints that are kept.
        best: Best ones that are kept.
        present: Checkpoints that lie there already and will be replaced.
        more: Periodic ones that will be written beyond those that are kept.
        background: Whether a copy of the state is held in memory.
    """

    folder: Path
    size: int
    missing: int
    kept: int
    best: int
    present: int = 0
    more: int = 0
    background: bool = False

    @property
    def files(self) -> int:
        """Files that lie side by side at most: kept, best, and the one that is being written."""
        return self.kept + self.best + 1

    @property
    def needed(self) -> int:
        """Bytes that have to be free now."""
        return max(self.files - self.present, 1) * self.size

    def described(self) -> str:
        """Write the arithmetic down."""
        parts = [f"{self.kept} kept", *([f"{self.best} best"] if self.best else []), "1 new"]
        present = f" - {self.present} that are there" if self.present else ""
        return (
            f"checkpoints of {self.size / _MIB:.1f} MiB: {' + '.join(parts)}{present} need "
            f"{self.needed / _MIB:.1f} MiB in {self.folder}"
        )


def optimizer_growth(optimizer: Any) -> int:
    """Return how many bytes the state of an optimizer will grow by in its first step.

    Found by a step of another one of the same kind on a parameter of two numbers; where that is not
    possible, two numbers are counted for each parameter, as Adam keeps.
    """
    if not isinstance(optimizer, Optimizer):
        return 0
    growth = 0.0
    for group in optimizer.param_groups:
        waiting = [p for p in group["params"] if p.requires_grad and not optimizer.state.get(p)]
        growth += sum(map(bytes_in, waiting)) * (_copies_kept(optimizer, group) if waiting else 0)
    return int(growth)


def _copies_kept(optimizer: Optimizer, group: Mapping[str, Any]) -> int:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    settings = {k: v for k, v in group.items() if k in optimizer.defaults and k != "params"}
    kind: Any = type(optimizer)
    try:
        probe = kind([parameter], **{**settings, **dict.fromkeys({"fused"} & {*settings})})
        probe.step()
    except Exception:  # whatever somebody else's optimizer needs
        return 2
    kept = probe.state[parameter].values()
    return sum(isinstance(value, Tensor) and value.shape == parameter.shape for value in kept)


def check(budget: Budget, state: Mapping[str, Any]) -> str:
    """Try one save of the true size, and compare what all files need with what is free.

    Args:
        budget: What is needed.
        state: The checkpoint, were it to be written now; plain values.

    Returns:
        What was found, for the log.

    Raises:
        UserError: The save fails, or not all files find room.
    """
    free = shutil.disk_usage(budget.folder).free
    started = time.monotonic()
    if free >= budget.size:  # else the arithmetic says more than the error of a save would
        _try_a_save(budget, state)
    took = time.monotonic() - started
    if free < budget.needed:
        raise UserError(f"{budget.described()}, but {free / _MIB:.1f} MiB are free; {_REMEDY}")
    memory = free_memory()
    if budget.background and memory is not None and memory < budget.size:
        raise UserError(
            f"checkpoint.background: the copy of the state in memory needs "
            f"{budget.size / _MIB:.1f} MiB, but {memory / _MIB:.1f} MiB are free; leave it out"
        )
    found = f"{budget.described()}, {free / _MIB:.1f} MiB are free; a trial save took {took:.1f} s"
    room, planned = free // max(budget.size, 1) - budget.best - 1, budget.kept + budget.more
    if budget.more and room < planned:
        found += f"; there is room for {room} of the {planned} to come: set max_keep_ckpts"
    return found


def _try_a_save(budget: Budget, state: Mapping[str, Any]) -> None:
    def write(file: BinaryIO) -> None:
        torch.save(dict(state), file)
        for begin in range(0, budget.missing, len(_ZEROS)):
            file.write(_ZEROS[: budget.missing - begin])

    try:
        try_writing(budget.folder, write)
    except (OSError, RuntimeError) as error:  # torch.save turns the one into the other
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{budget.folder}: a trial save of {budget.size / _MIB:.1f} MiB failed before the "
            f"first iteration: {cause.strerror or cause}; {_REMEDY}"
        ) from None
