"""Read pickled data without running any of it: unknown classes become inert records.

OpenMMLab's checkpoints hold, beside tensors, pickled objects of its own classes and numpy scalars,
which ``torch.load(weights_only=True)`` refuses. This small machine walks over the pickle's
operations itself. It builds tensors, numbers and plain containers; everything else that the file
asks for is only written down. No name from the file is ever imported or called.

A subclass of ``pickle.Unpickler`` that finds no classes would be shorter, but what it does between
two names cannot be bounded: 186 bytes of nested tuples as a key kept it, and PyTorch's own
unpickler, busy without end, and 9 bytes made it ask for 32 GiB.
"""

import math
import pickletools
import struct
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nlseg.errors import CheckpointError
from nlseg.weights import limits
from nlseg.weights.inert_parts import (
    BUILDERS,
    DTYPES,
    MAKERS,
    REBUILDERS,
    Array,
    Global,
    Inert,
    is_known,
    make_array,
    storage_dtype,
)

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
BROKEN = (
    ValueError, IndexError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError,
    EOFError, struct.error,
)  # fmt: skip
"""What pickletools, numpy and PyTorch raise at a pickle whose parts do not fit each other."""

Storage = Callable[[str, torch.dtype, int], Tensor]


class Stream(Protocol):
    """What a pickle is read from."""

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end."""

    def readline(self) -> bytes:
        """Return the bytes up to the next line end."""


class Machine:
    """Walks over a pickle's operations and returns plain data.

    Args:
        source: Name of the file, for errors.
        storage: Gives the flat tensor of a storage from its key, type and number of elements.
        allowed_bytes: How much all tensors together may take once each has memory of its own.
    """

    def __init__(self, source: str, storage: Storage, allowed_bytes: int) -> None:
        self.source, self.storage = source, storage
        self.allowed_bytes = allowed_bytes
        self.operations = 0
        self.keys = limits.KeyGuard()
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.unfinished: dict[int, int] = {}  # id of what is replaced later: its key in the memo

    def run(self, data: bytes | Stream) -> Any:
        """Return what a pickle describes.

        Args:
            data: The pickle; of a stream, the first one in it is read.

        Raises:
            CheckpointError: It asks for something that a checkpoint has no need of, or is broken.
        """
        try:
            for operation, argument, _ in pickletools.genops(data):  # type: ignore[arg-type]
                if operation.name == "STOP":
                    result = self.stack.pop()
                    limits.check_extent(result)
                    return result
                self.operations += 1
                if self.operations > limits.MAX_OPERATIONS:
                    raise limits.ExcessError(
                        f"it takes more than {limits.MAX_OPERATIONS:,} operations"
                    )
                self.step(operation.name, argument)
        except BROKEN as error:
            if isinstance(error, CheckpointError):
                raise
            if isinstance(error, limits.ExcessError):
                raise CheckpointError(f"{self.source}: is refused: {error}") from None
            raise CheckpointError(f"{self.source}: is broken ({str(error)[:300]})") from error
        raise CheckpointError(f"{self.source}: is broken (it ends early)")

    def step(self, name: str, argument: Any) -> None:
        """Do one operation."""
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(self, argument)
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
        self._remember(int(key))

    _do_binput = _do_long_binput = _do_put

    def _do_memoize(self, _: Any) -> None:
        self._remember(len(self.memo))

    def _remember(self, key: int) -> None:
        top = self.stack[-1]
        self.memo[key] = top
        if isinstance(top, (Array, np.dtype)):
            self.unfinished[id(top)] = key

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
        self.stack.append(self.keys.dict_of(_pairs(self.since_mark())))

    def _do_append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _do_appends(self, _: Any) -> None:
        self._extend(self.since_mark())

    def _do_additems(self, _: Any) -> None:
        items = self.since_mark()
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(self.keys.set_of(items))

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
            self.stack[-1].update(self.keys.dict_of(_pairs(items)))

    def _do_global(self, argument: str) -> None:
        self.stack.append(self.ask(".".join(argument.split(" ", 1))))

    def _do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name is no text")
        self.stack.append(self.ask(f"{module}.{name}"))

    def ask(self, name: str) -> Global | torch.dtype:
        """Note that the file asks for a global.

        Raises:
            CheckpointError: No checkpoint of OpenMMLab or nlseg needs it.
        """
        name = name.replace("__builtin__.", "builtins.", 1) if name.startswith("__b") else name
        if not is_known(name):
            raise CheckpointError(
                f"{self.source}: is refused: it asks for {name[:200]}, which no weights need; a "
                "file that holds a whole pickled model must be converted by its author to a state "
                "dict"
            )
        return DTYPES.get(name) or Global(name[:200])

    def _do_reduce(self, _: Any) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        self.stack.append(self.make(what, arguments))

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._do_reduce(None)

    def make(self, what: Any, arguments: Any) -> Any:
        """Build what is known and write down the rest."""
        if not isinstance(what, Global) or not isinstance(arguments, tuple):
            raise CheckpointError(
                f"{self.source}: is refused: it calls {type(what).__name__}, a computed object"
            )
        if what.name in REBUILDERS:
            return self._rebuild(REBUILDERS[what.name], arguments)
        self._charge(
            sum(len(a) for a in arguments if isinstance(a, (str, bytes, tuple, list, dict)))
        )
        if what.name in MAKERS:
            return self._make_here(what.name, arguments)
        builder = BUILDERS.get(what.name)
        return Inert(what.name, arguments) if builder is None else builder(*arguments)

    def _make_here(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes, left out here
            function, _kind, inner = arguments[:3]
            if not isinstance(function, Global) or function.name not in {**REBUILDERS, **BUILDERS}:
                raise ValueError(f"a tensor made by {function!r}")
            return self.make(function, inner)
        if name == "collections.Counter":  # milestones of mmengine's MultiStepLR
            (counts,) = arguments
            return self.keys.dict_of(dict(counts).items())
        make = self.keys.set_of if name == "builtins.set" else self.keys.dict_of
        return make(*arguments) if arguments else make(())

    def _rebuild(self, view: Callable[..., Tensor], arguments: tuple[Any, ...]) -> Tensor:
        tensor = view(*arguments)
        self._charge(math.prod(tensor.shape) * tensor.element_size())
        return tensor

    def _charge(self, size: int) -> None:
        """Take the bytes that something built here takes, or may take later, off what is left."""
        self.allowed_bytes -= size
        if self.allowed_bytes < 0:
            raise CheckpointError(
                f"{self.source}: is refused: it shows the same data again and again and would take "
                "many times the memory of the file"
            )

    def _do_build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, np.dtype) and state[1] in ("<", ">"):
            self.replace(target, target.newbyteorder(state[1]))
        elif isinstance(target, Array):
            self._charge(sum(len(part) for part in state if isinstance(part, (bytes, tuple))))
            self.replace(target, make_array(state))

    def replace(self, old: Any, new: Any) -> None:
        """Put an object in place of the one on top of the stack, which may be remembered, too."""
        self.stack[-1] = new
        key = self.unfinished.pop(id(old), None)
        if key is not None and self.memo[key] is old:
            self.memo[key] = new

    def _do_binpersid(self, _: Any) -> None:
        kind, storage, key, _location, count, *view = self.stack.pop()
        if any(view):
            raise CheckpointError(f"{self.source}: is refused: it was written by PyTorch 0.x")
        dtype = storage_dtype(storage.name) if isinstance(storage, Global) else None
        if kind != "storage" or dtype is None:
            raise CheckpointError(f"{self.source}: is refused: unknown storage {storage!r}")
        self.stack.append(self.storage(str(key), dtype, int(count)))


def _pairs(items: list[Any]) -> Any:
    return zip(items[::2], items[1::2], strict=True)


_HANDLERS: dict[str, Callable[[Machine, Any], None]] = {
    name.removeprefix("_do_").upper(): handler
    for name, handler in vars(Machine).items()
    if name.startswith("_do_")
}
