"""How much memory a run may still take."""

from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free for tensors.

    Args:
        device: A CUDA device is asked itself; for the CPU it is what the system or the container
            still gives, whichever is less.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    limits = [limit for limit in (_free_on_system(), _free_in_container()) if limit is not None]
    return min(limits, default=0)


def _free_on_system(file: Path = Path("/proc/meminfo")) -> int | None:
    if not file.is_file():
        return None
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _free_in_container(folder: Path = CGROUP) -> int | None:
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return int(limit) - used if limit.isdigit() else None


def shown_bytes(number: float) -> str:
    """Write a number of bytes in MiB, or in GiB from 10 GiB on."""
    mib = number / 2**20
    return f"{mib:.0f} MiB" if mib < 10240 else f"{mib / 1024:.1f} GiB"
