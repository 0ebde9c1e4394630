"""What a pickle may ask for, and what is built for it in its place: numbers, tensors, arrays.

Nothing here imports or calls what a file names; a name is looked up in the tables below.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_QUIET_PACKAGES = ("mmengine", "mmcv", "mmseg", "mmcls", "mmpretrain", "addict", "numpy", "pathlib")
_QUIET_NAMES = {
    "argparse.Namespace", "builtins.bool", "builtins.bytearray", "builtins.complex",
    "builtins.dict", "builtins.float", "builtins.frozenset", "builtins.getattr", "builtins.int",
    "builtins.list", "builtins.object", "builtins.range", "builtins.slice",
    "builtins.str", "builtins.tuple", "collections.defaultdict", "collections.deque",
    "copyreg._reconstructor", "datetime.date", "datetime.datetime", "datetime.timedelta",
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
    "torch.torch_version.TorchVersion",
}  # fmt: skip
_STORAGES = {
    "BFloat16Storage": torch.bfloat16, "BoolStorage": torch.bool, "ByteStorage": torch.uint8,
    "CharStorage": torch.int8, "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64, "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "IntStorage": torch.int32,
    "LongStorage": torch.int64, "ShortStorage": torch.int16,
    "storage.UntypedStorage": torch.uint8,
}  # fmt: skip
DTYPES = {
    f"torch.{name}": dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)
}
# Tensors whose numbers are not simply there. They are written down, and named where they are used.
_STRANGE_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta (it has a shape and no numbers)",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_wrapper_subclass": "wrapped",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "device",
    "torch._utils._rebuild_device_tensor_from_numpy": "device",
}
_NUMBERS = "biufc"
_DTYPE_NAME = re.compile(r"[<>=|]?[a-zA-Z]\w{0,11}")


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

    @property
    def strange_tensor(self) -> str | None:
        """The kind of tensor that this would be; None where it would be none."""
        return _STRANGE_TENSORS.get(self.name)


class Global:
    """A name that a file asked for.

    Args:
        name: Module and name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        """Show the name."""
        return self.name


class Array:
    """A numpy array whose content is still to come."""


def is_known(name: str) -> bool:
    """Return whether checkpoints of OpenMMLab or nlseg ask for a global of this name."""
    quiet = name.split(".")[0] in _QUIET_PACKAGES or name in _QUIET_NAMES
    known = name in BUILDERS or name in REBUILDERS or name in _STRANGE_TENSORS or name in DTYPES
    return quiet or known or name in MAKERS or storage_dtype(name) is not None


def storage_dtype(name: str) -> torch.dtype | None:
    """Return the type of a storage class of PyTorch; None for any other name."""
    return _STORAGES.get(name.removeprefix("torch.")) if name.startswith("torch.") else None


def _view(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if min([offset, *size, *stride], default=0) < 0 or (0 not in size and reach > len(storage)):
        raise ValueError(f"a tensor of size {tuple(size)} reaches outside its storage")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _view_as(
    storage: Tensor, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any,
    *_: Any,
) -> Tensor:  # fmt: skip
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"a tensor of unknown type {dtype!r}")
    whole = storage.view(torch.uint8)
    whole = whole[: len(whole) // dtype.itemsize * dtype.itemsize]
    return _view(whole.view(dtype), offset, size, stride)


def _dtype(name: str, *_: Any) -> Any:
    if not isinstance(name, str) or not _DTYPE_NAME.fullmatch(name):
        return Inert("numpy dtype")
    dtype = np.dtype(name)
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


def _first(data: Any, *_: Any) -> Any:
    return data


# Views of a storage; the machine adds up how much they show.
REBUILDERS: dict[str, Callable[..., Tensor]] = {
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v3": _view_as,
}
BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.Size": lambda size=(): tuple(size),
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "_codecs.encode": lambda text, coding="latin1": str(text).encode("latin1"),
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": lambda *_: Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: Array(),
}
# Built by the machine itself, which watches over keys and over calls within calls.
MAKERS = {
    "builtins.set", "collections.Counter", "collections.OrderedDict",
    "torch._tensor._rebuild_from_type_v2",
}  # fmt: skip
