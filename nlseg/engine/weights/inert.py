"""Read pickled data without running any of it: unknown classes become inert records.

OpenMMLab's checkpoints hold, beside tensors, pickled objects of its own classes and numpy scalars,
which ``torch.load(weights_only=True)`` refuses. This small machine walks over the pickle's
operations itself. It builds tensors, numbers and plain containers; everything else that the file
asks for is only written down. No name from the file is ever imported or called.
"""

import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlseg.errors import CheckpointError

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


class _Global:
    def __init__(self, name: str) -> None:
        self.name = name


class _Array:
    """A numpy array whose content is still to come."""


Storage = Callable[[str, torch.dtype, int], Tensor]


class Machine:
    """Walks over a pickle's operations and returns plain data.

    Args:
        source: Name of the file, for errors.
        storage: Gives the flat tensor of a storage from its key, type and number of elements.
    """

    def __init__(self, source: str, storage: Storage) -> None:
        self.source, self.storage = source, storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Return what a pickle describes.

        Raises:
            CheckpointError: It asks for something that a checkpoint has no need of, or is broken.
        """
        try:
            for operation, argument, _ in pickletools.genops(data):
                if operation.name == "STOP":
                    return self.stack.pop()
                self.step(operation.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{self.source}: is broken ({error})") from error
        raise CheckpointError(f"{self.source}: is broken (it ends early)")

    def step(self, name: str, argument: Any) -> None:
        """Do one operation."""
        handler: Callable[[Any], None] | None = getattr(self, f"_do_{name.lower()}", None)
        if handler is not None:
            handler(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name not in _IGNORED:
            raise CheckpointError(f"{self.source}: is refused, it uses the operation {name}")

    def since_mark(self) -> list[Any]:
        """Take everything down to the last mark off the stack."""
        place = self.marks.pop()
        items = self.stack[place:]
        del self.stack[place:]
        return items

    def _do_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _do_put(self, key: Any) -> None:
        self.memo[int(key)] = self.stack[-1]

    _do_binput = _do_long_binput = _do_put

    def _do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _do_get(self, key: Any) -> None:
        self.stack.append(self.memo[int(key)])

    _do_binget = _do_long_binget = _do_get

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.since_mark()))

    def _do_tuple1(self, _: Any) -> None:
        self._pack(1)

    def _do_tuple2(self, _: Any) -> None:
        self._pack(2)

    def _do_tuple3(self, _: Any) -> None:
        self._pack(3)

    def _pack(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def _do_list(self, _: Any) -> None:
        self.stack.append(self.since_mark())

    def _do_dict(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _do_append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _do_appends(self, _: Any) -> None:
        self._extend(self.since_mark())

    def _do_additems(self, _: Any) -> None:
        items = self.since_mark()
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(items)

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _do_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _do_setitems(self, _: Any) -> None:
        self._set(self.since_mark())

    def _set(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _do_global(self, argument: str) -> None:
        self.stack.append(self.ask(".".join(argument.split(" ", 1))))

    def _do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.ask(f"{module}.{name}"))

    def ask(self, name: str) -> _Global:
        """Note that the file asks for a global.

        Raises:
            CheckpointError: No checkpoint of OpenMMLab or nlseg needs it.
        """
        name = name.replace("__builtin__.", "builtins.", 1) if name.startswith("__b") else name
        quiet = name.split(".")[0] in _QUIET_PACKAGES or name in _QUIET_NAMES
        if not quiet and name not in _BUILDERS and _storage_dtype(name) is None:
            raise CheckpointError(
                f"{self.source}: is refused: it asks for {name}, which no weights need; a file "
                "that holds a whole pickled model must be converted by its author to a state dict"
            )
        return _Global(name)

    def _do_reduce(self, _: Any) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        self.stack.append(self.make(what, arguments))

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._do_reduce(None)

    def make(self, what: Any, arguments: Any) -> Any:
        """Build what is known and write down the rest."""
        if not isinstance(what, _Global) or not isinstance(arguments, tuple):
            raise CheckpointError(
                f"{self.source}: is refused: it calls {what!r}, a computed object"
            )
        builder = _BUILDERS.get(what.name)
        return Inert(what.name, arguments) if builder is None else builder(*arguments)

    def _do_build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, np.dtype) and state[1] in ("<", ">"):
            self.replace(target, target.newbyteorder(state[1]))
        elif isinstance(target, _Array):
            self.replace(target, _array(state))

    def replace(self, old: Any, new: Any) -> None:
        """Put an object in place of the one on top of the stack, which may be remembered, too."""
        self.stack[-1] = new
        for key in reversed(self.memo):
            if self.memo[key] is old:
                self.memo[key] = new
                break

    def _do_binpersid(self, _: Any) -> None:
        kind, storage, key, _location, count = self.stack.pop()
        dtype = _storage_dtype(storage.name) if isinstance(storage, _Global) else None
        if kind != "storage" or dtype is None:
            raise CheckpointError(f"{self.source}: is refused: unknown storage {storage!r}")
        self.stack.append(self.storage(str(key), dtype, int(count)))


def _storage_dtype(name: str) -> torch.dtype | None:
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


def _array(state: Any) -> Any:
    _version, shape, dtype, fortran, data = state
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        return Inert("numpy.ndarray", (shape,))
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()


_BUILDERS: dict[str, Callable[..., Any]] = {
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
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "builtins.set": lambda items=(): set(items),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_IGNORED = {"PROTO", "FRAME"}
