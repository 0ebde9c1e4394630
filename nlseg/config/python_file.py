"""Running a Python config file so that each key knows the line that wrote it.

The file runs as it is, with three things put in the place of others: ``dict(...)`` and ``{...}``
make dicts that know the lines of their keys, names at the top are kept in such a dict, and imported
classes of a lazy config (``with read_base()``) stay names, since nothing is built yet.
"""

import ast
import os
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from nlseg.config.marked import (
    FILE,
    Mark,
    Marked,
    Written,
    mark_of_copy,
    marks_of,
    put,
    set_place,
    set_variable,
    variable_of,
    with_marks,
)
from nlseg.config.origin import Key, KeyPath, shown
from nlseg.config.places import at
from nlseg.config.source import BASE, CALL, DISPLAY, EACH, IMPORTED, LIST, Copies, rewritten
from nlseg.errors import ConfigError

_FILE_PARTS = re.compile(
    r"\{\{\s*(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*\}\}"
)
_ENVIRONMENT = re.compile(r"\{\{['\"]?\s*\$(\w+)\s*:\s*(\S*?)\s*['\"]?\}\}")


def substituted(text: str, path: Path) -> str:
    """Fill in what a config says about its own file and the environment.

    Args:
        text: The file, with ``{{ fileBasename }}`` and its like, or ``{{$NAME:default}}``.
        path: The file.

    Returns:
        The text with the same number of lines.

    Raises:
        ConfigError: A variable of the environment is neither set nor has a default.
    """
    full = Path(os.path.abspath(path.expanduser()))
    parts = {
        "fileDirname": full.parent.as_posix(),
        "fileBasename": full.name,
        "fileBasenameNoExtension": full.stem,
        "fileExtname": full.suffix,
    }

    def from_environment(found: re.Match[str]) -> str:
        name, default = found.groups()
        if name in os.environ:
            print_log(f"Using env variable `{name}` in the config", logger="current")
        value = os.environ.get(name, default)
        if not value:
            line = text.count("\n", 0, found.start()) + 1
            raise ConfigError(f"{shown(path)}:{line}: set the environment's {name}, or a default")
        return value

    text = _FILE_PARTS.sub(lambda found: parts[found[1]], text)
    return _ENVIRONMENT.sub(from_environment, text)


class Imported:
    """A class or module that a lazy config imports: a dotted name until something is built."""

    def __init__(self, name: str) -> None:
        self.__name = name

    def __getattr__(self, name: str) -> "Imported":
        """Return the name of something inside."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Imported(f"{self.__name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Refuse a call: a config names classes and builds nothing."""
        raise TypeError(f"{self} is not built in a config; write dict(type={self}, ...)")

    def __str__(self) -> str:
        """Return the dotted name, which is what a config holds of it."""
        return self.__name

    __repr__ = __str__


class _Names(Written):
    """The names at the top of a file."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a name."""
        super().__setitem__(key, value)
        set_variable(value, key)


class ConfigFile:
    """One Python config file that is run.

    Args:
        path: The file.
        base: What its bases say, as ``_base_``; a lazy file has none.
        names: What ``with read_base()`` brings.
    """

    def __init__(
        self, path: Path, *, base: Marked | None = None, names: Marked | None = None
    ) -> None:
        self.path = path
        self.file = shown(path)
        self.lazy = base is None
        self.copies: Copies = {}
        self.names = _Names()
        self.names.update(names or {})
        dict.update(
            self.names,
            {
                DISPLAY: self._display, CALL: self._call, EACH: self._each, LIST: self._list,
                IMPORTED: Imported, FILE: self, "__file__": str(path),
            },
        )  # fmt: skip
        if base is not None:
            put(self.names, BASE, base, None)

    def run(self, tree: ast.Module) -> Written:
        """Run the file.

        Args:
            tree: The parsed file, which is changed.

        Returns:
            The values of its names, without functions and modules.
        """
        tree, self.copies = rewritten(tree, lazy=self.lazy)
        exec(compile(tree, str(self.path), "exec"), self.names)
        own, marks = Written(), marks_of(self.names)
        for name, value in dict.items(self.names):
            hidden = name.startswith("__") or name == BASE
            if not hidden and not isinstance(value, (types.FunctionType, types.ModuleType)):
                put(own, name, value, marks.get(name))
        return own

    def mark_of_statement(self, line: int, key: Key, value: Any) -> Mark:
        """Return the mark of a key that the statement at a line sets."""
        return self._mark(value, line, *self.copies.get((line, key), (line, ())))

    def _mark(self, value: Any, key_line: int, line: int, copied: KeyPath) -> Mark:
        """Return the mark of a value, which ``copied`` may have brought from another place."""
        named_at = f"{self.file}:{key_line}"
        if isinstance(value, Imported):
            copied = ()  # the import brings a name, which is a value only where it is used
        holder = at(self.names, copied[:-1]) if copied else None
        if isinstance(holder, Marked) and dict.get(holder, copied[-1]) is value:
            is_variable = len(copied) == 1 or (len(copied) == 2 and copied[0] == BASE)
            mark = mark_of_copy(named_at, holder, copied[-1], is_variable=is_variable)
            if mark is not None:
                return mark
        return Mark(named_at, f"{self.file}:{line}", variable_of(value))

    def _display(self, line: int, items: Sequence[tuple[Any, ...]]) -> Written:
        """Make what ``{...}`` makes; an item of one value is a mapping to take in."""
        result = Written()
        for item in items:
            if len(item) == 1:
                result.update(item[0])
            else:
                key, value, *place = item
                put(result, key, value, self._mark(value, *place))
        set_place(result, f"{self.file}:{line}")
        return result

    def _call(self, function: Any, line: int, args: Any, items: Sequence[tuple[Any, ...]]) -> Any:
        """Make what ``dict(...)`` makes, or call what the file means by ``dict``."""
        given = self._display(line, items)
        if len(given) < sum(len(item[0]) if len(item) == 1 else 1 for item in items):
            raise TypeError("dict() got multiple values for a keyword argument")
        if function is not dict:
            return function(*args, **given)
        plain = dict(*args, **given)
        result = Written()
        if args and isinstance(args[0], Marked):
            result.update(args[0])
            set_variable(result, variable_of(args[0]))
        for key, value in plain.items():
            mark = marks_of(given).get(key) or marks_of(result).get(key)
            put(result, key, value, mark or Mark(f"{self.file}:{line}", f"{self.file}:{line}"))
        set_place(result, f"{self.file}:{line}")
        return result

    def _each(self, line: int, key_line: int, value_line: int, values: dict[Any, Any]) -> Written:
        """Make what a dict comprehension makes."""
        mark = Mark(f"{self.file}:{key_line}", f"{self.file}:{value_line}")
        result = Written()
        for key, value in values.items():
            put(result, key, value, mark)
        set_place(result, f"{self.file}:{line}")
        return result

    def _list(self, items: Any, places: Sequence[tuple[int, KeyPath]]) -> Any:
        """Make what ``[...]`` or ``(...)`` makes."""
        marks = [
            self._mark(item, line, line, copied)
            for item, (line, copied) in zip(items, places, strict=True)
        ]
        return with_marks(items, marks)
