"""The source of a Python config file: what it inherits and reads, and how it is written anew.

Written anew, it does the same, but its dicts and lists come from functions that are told the lines:

    model = dict(            model = __call__(dict, 1, (), [
        type='A',                ('type', 'A', 2, 2, ()),
        norm=norm)               ('norm', norm, 3, 3, ('norm',))])
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlseg.config.origin import Key, KeyPath, shown
from nlseg.errors import ConfigError

BASE = "_base_"
DISPLAY, CALL, EACH, LIST, IMPORTED = (
    "__display__", "__call__", "__each__", "__list__", "__imported__",
)  # fmt: skip
"""Functions that the namespace of the file has to hold; see ``ConfigFile``."""
Copies = dict[tuple[int, Key], tuple[int, KeyPath]]
"""Statements that copy a value, such as ``x.key = y['z']``: line and key to line and path of it."""


def parsed(text: str, path: Path) -> ast.Module:
    """Parse a Python config file.

    Raises:
        ConfigError: It is not Python.
    """
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise ConfigError(f"{shown(path)}:{error.lineno}: {error.msg}: {error.text}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise ConfigError(f"{shown(path)}: this cannot be read as Python: {error}") from error


def rewritten(tree: ast.Module, *, lazy: bool) -> tuple[ast.Module, Copies]:
    """Write a file anew so that its dicts and lists are told their lines.

    Args:
        tree: The parsed file, which is changed. ``_base_ = ...`` is left out.
        lazy: Leave ``with read_base()`` out, and turn the imports of classes into their names.

    Returns:
        The new tree, and the statements that copy a value.
    """
    rewriting = _Rewriting(lazy=lazy)
    return ast.fix_missing_locations(rewriting.visit(tree)), rewriting.copies


def is_lazy(tree: ast.Module) -> bool:
    """Return whether a file inherits by ``with read_base()`` or imports classes to name them."""
    if base_statements(tree):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and reads_base(node):
            return True
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not is_standard(node):
            return True
    return False


def base_statements(tree: ast.Module) -> list[ast.Assign]:
    """Return the statements that name the bases of a file, in whatever block they stand."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == BASE
    ]


def reads_base(node: ast.With) -> bool:
    """Return whether a statement is ``with read_base():``."""
    call = node.items[0].context_expr
    return isinstance(call, ast.Call) and getattr(call.func, "id", "") == "read_base"


def is_standard(node: ast.Import | ast.ImportFrom) -> bool:
    """Return whether an import is one of Python itself, which a config may use."""
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""] if node.level == 0 else [""]
        if node.module == "mmengine" and [item.name for item in node.names] == ["Config"]:
            return True
    else:
        names = [item.name for item in node.names]
    return all(
        name.partition(".")[0] in sys.stdlib_module_names or name.startswith("mmengine.config")
        for name in names
    )


def imported_names(tree: ast.Module) -> set[str]:
    """Return the names that the imports of a lazy file bring, base files aside."""
    bases = {
        id(item) for node in ast.walk(tree) if isinstance(node, ast.With) for item in node.body
    }
    return {
        (item.asname or item.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in bases
        for item in node.names
    }


def names_read(tree: ast.Module) -> set[str]:
    """Return the names that a file reads, ``_base_.name`` included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(node.attr)
    return names


class _Rewriting(ast.NodeTransformer):
    """Puts dicts that know their lines in the place of the plain ones."""

    def __init__(self, *, lazy: bool) -> None:
        self.lazy = lazy
        self.copies: Copies = {}
        self.shared: frozenset[str] = frozenset()
        """Names that the function at hand declares global."""

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        line = node.lineno
        items = [
            _item(self.visit(value), key and self.visit(key))
            for key, value in zip(node.keys, node.values, strict=True)
        ]
        return _called(DISPLAY, node, ast.Constant(line), ast.List(items, ast.Load()))

    def visit_List(self, node: ast.List | ast.Tuple) -> ast.expr:
        """Note where the items stand, if they have lines of their own or come from elsewhere."""
        self.generic_visit(node)
        places = tuple((item.lineno, _path_of(item)) for item in node.elts)
        told = node.end_lineno != node.lineno or any(path for _, path in places)
        unpacked = any(isinstance(item, ast.Starred) for item in node.elts)
        if not isinstance(node.ctx, ast.Load) or unpacked or not told:
            return node
        return _called(LIST, node, node, _constant(places))

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return self.visit_List(node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.expr:
        lines = [ast.Constant(part.lineno) for part in (node, node.key, node.value)]
        self.generic_visit(node)
        return _called(EACH, node, *lines, node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        items = [
            _item(word.value, ast.copy_location(ast.Constant(word.arg), word) if word.arg else None)
            for word in node.keywords
        ]
        listed = ast.List(items, ast.Load())
        if isinstance(node.func, ast.Name) and node.func.id == "dict":
            args = ast.Tuple(node.args, ast.Load())
            return _called(CALL, node, node.func, ast.Constant(node.lineno), args, listed)
        updates = isinstance(node.func, ast.Attribute) and node.func.attr in ("update", "merge")
        if updates and items and not node.args:
            # each key with its own line
            node.args = [_called(DISPLAY, node, ast.Constant(node.lineno), listed)]
            node.keywords = []
        return node

    def visit_Set(self, node: ast.Set) -> ast.expr:
        """Take ``{{_base_.x}}``, which Python reads as a set in a set, for ``_base_['x']``."""
        inner = node.elts[0]
        while isinstance(inner, ast.Set) and len(inner.elts) == 1:
            inner = inner.elts[0]
        path = _path_of(inner)
        if path[:1] != (BASE,) or inner is node.elts[0]:
            self.generic_visit(node)
            return node
        value: ast.expr = ast.Name(BASE, ast.Load())
        for key in path[1:]:
            value = ast.Subscript(value, ast.Constant(key), ast.Load())
        return ast.copy_location(value, node)

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
        if isinstance(node.targets[0], ast.Name) and node.targets[0].id == BASE:
            return None
        self.generic_visit(node)
        node.targets = [self._named(target) for target in node.targets]
        for target in node.targets:
            self._note_copy(target, node.value)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        if node.value is not None:
            self._note_copy(node.target, node.value)
        return node

    def _note_copy(self, target: ast.expr, value: ast.expr) -> None:
        key, copied = _path_of(target, last=True), _path_of(value)
        if key and copied:
            self.copies[target.lineno, key[-1]] = (value.lineno, copied)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        """Let a function set the names that it declares global where their lines are noted."""
        before, self.shared = self.shared, frozenset(_declared_global(node))
        self.generic_visit(node)
        self.shared = before
        return node

    def _named(self, target: ast.expr) -> ast.expr:
        if not isinstance(target, ast.Name) or target.id not in self.shared:
            return target
        names = ast.Call(ast.Name("globals", ast.Load()), [], [])
        key = ast.Constant(target.id)
        return ast.copy_location(ast.Subscript(names, key, ast.Store()), target)

    def visit_With(self, node: ast.With) -> ast.stmt | None:
        if self.lazy and reads_base(node):
            return None
        self.generic_visit(node)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if not self.lazy or is_standard(node):
            return node
        module = "." * node.level + (node.module or "")
        return [
            _import(node, item.asname or item.name, f"{module}.{item.name}") for item in node.names
        ]

    def visit_Import(self, node: ast.Import) -> Any:
        if not self.lazy or is_standard(node):
            return node
        return [
            _import(node, item.asname, item.name)
            if item.asname
            else _import(node, *[item.name.partition(".")[0]] * 2)
            for item in node.names
        ]


def _declared_global(function: ast.FunctionDef) -> Iterator[str]:
    """Yield the names that a function declares global, functions inside of it aside."""
    inside: list[ast.AST] = list(function.body)
    while inside:
        node = inside.pop()
        if isinstance(node, ast.Global):
            yield from node.names
        elif not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            inside += ast.iter_child_nodes(node)


def _called(name: str, node: ast.expr, *args: ast.expr) -> ast.expr:
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), list(args), []), node)


def _item(value: ast.expr, key: ast.expr | None) -> ast.expr:
    """Write one item of a dict as (key, value, line of the key, line of the value, its path)."""
    if key is None:
        return ast.Tuple([value], ast.Load())
    lines = [ast.Constant(key.lineno), ast.Constant(value.lineno)]
    return ast.Tuple([key, value, *lines, _constant(_path_of(value))], ast.Load())


def _constant(value: tuple[Any, ...]) -> ast.expr:
    """Write a tuple of constants."""
    return ast.Tuple(
        [_constant(item) if isinstance(item, tuple) else ast.Constant(item) for item in value],
        ast.Load(),
    )


def _import(node: ast.stmt, name: str, dotted_name: str) -> ast.stmt:
    value = ast.Call(ast.Name(IMPORTED, ast.Load()), [ast.Constant(dotted_name)], [])
    return ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), node)


def _path_of(node: ast.expr, *, last: bool = False) -> KeyPath:
    """Return the path that ``name.key[0]`` reads, nothing for other expressions.

    Args:
        node: The expression.
        last: Only the last key is wanted, whatever stands before it.
    """
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        key: Any = node.attr
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        key = node.slice.value
    else:
        return ()
    before = _path_of(node.value)
    return (*before, key) if before or last else ()
