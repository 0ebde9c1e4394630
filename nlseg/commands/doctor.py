"""Look at this installation and this machine, and try a small training; takes under a minute.

Prints versions, whether PyTorch was built for the GPU, which optional parts are there, free memory
and disk, the shared memory that worker processes need, and the result of 20 iterations on drawn
data. Exit code 0: ready; 1: something failed.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nlseg.commands.arguments import plain_parser

NEEDED = ("torch", "mmengine", "mmcv-lite", "numpy", "opencv-python", "pillow", "PyYAML", "tqdm")
OTHER_NAMES = {
    "mmengine": ("onedl-mmengine",),
    "mmcv-lite": ("mmcv",),
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python"),
}
OPTIONAL = {  # module -> what it is for, and the extra that installs it
    "tensorboard": "curves in TensorBoard: pip install 'nlseg[optional]'",
    "scipy": "SBD's .mat files, intervals in sweeps: pip install 'nlseg[optional]'",
    "cityscapesscripts": "Cityscapes polygons and CityscapesMetric: pip install 'nlseg[optional]'",
    "kornia_rs": "the fastest PNG decoder: pip install 'nlseg[optional]'",
    "shtab": "shell completion: pip install 'nlseg[completion]'",
}
SHARED_MEMORY = Path("/dev/shm")
GIB = 1 << 30
LEAST_SHARED = GIB // 4
QUICKSTART = "nonlocal_r18-d8_1xb4-300_synthetic-96x192"


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("--no-training", action="store_true", help="leave the small training out")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)
    problems = [*report_versions(), *report_device(), *report_space()]
    report_optional()
    if not args.no_training:
        problems += try_training()
    print()
    for problem in problems:
        print(f"problem: {problem}")
    print("ready" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


def _line(name: str, value: str) -> None:
    print(f"  {name:<18} {value}", flush=True)


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, or of one that takes its place."""
    for name in (distribution, *OTHER_NAMES.get(distribution, ())):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return version if name == distribution else f"{version} ({name})"
    return None


def report_versions() -> list[str]:
    """Print the versions of what nlseg needs; returns what is missing."""
    import nlseg

    print("installation")
    _line("nlseg", f"{nlseg.__version__} in {Path(nlseg.__file__).parent}")
    _line("python", f"{platform.python_version()} on {platform.platform()}")
    missing = []
    for name in NEEDED:
        version = version_of(name)
        _line(name, version or "missing")
        if version is None:
            missing.append(f"{name} is not installed: pip install nlseg brings it")
    return missing


def report_device() -> list[str]:
    """Print what computes here; returns why a GPU cannot be used."""
    print("device")
    _line("CPU", f"{os.cpu_count()} cores")
    try:
        import torch
    except ImportError as error:
        return [f"torch cannot be imported: {error}"]
    cuda = torch.version.cuda
    _line("PyTorch built for", f"CUDA {cuda}" if cuda else "CPUs only")
    from nlseg.errors import UserError
    from nlseg.run.device import check_cuda_build, unused_gpu

    if not torch.cuda.is_available():
        _line("GPU", "none that PyTorch can use")
        return [unused] if (unused := unused_gpu()) else []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        _line(f"GPU {index}", f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    try:
        check_cuda_build()
    except UserError as error:
        return [str(error)]
    return []


def report_space() -> list[str]:
    """Print free memory and disk; returns what is too small."""
    print("space")
    problems = []
    memory = Path("/proc/meminfo")
    if memory.is_file():
        fields = dict(line.split(":") for line in memory.read_text().splitlines() if ":" in line)
        kib = int(fields.get("MemAvailable", "0 kB").split()[0])
        _line("memory", f"{kib / (1 << 20):.1f} GiB available")
    free = shutil.disk_usage(Path.cwd()).free
    _line("disk", f"{free / GIB:.1f} GiB free in {Path.cwd()}")
    if free < GIB:
        problems.append(f"{Path.cwd()}: {free / GIB:.2f} GiB free; a checkpoint of R-50 takes 0.5")
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).free
        _line(str(SHARED_MEMORY), f"{shared / GIB:.1f} GiB free")
        if shared < LEAST_SHARED:
            problems.append(
                f"{SHARED_MEMORY}: {shared / GIB:.2f} GiB free, which worker processes of data "
                "loaders fill; start the container with --shm-size=2g, or use num_workers=0"
            )
    return problems


def report_optional() -> None:
    """Print which optional parts are there."""
    print("optional")
    for module, purpose in OPTIONAL.items():
        there = importlib.util.find_spec(module) is not None
        _line(module, "installed" if there else f"not installed ({purpose})")


def try_training() -> list[str]:
    """Train the quickstart's network for 20 iterations on drawn data, in a process of its own."""
    print("training", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        draw = (
            "from nlseg.datasets.synthetic import write_street_scenes; "
            f"write_street_scenes({folder + '/data'!r}, num_train=8, num_val=2)"
        )
        begin = time.monotonic()
        settings = [
            f"data_root={folder}/data", "train_cfg.max_iters=20", "train_cfg.val_interval=20",
            "train_dataloader.num_workers=2", "val_dataloader.num_workers=0",
            "val_dataloader.persistent_workers=False",
        ]  # fmt: skip
        train = [
            "-m", "nlseg", "train", QUICKSTART, "--work-dir", f"{folder}/run", "--set", *settings,
        ]  # fmt: skip
        for words in (["-c", draw], train):
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
            if done.returncode:
                _line("20 iterations", f"failed with exit code {done.returncode}")
                said = [line for line in done.stderr.splitlines() if line.strip()]
                return [f"the small training failed: {said[-1] if said else 'nothing was said'}"]
        _line("20 iterations", f"and a validation in {time.monotonic() - begin:.0f} s")
    return []
