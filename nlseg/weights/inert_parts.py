"""What a pickle may ask for, and what is built for it in its place: numbers, tensors, arrays.

Nothing here imports or calls what a file names; a name is looked up in the tables below.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_QUIET_PACKAGES = ("mmengine", "mmcv", "mmseg", "mmcls", "mmpretrain", "addict", "numpy", "pathlib")
_QUIET_NAMES = {
    "argparse.Namespace", "builtins.bool", "builtins.bytearray", "builtins.complex",
    "builtins.dict", "builtins.float", "builtins.frozenset", "builtins.getattr", "builtins.int",
    "builtins.list", "builtins.object", "builtins.range", "builtins.set", "builtins.slice",
    "builtins.str", "builtins.tuple", "collections.defaultdict", "collections.deque",
    "copyreg._reconstructor", "datetime.date", "datetime.datetime", "datetime.timedelta",
    "torch.torch_version.TorchVersion", "torch.bfloat16", "torch.float16", "torch.float32",
    "torch.float64", "torch.int32", "torch.int64", "torch.uint8",
}  # fmt: skip
_STORAGES = {
    "BFloat16Storage": torch.bfloat16, "BoolStorage": torch.bool, "ByteStorage": torch.uint8,
    "CharStorage": torch.int8, "DoubleStorage": torch.float64, "FloatStorage": torch.float32,
    "HalfStorage": torch.float16, "IntStorage": torch.int32, "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}  # fmt: skip
_NUMBERS = "biufc"


class Inert:
    """Something that a file asked for and that was not made.

    Args:
        name: Module and name that the file gave.
        arguments: What the file would have called it with.
    """

    def __init__(self, name: str, arguments: Any = None) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __repr__(self) -> str:
        """Show the name only."""
        return f"<not loaded: {self.name}>"


class Global:
    """A name that a file asked for.

    Args:
        name: Module and name.
    """

    def __init__(self, name: str) -> None:
        self.name = name


class Array:
    """A numpy array whose content is still to come."""


def is_known(name: str) -> bool:
    """Tell whether checkpoints of OpenMMLab or nlseg ask for a global of this name."""
    quiet = name.split(".")[0] in _QUIET_PACKAGES or name in _QUIET_NAMES
    return quiet or name in BUILDERS or storage_dtype(name) is not None


def storage_dtype(name: str) -> torch.dtype | None:
    """Return the type of a storage class of PyTorch; None for any other name."""
    return _STORAGES.get(name.removeprefix("torch.")) if name.startswith("torch.") else None


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if min([offset, *size, *stride], default=0) < 0 or (0 not in size and reach > len(storage)):
        raise ValueError(f"a tensor of size {tuple(size)} reaches outside its storage")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _dtype(name: str, *_: Any) -> Any:
    dtype = np.dtype(str(name))
    return dtype if dtype.kind in _NUMBERS else Inert(f"numpy dtype {name}")


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        return Inert("numpy.scalar", (dtype,))
    return np.frombuffer(data, dtype, count=1)[0].item()


def make_array(state: Any) -> Any:
    """Build a numpy array from the state that a pickle gives it."""
    _version, shape, dtype, fortran, data = state
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        return Inert("numpy.ndarray", (shape,))
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()


BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda *items: dict(*items),
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": lambda size=(): tuple(size),
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "_codecs.encode": lambda text, coding="latin1": str(text).encode("latin1"),
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": lambda *_: Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: Array(),
    "builtins.set": lambda items=(): set(items),
}
