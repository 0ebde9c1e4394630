"""How large, deep and numerous the content of a weight file may be.

A file of a few hundred bytes can describe more than a machine holds: lists that share lists, keys
whose hash takes for ever, a tensor of one number seen ten billion times. Every limit here is far
above what networks are saved with, and what is over it is refused in one sentence.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

MAX_OPERATIONS = 2_000_000  # of a pickle; a ResNet-101 with its optimizer has 36,000
MAX_TEXT = 256 << 20  # bytes of the pickle itself, and of any name in it
MAX_VALUES = 1_000_000  # values that are no tensors, each counted as often as it is found
MAX_DEPTH = 100  # of containers in containers
MAX_KEY_PARTS = 64  # of a tuple that is a key
MAX_TUPLE_KEYS = 10_000  # their hashes are not salted, so that many could be made alike
MAX_INT_BITS = 4096
MAX_UNFOLDED = 4  # times the bytes of the file that all views together may show
UNFOLDED_ALLOWANCE = 64 << 20  # bytes, on top of that


class ExcessError(ValueError):
    """A file that describes more than any checkpoint needs."""


def check_extent(value: Any) -> None:
    """Refuse nested containers that are deeper or hold more values than any checkpoint.

    What is shared counts as often as it is found, because whoever copies, compares or prints the
    content meets it as often.

    Raises:
        ExcessError: It is over a limit.
    """
    count = 0
    levels: list[Iterator[Any]] = [iter((value,))]
    while levels:
        for item in levels[-1]:
            count += 1
            if isinstance(item, int) and item.bit_length() > MAX_INT_BITS:
                raise ExcessError(f"it holds a number of {item.bit_length()} bits")
            below = _below(item)
            if below is not None:
                levels.append(iter(below))
                break
        else:
            levels.pop()
        if len(levels) > MAX_DEPTH:
            raise ExcessError(f"its content is nested more than {MAX_DEPTH} deep")
        if count > MAX_VALUES:
            raise ExcessError(f"it holds more than {MAX_VALUES:,} values")


def _below(item: Any) -> Iterable[Any] | None:
    if isinstance(item, Mapping):
        return chain(item, item.values())
    return item if isinstance(item, (list, tuple, set)) else None


class KeyGuard:
    """Lets only keys into dicts and sets that can be hashed and compared at once."""

    def __init__(self) -> None:
        self.tuples = 0

    def check(self, key: Any) -> None:
        """Refuse a key that could take long.

        Raises:
            ExcessError: It could.
        """
        self.tuples += isinstance(key, tuple)
        if self.tuples > MAX_TUPLE_KEYS:
            raise ExcessError(f"more than {MAX_TUPLE_KEYS:,} keys are tuples")
        parts = [key]
        for part in parts:
            if isinstance(part, tuple):
                if len(parts) + len(part) > MAX_KEY_PARTS:
                    raise ExcessError(f"a key has more than {MAX_KEY_PARTS} parts")
                parts.extend(part)
            elif isinstance(part, int) and part.bit_length() > 63:
                raise ExcessError(f"a key is a number of {part.bit_length()} bits")

    def dict_of(self, pairs: Iterable[Any]) -> dict[Any, Any]:
        """Return a dict of pairs (key, value)."""
        result = {}
        for key, value in pairs:
            self.check(key)
            result[key] = value
        return result

    def set_of(self, items: Iterable[Any]) -> set[Any]:
        """Return a set of items."""
        items = list(items)
        for item in items:
            self.check(item)
        return set(items)
