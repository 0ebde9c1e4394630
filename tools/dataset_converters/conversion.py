"""What the converters share: several processes, a progress bar, files that are whole or absent."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm


def convert_all(convert: Callable[..., None], jobs: Sequence[Any], nproc: int, title: str) -> None:
    """Call ``convert`` with each job, in ``nproc`` processes, with a bar.

    The result does not depend on the number of processes. The first error ends the conversion.
    """
    if nproc <= 1:
        for job in tqdm(jobs, title, unit="file"):
            convert(job)
        return
    with ProcessPoolExecutor(nproc) as pool:
        for _ in tqdm(pool.map(convert, jobs, chunksize=4), title, len(jobs), unit="file"):
            pass


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        image.save(temporary, "PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_lines(lines: Sequence[str], path: Path) -> None:
    """Write a text file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


def read_lines(path: Path) -> list[str]:
    """Read the non-empty lines of a text file.

    Raises:
        SystemExit: The file is not there.
    """
    if not path.is_file():
        stop(f"{path}: this file is not there; is the folder the one that was unpacked?")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def stop(message: str) -> None:
    """End with a message and exit code 2."""
    print(message)
    raise SystemExit(2)
