"""What a measurement ran on: machine, versions, and how many products a second it can do."""

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cv2
import mmcv
import mmengine
import numpy as np
import torch
import torch.nn.functional as F

import nlseg

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDE = {"cpu": 2048, "cuda": 8192}


def describe_machine(device: str) -> dict[str, Any]:
    """Return name, size and software of the machine, nothing that identifies its owner.

    Args:
        device: 'cpu' or 'cuda'.
    """
    facts: dict[str, Any] = {"device": device_name(device)}
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        facts["memory"] = f"{memory / 2**30:.0f} GiB"
        facts["CUDA"] = torch.version.cuda
        facts["cuDNN"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    else:
        facts["memory"] = f"{total_memory() / 2**30:.0f} GiB"
        facts["instructions"] = torch.backends.cpu.get_cpu_capability()
        facts["cores"] = os.cpu_count()
        facts["threads"] = torch.get_num_threads()
        facts["load"] = f"{os.getloadavg()[0]:.1f}"
    facts["python"] = platform.python_version()
    modules = {"torch": torch, "numpy": np, "OpenCV": cv2, "mmengine": mmengine, "mmcv": mmcv}
    for name, module in {**modules, "nlseg": nlseg}.items():
        facts[name] = str(module.__version__)
    with suppress(PackageNotFoundError):
        facts["mmsegmentation"] = version("mmsegmentation")
    return facts


def device_name(device: str) -> str:
    """Return what the processor or GPU calls itself."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return _cpu_name()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines]
    return names[0] if names else platform.processor() or platform.machine()


def total_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory() -> int:
    """Return the bytes that a new process may take without swapping."""
    try:
        with open("/proc/meminfo") as file:
            facts = dict(line.split(":") for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return total_memory() // 2


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str, precision: str, side: int | None = None) -> float:
    """Measure the operations a second of a large product, as a product or a 1x1 convolution.

    Args:
        device: 'cpu' or 'cuda'.
        precision: 'fp32', 'bf16' or 'fp16'.
        side: Rows and columns of the matrices.

    Returns:
        The best rate of several runs of both, as what the hardware can do does not depend on what
        else it does; a multiply-add counts as two operations.
    """
    side = side or _SIDE[device]
    torch.manual_seed(0)
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    pixels = a.reshape(32, 1, side // 32, side).permute(0, 3, 1, 2)  # one row is one pixel
    works = [partial(torch.mm, a, b), partial(F.conv2d, pixels, b[:, :, None, None])]
    seconds = min(_shortest_time(work, device) for work in works)
    return 2 * side**3 / seconds


@torch.no_grad()
def _shortest_time(work: Callable[[], Any], device: str, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
