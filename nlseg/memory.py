"""How much memory the host may still give to this process."""

import resource
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the bytes that the system or the container still gives, whichever is less.

    Returns:
        None where neither says.
    """
    limits = [limit for limit in (_free_on_system(), _free_in_container()) if limit is not None]
    return min(limits, default=None)


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
    return int(limit) - used + _cached_files(folder) if limit.isdigit() else None


def _cached_files(folder: Path) -> int:
    """Return the bytes that are counted as used but only cache files."""
    try:
        lines = (folder / "memory.stat").read_text().split()
        counts = dict(zip(lines[::2], map(int, lines[1::2]), strict=True))
    except (OSError, ValueError):
        return 0
    return counts.get("active_file", 0) + counts.get("inactive_file", 0)


def peak_memory(file: Path = Path("/proc/self/status")) -> int:
    """Return the most bytes that this process has held in memory at a time."""
    if file.is_file():  # getrusage counts what a parent held before it started this program, too
        for line in file.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def shown_bytes(number: float) -> str:
    """Write a number of bytes in MiB, or in GiB from 10 GiB on."""
    mib = number / 2**20
    return f"{mib:.0f} MiB" if mib < 10240 else f"{mib / 1024:.1f} GiB"
