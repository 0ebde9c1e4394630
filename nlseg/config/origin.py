"""Where each value of a config was written: a tree beside the config, file:line at its nodes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = str | int
KeyPath = tuple[Key, ...]
EVERY = -1
"""Child key of a list whose items were written by one expression, such as a comprehension."""


@dataclass
class Origin:
    """One value: where it stands, where its key stands, and the same for what is inside.

    Args:
        where: ``file:line`` of the value, or the override that set it.
        named_at: ``file:line`` of the key; equal to ``where`` unless the value is a variable.
        inside: Origins of a dict's values or a list's items.
        is_dict: The value is a dict, which later files are merged into.
        replaces: The dict says ``_delete_=True``: what stood there before is dropped.
        variable: Name of the top-level variable that the value was copied from.
    """

    where: str
    named_at: str = ""
    inside: "dict[Key, Origin]" = field(default_factory=dict)
    is_dict: bool = False
    replaces: bool = False
    variable: str = ""

    def find(self, path: KeyPath) -> "Origin":
        """Return the origin at a path, or the deepest one that is known on the way to it."""
        node = self
        for key in path:
            child = node.inside.get(key, node.inside.get(EVERY))
            if child is None:
                break
            node = child
        return node

    def knows(self, path: KeyPath) -> bool:
        """Tell whether a path leads to an origin of its own."""
        return not path or (path[0] in self.inside and self.inside[path[0]].knows(path[1:]))

    def put(self, path: KeyPath, new: "Origin") -> None:
        """Set the origin at a path, making the dicts on the way."""
        node = self
        for key in path[:-1]:
            node = node.inside.setdefault(key, Origin(new.where, is_dict=True))
        node.inside[path[-1]] = new

    def copies_of(self, variable: str, path: KeyPath = ()) -> Iterator[KeyPath]:
        """Yield the paths of the values that were copied from a top-level variable."""
        for key, child in self.inside.items():
            if child.variable == variable:
                yield (*path, key)
            else:
                yield from child.copies_of(variable, (*path, key))


def merged(base: Origin, new: Origin) -> Origin:
    """Lay the origins of a later file over those of an earlier one, as configs are merged."""
    if not (base.is_dict and new.is_dict) or new.replaces:
        return new
    inside = dict(base.inside)
    for key, child in new.inside.items():
        inside[key] = merged(inside[key], child) if key in inside else child
    variable = new.variable or base.variable
    return Origin(new.where, new.named_at, inside, is_dict=True, variable=variable)


@dataclass
class Trace:
    """What the files of a config say about themselves.

    Args:
        root: Origins of the whole config.
        used: Top-level names that some file reads: variables, as opposed to misspelt keys.
        files: The config file and its bases as a tree.
        late: Names that a file sets again and does not read: copies made before keep their value.
    """

    root: Origin
    used: set[str]
    files: "FileNode"
    late: set[str] = field(default_factory=set)

    def where(self, path: KeyPath) -> str:
        """Return ``file:line`` of the value at a path."""
        return self.root.find(path).where

    def named_at(self, path: KeyPath) -> str:
        """Return ``file:line`` of the key at a path."""
        node = self.root.find(path)
        return node.named_at or node.where


@dataclass
class FileNode:
    """A config file and the files that it inherits from, in the order of its ``_base_`` list."""

    path: Path
    bases: "list[FileNode]" = field(default_factory=list)

    def lines(self, indent: str = "") -> Iterator[str]:
        """Yield the tree as text, one file a line."""
        yield f"{indent}{shown(self.path)}"
        for base in self.bases:
            yield from base.lines(indent + "    ")


def shown(path: Path) -> str:
    """Return a path as a user would type it: from the working directory where it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return os.path.normpath(path)


def dotted(path: KeyPath) -> str:
    """Join a path with dots, as overrides are written."""
    return ".".join(str(key) for key in path)


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value of a config that is no non-empty dict or list of dicts, with its path."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, (list, tuple)) and any(isinstance(i, (dict, list)) for i in value):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value
