"""Read a safetensors file: a JSON header of names, types and places, then raw numbers.

Source: https://github.com/huggingface/safetensors, "Format". All sizes are checked against the
file before anything is allocated.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlseg.errors import CheckpointError

_MAX_HEADER = 100_000_000
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        CheckpointError: The header is broken or describes data that is not in the file.
    """
    data = bytearray(path.read_bytes())
    try:
        (length,) = struct.unpack("<Q", data[:8])
        if length > min(_MAX_HEADER, len(data) - 8):
            raise ValueError(f"its header claims {length} bytes")
        header = json.loads(bytes(data[8 : 8 + length]))
        header.pop("__metadata__", None)
        body = memoryview(data)[8 + length :]
        _check_ranges(header, len(body))
        return {name: _tensor(name, entry, body) for name, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is refused, not a whole safetensors file: {error}"
        ) from None


def _check_ranges(header: dict[str, Any], size: int) -> None:
    end = 0
    for first, last in sorted(tuple(entry["data_offsets"]) for entry in header.values()):
        if first != end or last < first or last > size:
            raise ValueError(
                f"bytes {first} to {last} of {size} overlap, leave a gap or do not exist"
            )
        end = last


def _tensor(name: str, entry: dict[str, Any], body: memoryview) -> Tensor:
    dtype, shape = _DTYPES[entry["dtype"]], [int(length) for length in entry["shape"]]
    first, last = entry["data_offsets"]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != last - first:
        raise ValueError(f"{name}: shape {shape} does not take {last - first} bytes")
    if first == last:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(body[first:last], dtype=dtype).reshape(shape).clone()
