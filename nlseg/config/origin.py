"""Where each value of a config was written: a tree beside the config, file:line at its nodes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = str | int
KeyPath = tuple[Key, ...]


@dataclass
class Origin:
    """One value: where it stands, where its key stands, and the same for what is inside.

    Args:
        where: ``file:line`` of the value, or the override that set it.
        named_at: ``file:line`` of the key; differs from ``where`` if the value is a variable.
        inside: Origins of a dict's values or a list's items, as far as they are known.
        variable: Name of the top-level variable that the value was copied from.
    """

    where: str
    named_at: str = ""
    inside: "dict[Key, Origin]" = field(default_factory=dict)
    variable: str = ""

    def find(self, path: KeyPath) -> "Origin":
        """Return the origin at a path, or the deepest one that is known on the way to it."""
        node = self
        for key in path:
            if key not in node.inside:
                break
            node = node.inside[key]
        return node

    def put(self, path: KeyPath, value: Any, where: str) -> None:
        """Note that one place set the value at a path.

        Args:
            path: Keys and list positions.
            value: A dict without ``_delete_`` is merged into what was there: other keys keep their
                origins. Anything else replaces it.
            where: The place, such as the override.
        """
        node = self
        for key in path[:-1]:
            node = node.inside.setdefault(key, Origin(where))
        old = node.inside.get(path[-1])
        if isinstance(value, dict) and not value.get("_delete_") and old is not None and old.inside:
            for key, item in value.items():
                old.put((key,), item, where)
        else:
            node.inside[path[-1]] = Origin(where)

    def copies_of(self, variable: str, path: KeyPath = ()) -> Iterator[KeyPath]:
        """Yield the paths of the values that were copied from a top-level variable."""
        for key, child in self.inside.items():
            if child.variable == variable:
                yield (*path, key)
            else:
                yield from child.copies_of(variable, (*path, key))


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
