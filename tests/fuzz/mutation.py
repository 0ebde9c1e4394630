"""Change real files at random and read them: they are read or refused by name, nothing else.

For hours, or again from the seed that a report names:

    python -m tests.fuzz.mutation --seconds 3600 [--reader NAME] [--seed N]
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nlseg.errors import UserError
from nlseg.weights.fields import meta_in
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import weights_in
from nlseg.weights.safetensors_file import write_safetensors

SLOW_S = 20.0  # far above what any of these small files takes, on a busy machine too
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


def fuzz(reader: Reader, seconds: float, seed: int, folder: Path) -> tuple[int, list[str]]:
    """Read changed files for a while.

    Returns:
        How many were read, and what went wrong, each with the seed of its change.
    """
    path = folder / f"fuzzed{reader.suffix}"
    reader.write(path)
    real, problems, count = path.read_bytes(), [], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path.write_bytes(mutated(real, random.Random(seed + count)))
        began = time.monotonic()
        try:
            reader.read(path)
        except UserError:
            pass
        except Exception:
            problems.append(f"seed {seed + count}: {traceback.format_exc()}")
        if time.monotonic() - began > SLOW_S:
            problems.append(f"seed {seed + count}: took more than {SLOW_S} s")
        count += 1
    return count, problems


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
