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
from nlseg.weights.inert_parts import (
    BUILDERS,
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

    def ask(self, name: str) -> Global:
        """Note that the file asks for a global.

        Raises:
            CheckpointError: No checkpoint of OpenMMLab or nlseg needs it.
        """
        name = name.replace("__builtin__.", "builtins.", 1) if name.startswith("__b") else name
        if not is_known(name):
            raise CheckpointError(
                f"{self.source}: is refused: it asks for {name}, which no weights need; a file "
                "that holds a whole pickled model must be converted by its author to a state dict"
            )
        return Global(name)

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
                f"{self.source}: is refused: it calls {what!r}, a computed object"
            )
        builder = BUILDERS.get(what.name)
        return Inert(what.name, arguments) if builder is None else builder(*arguments)

    def _do_build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, np.dtype) and state[1] in ("<", ">"):
            self.replace(target, target.newbyteorder(state[1]))
        elif isinstance(target, Array):
            self.replace(target, make_array(state))

    def replace(self, old: Any, new: Any) -> None:
        """Put an object in place of the one on top of the stack, which may be remembered, too."""
        self.stack[-1] = new
        for key in reversed(self.memo):
            if self.memo[key] is old:
                self.memo[key] = new
                break

    def _do_binpersid(self, _: Any) -> None:
        kind, storage, key, _location, count = self.stack.pop()
        dtype = storage_dtype(storage.name) if isinstance(storage, Global) else None
        if kind != "storage" or dtype is None:
            raise CheckpointError(f"{self.source}: is refused: unknown storage {storage!r}")
        self.stack.append(self.storage(str(key), dtype, int(count)))
