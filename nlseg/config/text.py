"""A config as Python text, one value a line, and without the secrets of the environment."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.config import Config

from nlseg.config.origin import KeyPath

RESOLVED = "# Resolved config, with the variables of its files."
"""First line of a config that was written out: names that nothing reads are no mistakes there."""
COMMENT_COLUMN = 64
_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_SHORTEST = 6  # a shorter value may be part of any word
Row = tuple[int, str, KeyPath]
"""Depth and text of one line, and the path of its value; no path for brackets."""


class ReadableConfig(Config):
    """A config that is written one value a line.

    mmengine lays the text out anew by a code formatter each time it is logged, dumped or shown,
    four times at the start of a run, which takes longer than building the network.
    """

    @property
    def pretty_text(self) -> str:
        """The config as a Python file that loads to the same values."""
        return f"{RESOLVED}\n{python_text(self.to_dict())}"


def python_text(
    values: Mapping[str, Any], origin_of: Callable[[KeyPath], str] | None = None
) -> str:
    """Write values as a Python file that loads to the same values.

    Args:
        values: A resolved config.
        origin_of: Says where the value at a path was written, which ends its line as a comment.

    Returns:
        The text, one value a line.
    """
    lines = []
    for key, value in values.items():
        for depth, text, path in _rows(f"{key} = ", value, (key,), ""):
            line = "    " * depth + text
            origin = origin_of(path) if origin_of is not None and path else ""
            lines.append(f"{line:<{COMMENT_COLUMN}}  # {origin}" if origin else line)
    return "\n".join(lines) + "\n"


def _rows(start: str, value: Any, path: KeyPath, end: str, depth: int = 0) -> Iterator[Row]:
    """Yield the lines of one value, ``start`` in front of it and ``end`` behind."""
    parts = _parts(value)
    if parts is None:
        yield depth, f"{start}{value!r}{end}", path
        return
    opening, closing, items = parts
    yield depth, start + opening, ()
    for name, key, item in items:
        yield from _rows(name, item, (*path, key), ",", depth + 1)
    yield depth, closing + end, ()


def _parts(value: Any) -> tuple[str, str, list[tuple[str, Any, Any]]] | None:
    """Split a value that takes several lines into brackets and items, None for one line."""
    if isinstance(value, dict) and value:
        if all(str(key).isidentifier() for key in value):
            return "dict(", ")", [(f"{key}=", key, item) for key, item in value.items()]
        return "{", "}", [(f"{key!r}: ", key, item) for key, item in value.items()]
    if isinstance(value, (list, tuple)) and any(isinstance(v, (dict, list, tuple)) for v in value):
        brackets = "[]" if isinstance(value, list) else "()"
        return brackets[0], brackets[1], [("", index, item) for index, item in enumerate(value)]
    return None


def hide_secrets(text: str) -> str:
    """Replace the values of variables that are named like secrets by their names.

    Args:
        text: Such as a config that uses ``{{$API_KEY:}}``.
    """
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"<{name} of the environment>")
    return text
