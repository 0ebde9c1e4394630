"""Reading config files as text, without running them, to learn where each value was written."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from nlseg.config.expressions import Scope, describe
from nlseg.config.origin import FileNode, Key, Origin, Trace, merged, shown
from nlseg.config.runner_keys import RUN_KEYS, nearest
from nlseg.config.text import RESOLVED
from nlseg.errors import ConfigError

BASE = "_base_"
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try)


def trace_files(path: str | Path) -> Trace:
    """Follow a config file and its bases and note where each value stands.

    What a config computes (loops, calls) is attributed to the statement that computes it.

    Args:
        path: A config file that loads.

    Returns:
        Origins of the resolved config, the names that the files use, and the tree of files.

    Raises:
        ConfigError: A base file is not there, or a Python file is none.
    """
    path = Path(path)
    if path.suffix == ".py":
        return _trace_python(path)
    return _trace_data(path)


def _follow(base: Path, named_in: str) -> Trace:
    """Trace a base file, or say which line names one that is not there."""
    if not base.is_file():
        siblings = [item.name for item in base.parent.glob("*") if item.suffix == base.suffix]
        hint = nearest(base.name, siblings)
        raise ConfigError(f"{named_in}: {BASE}: there is no {shown(base)}{hint}")
    return trace_files(base)


def _trace_python(path: Path) -> Trace:
    body = _parse(path)
    bases = [_follow(base, f"{shown(path)}:{line}") for base, line in _base_files(path, body)]
    imported = {base.files.path.stem: base.root for base in bases}
    scope = Scope(shown(path), _union(shown(path), [base.root for base in bases]))
    used: set[str] = set().union(*(base.used for base in bases), _names_read(body))
    lazy = any(isinstance(node, ast.With) for node in body)
    if path.read_text(encoding="utf-8").startswith(RESOLVED):
        names = {_target_name(node) for node in body if isinstance(node, ast.Assign)}
        used |= {name for name in names if not nearest(name, RUN_KEYS, cutoff=0.8)}
    if lazy:
        scope.names.update(scope.base.inside)
    for statement in _flat(body):
        _read_statement(statement, scope, imported)
    local = Origin(shown(path), inside=dict(scope.names), is_dict=True)
    root = local if lazy else merged(scope.base, local)
    root.inside.pop(BASE, None)
    late = {str(name) for name in scope.names if name in scope.base.inside} - _names_read(body)
    late = late.union(*(base.late for base in bases)) if not lazy else set()
    return Trace(root, used, FileNode(path, [base.files for base in bases]), late)


def _parse(path: Path) -> list[ast.stmt]:
    try:
        return ast.parse(path.read_text(encoding="utf-8")).body
    except SyntaxError as error:
        raise ConfigError(f"{shown(path)}:{error.lineno}: {error.msg}: {error.text}") from error


def _union(where: str, roots: list[Origin]) -> Origin:
    inside: dict[Key, Origin] = {}
    for root in roots:
        inside.update(root.inside)
    return Origin(where, inside=inside, is_dict=True)


def _base_files(path: Path, body: list[ast.stmt]) -> Iterator[tuple[Path, int]]:
    """Yield the local files that ``_base_`` or ``with read_base()`` names, and the line."""
    for node in body:
        if isinstance(node, ast.Assign) and _target_name(node) == BASE:
            for name in _strings(node.value):
                if "::" not in name:
                    yield path.parent / name, node.lineno
        elif isinstance(node, ast.With):
            for item in node.body:
                if isinstance(item, ast.ImportFrom) and item.level and item.module:
                    folder = path.parent.joinpath(*[".."] * (item.level - 1))
                    yield folder / (item.module.replace(".", "/") + ".py"), item.lineno


def _strings(node: ast.expr) -> list[str]:
    items = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
    return [str(item.value) for item in items if isinstance(item, ast.Constant)]


def _target_name(node: ast.Assign) -> str:
    target = node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


def _names_read(body: list[ast.stmt]) -> set[str]:
    """Collect the names that a file reads, ``_base_.name`` included."""
    names = set()
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.update(re.findall(r"\{\{\s*_base_\.(\w+)", node.value))
    return names


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements in order, those inside of ``if``, ``for`` and ``with`` too."""
    for node in body:
        if isinstance(node, COMPOUND):
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from _flat(getattr(node, part, []))
        else:
            yield node


def _read_statement(node: ast.stmt, scope: Scope, imported: dict[str, Origin]) -> None:
    """Note what an assignment, an import from a base or ``x.update(...)`` writes."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            scope.assign(target, node.value)
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        scope.assign(node.target, node.value)
    elif isinstance(node, ast.AugAssign):
        total = ast.BinOp(node.target, node.op, node.value)
        scope.assign(node.target, ast.copy_location(total, node))
    elif isinstance(node, ast.ImportFrom) and node.module:
        _read_import(node, scope, imported.get(node.module.rpartition(".")[2]))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        _read_update(node.value, scope)


def _read_import(node: ast.ImportFrom, scope: Scope, base: Origin | None) -> None:
    for alias in node.names:
        if base is not None and alias.name in base.inside:
            scope.names[alias.asname or alias.name] = base.inside[alias.name]


def _read_update(call: ast.Call, scope: Scope) -> None:
    """Note what ``x.update(dict(...))`` and ``x.update(key=...)`` write."""
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr in ("update", "merge"):
        as_dict = ast.Call(ast.Name("dict"), call.args, call.keywords)
        new = describe(ast.copy_location(as_dict, call), scope)
        holder = scope.resolve(function.value)
        if holder is not None and holder.is_dict:
            holder.inside = merged(holder, new).inside


def _trace_data(path: Path) -> Trace:
    """Trace a YAML or JSON file; what cannot be read as YAML text counts as its first line."""
    text = path.read_text(encoding="utf-8")
    used = set(re.findall(r"\{\{\s*_base_\.(\w+)", text))
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if not isinstance(node, yaml.MappingNode):
        return Trace(Origin(f"{shown(path)}:1", is_dict=True), used, FileNode(path))
    root = _describe_yaml(node, shown(path))
    bases = [_follow(path.parent / name, f"{shown(path)}:1") for name in _yaml_bases(node)]
    base = _union(shown(path), [item.root for item in bases])
    root = merged(base, root)
    root.inside.pop(BASE, None)
    used = used.union(*(item.used for item in bases))
    return Trace(root, used, FileNode(path, [item.files for item in bases]))


def _yaml_bases(node: yaml.MappingNode) -> list[str]:
    for key, value in node.value:
        if key.value == BASE:
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            return [item.value for item in items]
    return []


def _describe_yaml(node: yaml.Node, file: str) -> Origin:
    origin = Origin(f"{file}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        origin.is_dict = True
        for key, value in node.value:
            child = _describe_yaml(value, file)
            child.named_at = f"{file}:{key.start_mark.line + 1}"
            origin.inside[key.value] = child
        origin.replaces = "_delete_" in origin.inside
    elif isinstance(node, yaml.SequenceNode):
        origin.inside = {i: _describe_yaml(item, file) for i, item in enumerate(node.value)}
    return origin
