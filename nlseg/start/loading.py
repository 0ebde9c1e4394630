"""How training images are loaded: decoded at each step or once, and by how many processes."""

import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from nlseg.memory import free_memory, shown_bytes
from nlseg.plan.dry_run import DryRun
from nlseg.start.facts import DataFacts

ROOM = 0.5
"""Share of the free disk, and of the free memory, that decoded images may take."""
BUILD_SHARE = 0.1
"""Share of the time that decoding all of them once may take."""
_BYTES = 4  # a pixel: three of the image, one of its mask


class Loading(NamedTuple):
    """How images are loaded.

    Args:
        num_workers: Processes that load.
        is_cached: Whether decoded images are kept in a file.
        reason: Why, with the measurement behind it.
    """

    num_workers: int = 1
    is_cached: bool = False
    reason: str = ""

    def shown(self) -> str:
        """Write it for a person."""
        by = "one process" if self.num_workers == 1 else f"{self.num_workers} processes"
        return f"by {by}, {'decoded once' if self.is_cached else 'decoded at each step'}"


class Room(NamedTuple):
    """What loading may take.

    Args:
        frame_bytes: Of all training images, decoded.
        free_bytes: Of disk and memory, whichever has less.
        num_workers: Processes.
        seconds: For decoding all images once.
    """

    frame_bytes: int
    free_bytes: int
    num_workers: int
    seconds: float


def measure_room(data: DataFacts, folder: Path, seconds: float, *, on_gpu: bool) -> Room:
    """Ask the machine.

    Args:
        data: Of the data set.
        folder: For decoded images.
        seconds: That are left for training.
        on_gpu: Whether the network runs on a GPU, so that the cores are free.
    """
    cores = len(os.sched_getaffinity(0))
    num = sum(n for _, n in data.sizes)
    pixels = sum(h * w * n for (h, w), n in data.sizes) * data.num_train / num
    free = min(shutil.disk_usage(folder).free, free_memory() or 0)
    return Room(
        math.ceil(_BYTES * pixels),
        0 if data.deep else int(ROOM * free),  # the file holds 8 bits
        max(1, cores - 1 if on_gpu else cores // 2),
        BUILD_SHARE * seconds * cores,
    )


def choose_loading(now: Loading, step: DryRun, num_train: int, room: Room) -> Loading:
    """Return how to load where the network waits: from decoded images, else by more processes.

    Args:
        now: How images were loaded as the step was measured.
        step: What it takes.
        num_train: Training images.
        room: What may be used.

    Returns:
        The same with a reason, where the network does not wait or nothing is left to change.
    """
    told = (
        f"loading a batch takes {step.data_s:.3f} s, a step of the network {step.network_s:.3f} s"
    )
    reason = f"{now.reason}; then {told}" if now.reason else told
    if step.data_s <= step.network_s:
        return now._replace(reason=reason)
    once_s = step.data_s / step.images * num_train * now.num_workers
    if not now.is_cached and room.frame_bytes <= room.free_bytes and once_s <= room.seconds:
        size = shown_bytes(room.frame_bytes)
        return Loading(now.num_workers, True, f"{reason}: images are decoded once, into {size}")
    workers = min(math.ceil(now.num_workers * step.data_s / step.network_s), room.num_workers)
    if workers > now.num_workers:
        return Loading(workers, now.is_cached, f"{reason}: {workers} processes load")
    return now._replace(reason=reason)
