"""Reading a config file with those that it inherits from, and the line that wrote each value."""

import ast
import importlib.util
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlseg.config.data_file import read_data
from nlseg.config.marked import (
    Mark,
    Marked,
    MarkedConfigDict,
    MarkedList,
    MarkedTuple,
    Written,
    as_config_dict,
    mark_of_copy,
    marks_of,
    merged,
    origin_of,
    put,
)
from nlseg.config.origin import FileNode, Trace, shown
from nlseg.config.places import at
from nlseg.config.python_file import ConfigFile, Imported, substituted
from nlseg.config.runner_keys import RUN_KEYS
from nlseg.config.source import (
    BASE,
    base_statements,
    imported_names,
    is_lazy,
    names_read,
    parsed,
    reads_base,
)
from nlseg.config.text import RESOLVED
from nlseg.errors import ConfigError, nearest

DEPRECATION = "_deprecation_"
_BASE_VALUE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_STAND_IN = "__base_value__:"


@dataclass
class _Read:
    """What a file says together with its bases.

    Args:
        values: The merged values.
        files: The tree of files.
        text: The files one after the other.
        used: Top-level names that some of the files read.
        late: Names that a file sets again after its base used them.
        imported: Names of imported classes in a lazy file.
    """

    values: MarkedConfigDict
    files: FileNode
    text: str
    used: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)


def read_files(path: Path) -> tuple[dict[str, Any], str, Trace]:
    """Read a config file and its bases.

    Args:
        path: A file in Python, JSON or YAML.

    Returns:
        The values in plain dicts, lists and tuples, the text of all files, and the origins.

    Raises:
        ConfigError: A file is not there, is not of its notation, or does not fit its base. What the
            files raise themselves passes through.
    """
    read = _read(path, ())
    root = origin_of(read.values, None, shown(path))
    values = {key: plain(value) for key, value in dict.items(read.values)}
    for name in read.imported & values.keys():
        del values[name]
    return values, read.text, Trace(root, read.used, read.files, read.late)


def plain(value: Any) -> Any:
    """Return a value in plain dicts, lists and tuples, with imported classes as their names."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in dict.items(value)}
    if isinstance(value, (list, tuple)):
        kind = {MarkedList: list, MarkedTuple: tuple}.get(type(value), type(value))
        return kind(plain(item) for item in value)
    return str(value) if isinstance(value, Imported) else value


def _read(path: Path, outer: tuple[Path, ...]) -> _Read:
    if path.resolve() in outer:
        raise ConfigError(f"{shown(path)}: this file inherits from itself")
    outer = (*outer, path.resolve())
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return _read_data(path, text, outer)
    tree = parsed(text, path)
    if is_lazy(tree):
        return _read_lazy(path, text, tree, outer)
    source = substituted(text, path)
    return _read_python(path, text, tree if source == text else parsed(source, path), outer)


def _read_python(path: Path, text: str, tree: ast.Module, outer: tuple[Path, ...]) -> _Read:
    bases = [_follow(*base, path, outer) for base in _named_bases(tree, path)]
    base, read = _union(bases, path), names_read(tree)
    own = ConfigFile(path, base=base).run(tree)
    _warn_of_deprecation(own, path)
    used, late = read.union(*(item.used for item in bases)), (own.keys() & base.keys()) - read
    if text.startswith(RESOLVED):
        used |= {name for name in own if not nearest(name, RUN_KEYS)}
    return _Read(
        merged(base, own),
        FileNode(path, [item.files for item in bases]),
        _all_text(bases, path, text),
        used,
        late.union(*(item.late for item in bases)),
    )


def _named_bases(tree: ast.Module, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the names under ``_base_`` and ``file:line`` of each."""
    statements = base_statements(tree)
    for statement in statements:
        if statement not in tree.body:
            where = f"{shown(path)}:{statement.lineno}"
            raise ConfigError(f"{where}: {BASE} is read before the file runs; set it at the top")
    for statement in statements[:1]:  # the first one counts, as in mmengine
        code = compile(ast.Expression(statement.value), str(path), "eval")
        named = eval(code, {})
        names = list(named) if isinstance(named, (list, tuple)) else [named]
        nodes = getattr(statement.value, "elts", [])
        for index, name in enumerate(names):
            node = nodes[index] if len(nodes) == len(names) else statement
            yield name, f"{shown(path)}:{node.lineno}"


def _follow(name: str, where: str, path: Path, outer: tuple[Path, ...]) -> _Read:
    """Read a base file; one of another package says in which scope its classes are found."""
    scope, found, inside = name.rpartition("::")
    if not found:
        return _read(_existing(path.parent / name, f"{where}: {BASE}"), outer)
    base = _read(_existing(_package(scope, where) / ".mim/configs" / inside, where), outer)
    _set_scope(base.values, scope)
    return base


def _package(name: str, where: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{where}: the package {name!r} is not installed")
    return Path(spec.submodule_search_locations[0])


def _existing(path: Path, named: str) -> Path:
    """Return a path, or say that there is no such file and what is like it."""
    if path.is_file():
        return path
    siblings = [item.name for item in path.parent.glob("*") if item.suffix == path.suffix]
    raise ConfigError(f"{named}: there is no {shown(path)}{nearest(path.name, siblings)}")


def _set_scope(value: Any, scope: str) -> None:
    """Say of the outermost dicts that name a type in which scope it is looked up."""
    if isinstance(value, dict):
        if "type" in value:
            value.setdefault("_scope_", scope)
        else:
            for item in value.values():
                _set_scope(item, scope)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _set_scope(item, scope)


def _union(bases: Iterable[_Read], path: Path) -> MarkedConfigDict:
    """Put the values of several bases side by side."""
    result = MarkedConfigDict()
    for base in bases:
        marks = marks_of(base.values)
        for key, value in dict.items(base.values):
            if key in result:
                places = " and ".join(
                    mark.named_at for mark in (marks_of(result).get(key), marks.get(key)) if mark
                )
                raise ConfigError(
                    f"{shown(path)}: {BASE}: Duplicate key is not allowed among bases: {key!r} is "
                    f"in {places}"
                )
            put(result, key, value, marks.get(key))
    return result


def _warn_of_deprecation(own: Written, path: Path) -> None:
    told = own.pop(DEPRECATION, None)
    if told is not None:
        text = f"The config file {path} will be deprecated in the future."
        if "expected" in told:
            text += f" Please use {told['expected']} instead."
        if "reference" in told:
            text += f" More information can be found at {told['reference']}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)


def _all_text(bases: Iterable[_Read], path: Path, text: str) -> str:
    own = f"{os.path.abspath(path)}\n{text}"
    return "\n".join([*(base.text for base in bases), own])


def _read_lazy(path: Path, text: str, tree: ast.Module, outer: tuple[Path, ...]) -> _Read:
    """Read a file that takes names from its bases by ``with read_base(): from .base import *``."""
    names, bases = Written(), []
    statements = [node for node in tree.body if isinstance(node, ast.With) and reads_base(node)]
    for node in [inner for statement in statements for inner in statement.body]:
        where = f"{shown(path)}:{node.lineno}"
        if not isinstance(node, ast.ImportFrom) or not node.module:
            raise ConfigError(f"{where}: under read_base() stand only: from module import names")
        base = _read(_existing(_module_file(node, path, where), f"{where}: read_base"), outer)
        bases.append(base)
        _take_names(names, base.values, node, where)
    read, imported = names_read(tree), imported_names(tree)
    own = ConfigFile(path, names=names).run(tree)
    return _Read(
        as_config_dict(own),
        FileNode(path, [item.files for item in bases]),
        text,
        read.union(*(item.used for item in bases)),
        imported=imported.union(*(item.imported for item in bases)),
    )


def _module_file(node: ast.ImportFrom, path: Path, where: str) -> Path:
    """Return the file of a base module, relative to the config or inside of a package."""
    parts = (node.module or "").split(".")
    if node.level:
        folder = path.parent.joinpath(*[".."] * (node.level - 1))
    else:
        folder, parts = _package(parts[0], where), parts[1:]
    return folder.joinpath(*parts).with_suffix(".py")


def _take_names(names: Written, base: Marked, node: ast.ImportFrom, where: str) -> None:
    for alias in node.names:
        wanted = list(base) if alias.name == "*" else [alias.name]
        for name in wanted:
            if name not in base:
                raise ConfigError(f"{where}: {node.module} has no {name!r}{nearest(name, base)}")
            put(names, alias.asname or name, dict.get(base, name), marks_of(base).get(name))


def _read_data(path: Path, text: str, outer: tuple[Path, ...]) -> _Read:
    """Read a YAML or JSON file, and fill in what it takes from its bases."""
    source = substituted(text, path)
    used = set(re.findall(r"\{\{\s*_base_\.(\w+)", source))
    own = read_data(_BASE_VALUE.sub(rf'"{_STAND_IN}\1"', source), path)
    mark = marks_of(own).get(BASE)
    named = own.pop(BASE, [])
    names = named if isinstance(named, list) else [named]
    bases = [_follow(str(name), mark.where if mark else "", path, outer) for name in names]
    base = _union(bases, path)
    _warn_of_deprecation(own, path)
    _fill_in(own, base)
    return _Read(
        merged(base, own),
        FileNode(path, [item.files for item in bases]),
        _all_text(bases, path, text),
        used.union(*(item.used for item in bases)),
        set().union(*(item.late for item in bases)),
    )


def _fill_in(own: Marked, base: MarkedConfigDict) -> None:
    for key, value in list(dict.items(own)):
        mark = marks_of(own).get(key) or Mark("", "")
        put(own, key, *_filled(value, base, mark))


def _filled(value: Any, base: MarkedConfigDict, mark: Mark) -> tuple[Any, Mark]:
    """Return a value with those of the base in the place of their stand-ins, and its mark."""
    if isinstance(value, Marked):
        _fill_in(value, base)
    elif isinstance(value, (list, tuple)):
        value = type(value)(_filled(item, base, mark)[0] for item in value)
    elif isinstance(value, str) and value.startswith(_STAND_IN):
        *before, last = value.removeprefix(_STAND_IN).split(".")
        holder = at(base, tuple(before))
        if not isinstance(holder, dict) or last not in holder:
            raise ConfigError(f"{mark.where}: the base has no {'.'.join((*before, last))!r}")
        copied = mark_of_copy(mark.named_at, holder, last, is_variable=not before)
        return deepcopy(dict.get(holder, last)), copied or mark
    return value, mark
