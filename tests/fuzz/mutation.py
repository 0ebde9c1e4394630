"""Change real files at random and read them: they are read or refused by name, nothing else.

For hours, or again from the seed that a report names:

    python -m tests.fuzz.mutation --seconds 3600 [--reader NAME] [--seed N]
"""

import argparse
import json
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from nlseg.config import load_config
from nlseg.datasets.cache import FrameCache, FrameSource, open_cache
from nlseg.datasets.transforms import LoadAnnotations, LoadImageFromFile
from nlseg.datasets.transforms.decode import picture_size
from nlseg.errors import DataError, UserError
from nlseg.weights.fields import meta_in
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import weights_in
from nlseg.weights.safetensors_file import write_safetensors

SLOW_S = 20.0  # far above what any of these small files takes, on a busy machine too
MEMORY_KIB = 600 << 10
INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"q\x00h\x00",
    b"}",
    b"]",
    b"(",
    b".",
)


@dataclass(frozen=True)
class Reader:
    """One kind of file: how a real one is written, and what reads it.

    Args:
        suffix: End of the file's name.
        write: Writes a real file.
        read: Reads it; may raise ``UserError`` and nothing else.
    """

    suffix: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]


def _content() -> dict[str, object]:
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2).half()}
    meta = {"iter": 3, "dataset_meta": {"classes": ("a", "b"), "palette": [[1, 2, 3], [4, 5, 6]]}}
    return {"meta": meta, "state_dict": weights, "optimizer": {"state": {0: {"step": 1}}}}


def _read_weights(path: Path) -> None:
    content = read_checkpoint(path)
    weights_in(content, str(path))
    meta_in(content, str(path))


def _named(picture: Image.Image, kind: str, **options: Any) -> Callable[[Path], object]:
    """Make what writes a picture as a file of some kind."""
    return lambda path: picture.save(path, kind, **options)


def _read_image(path: Path) -> None:
    """Read an image in each way in which a pipeline may."""
    problems = []
    for backend in ("cv2", "pillow"):
        for color_type in ("color", "grayscale", "unchanged"):
            load = LoadImageFromFile(color_type=color_type, imdecode_backend=backend)
            try:
                assert load.read(str(path)).size
            except DataError as error:
                problems.append(error)
    picture_size(str(path))
    if problems:
        raise problems[0]


def _read_label(path: Path) -> None:
    LoadAnnotations().read(str(path), {})
    LoadAnnotations(imdecode_backend="cv2").read(str(path), {})


def _read_config(path: Path) -> None:
    load_config(path, check=False).to_dict()


def _write_frames(path: Path) -> None:
    Image.fromarray(_PIXELS).save(path.with_name("frame.png"))
    path.write_bytes(_frames(path.with_name("frames")).path.read_bytes())


def _frames(folder: Path) -> FrameCache:
    source = FrameSource(str(folder.with_name("frame.png")), LoadImageFromFile().read, 3)
    return open_cache(str(folder), "a", "", [source])


def _read_frames(path: Path) -> None:
    """Put a damaged cache where a whole one is; what it gives is the image or nothing."""
    _frames(path.with_name("frames")).path.write_bytes(path.read_bytes())
    frame = _frames(path.with_name("frames")).get(str(path.with_name("frame.png")))
    assert frame is None or np.array_equal(frame[..., ::-1], _PIXELS)


_PIXELS = np.random.RandomState(0).randint(0, 256, (12, 16, 3)).astype(np.uint8)
_PICTURE = Image.fromarray(_PIXELS)
_LABELS = Image.fromarray(_PIXELS[..., 0] % 5)
_CONFIG = {
    "_base_": [], "model": {"type": "A", "size": [1, 2.5, None, True], "name": "a: b\n#"},
    "train_dataloader": {"dataset": {"pipeline": [{"type": "B", "scale": [4, 5]}] * 3}},
}  # fmt: skip

READERS = {
    "pth": Reader(".pth", lambda path: torch.save(_content(), path), _read_weights),
    "legacy pth": Reader(
        ".pth",
        lambda path: torch.save(_content(), path, _use_new_zipfile_serialization=False),
        _read_weights,
    ),
    "safetensors": Reader(
        ".safetensors", lambda path: write_safetensors({"a": torch.ones(3)}, path), _read_weights
    ),
    "png": Reader(".png", _named(_PICTURE, "PNG"), _read_image),
    "jpeg": Reader(".jpg", _named(_PICTURE, "JPEG"), _read_image),
    "tiff": Reader(".tif", _named(_PICTURE, "TIFF"), _read_image),
    "packed tiff": Reader(".tif", _named(_PICTURE, "TIFF", compression="tiff_lzw"), _read_image),
    "bmp": Reader(".bmp", _named(_PICTURE, "BMP"), _read_image),
    "webp": Reader(".webp", _named(_PICTURE, "WEBP"), _read_image),
    "gif": Reader(".gif", _named(_PICTURE.convert("P"), "GIF"), _read_image),
    "label map": Reader(".png", _named(_LABELS, "PNG"), _read_label),
    "label map in a tiff": Reader(".tif", _named(_LABELS, "TIFF"), _read_label),
    "yaml": Reader(".yaml", lambda path: path.write_text(yaml.safe_dump(_CONFIG)), _read_config),
    "json": Reader(".json", lambda path: path.write_text(json.dumps(_CONFIG)), _read_config),
    "frame cache": Reader(".frames", _write_frames, _read_frames),
}


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Return bytes with one to four random changes."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(changed)) if changed else 0
        length = dice.choice((1, 2, 4, 8, 64))
        kind = dice.randrange(5)
        if kind == 0 and changed:
            changed[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            changed[place : place + length] = dice.choice(INTERESTING)
        elif kind == 2:
            del changed[place : place + length]
        elif kind == 3:
            changed[place:place] = changed[place : place + length]
        else:
            changed[place : place + length] = dice.randbytes(length)
    return bytes(changed)


def fuzz(
    reader: Reader, seconds: float, seed: int, folder: Path, least: int = 0
) -> tuple[int, list[str]]:
    """Read changed files for a while, in a process of its own, which a decoder may take down.

    Args:
        reader: What reads a file.
        seconds: How long.
        seed: Of the first change.
        folder: Where the file is written.
        least: Files that are read on a busy machine, too, however long they take.

    Returns:
        How many were read, and what went wrong, each with the seed of its change.
    """
    path, found = folder / f"fuzzed{reader.suffix}", folder / "problems.json"
    reader.write(path)
    found.write_text("[]")
    number = mmap.mmap(-1, 8)  # of the file that is being read
    child = os.fork()
    if child == 0:
        try:
            _read_for_a_while(reader, seconds, least, seed, path, found, number)
        finally:
            os._exit(0)
    end = time.monotonic() + seconds + 3 * SLOW_S
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    count = int.from_bytes(number[:8], "little")
    problems: list[str] = json.loads(found.read_text())
    if code := os.waitstatus_to_exitcode(ended[1]):
        problems.append(f"seed {seed + count}: the process was killed by signal {-code}")
    return count, problems


def _read_for_a_while(
    reader: Reader,
    seconds: float,
    least: int,
    seed: int,
    path: Path,
    found: Path,
    number: mmap.mmap,
) -> None:
    real, problems, count = path.read_bytes(), [], 0
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C write their own warnings there
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + MEMORY_KIB
    end = time.monotonic() + seconds
    while count < least or time.monotonic() < end:
        number[:8] = count.to_bytes(8, "little")
        path.write_bytes(mutated(real, random.Random(seed + count)))
        began = time.monotonic()
        try:
            reader.read(path)
        except UserError as error:
            if path.name not in str(error) or "\n" in str(error):
                problems.append(f"seed {seed + count}: is not one sentence with its name: {error}")
        except BaseException:
            problems.append(f"seed {seed + count}: {traceback.format_exc()}")
        if time.monotonic() - began > SLOW_S:
            problems.append(f"seed {seed + count}: took more than {SLOW_S} s")
        if (now := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) > most:
            problems.append(f"seed {seed + count}: took more than {MEMORY_KIB >> 10} MiB")
            most = now + MEMORY_KIB
        count += 1
        if problems:
            found.write_text(json.dumps(problems))
    number[:8] = count.to_bytes(8, "little")


def main() -> int:
    """Fuzz from the command line; the exit code is 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for all readers together")
    parser.add_argument("--reader", choices=READERS, help="one kind of file only")
    parser.add_argument("--seed", type=int, default=0, help="of the first change")
    args = parser.parse_args()
    names = [args.reader] if args.reader else list(READERS)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            seconds = args.seconds / len(names)
            count, problems = fuzz(READERS[name], seconds, args.seed, Path(folder))
            print(f"{name}: {count} files, {len(problems)} problems")
            print("\n".join(problems[:5]))
            failed |= bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
