"""The rooms of the package: what each may import, what each does import, and how large it is."""

import ast
import io
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nlseg"
TABLE = {
    # the core, each room with those that it may import
    "errors": [],
    "bounds": ["errors"],
    "checked": ["errors", "bounds"],
    "extension": ["errors"],
    "structures": [],
    "registry": ["checked"],
    "mmseg_names": ["errors", "structures", "registry"],
    "files": [],
    "memory": [],
    "table": [],
    "label_png": [],
    "pictures": [],
    "ops": ["errors", "extension", "bounds", "structures", "registry"],
    "weights": ["errors", "structures", "registry", "files", "memory"],
    "models": [
        "errors", "extension", "bounds", "checked", "structures", "registry", "ops", "weights",
    ],
    "datasets": [
        "errors", "extension", "bounds", "structures", "registry", "files", "pictures", "ops",
    ],
    "evaluation": [
        "errors", "extension", "bounds", "structures", "registry", "files", "table", "label_png",
        "ops",
    ],
    "visualization": ["errors", "extension", "bounds", "structures", "registry", "files", "ops"],
    "config": [
        "mmseg_names", "errors", "bounds", "checked", "structures", "registry", "files", "models",
        "datasets", "weights",
    ],
    "run": [
        "errors", "bounds", "structures", "registry", "files", "memory", "table", "pictures", "ops",
        "models", "datasets", "evaluation", "visualization", "weights", "config",
    ],
    "api": [
        "errors", "structures", "registry", "files", "label_png", "models", "datasets",
        "evaluation", "visualization", "weights", "config", "run",
    ],
}  # fmt: skip
KIT = {  # what people use around a run: it may import every room of the core and this of the kit
    "doctor": [],
    "plan": [],
    "compare": ["doctor"],
    "migrate": [],
    "intake": [],
    "adopt": [],
    "start": ["doctor", "plan", "intake"],
    "predict": [],
    "export": [],
    "zoo": ["compare"],
    "report": ["compare", "zoo"],
    "publish": ["zoo"],
    "demo": ["predict"],
    "commands": [
        "doctor", "plan", "compare", "migrate", "predict", "report", "demo", "zoo", "intake",
        "export", "adopt", "publish", "start",
    ],
    "__main__": ["commands"],
}  # fmt: skip
_NO_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
)  # fmt: skip


class Room(NamedTuple):
    """A folder of the package, or a module beside the folders.

    Args:
        name: Dotted, without ``nlseg.``.
        num_files: Modules in it, without an empty ``__init__.py``.
        code_lines: Lines that are neither blank, comment nor docstring.
        imports: The other rooms that it imports, anywhere in it.
    """

    name: str
    num_files: int
    code_lines: int
    imports: frozenset[str]


def room_of(path: Path) -> str:
    """Return the row of the table that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    """List the package's modules."""
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def sources() -> dict[str, str]:
    """Return the source of every module under its dotted name, see :func:`package_graph`.

    What an ``__init__.py`` imports is left out: it re-exports what lies below.
    """
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): (
            "" if path.name == "__init__.py" else path.read_text()
        )
        for path in modules()
    }


def imported_modules(source: str) -> set[str]:
    """Return the dotted names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_rooms(source: str) -> set[str]:
    """Return the rows of the table that a module imports."""
    names = {name for name in imported_modules(source) if name.startswith("nlseg.")}
    return {name.split(".")[1] for name in names} - {"__version__"}


def allowed(room: str) -> set[str]:
    """Return what a room may import."""
    if room in KIT:
        return {room, *TABLE, *KIT[room]}
    return {room, *TABLE[room]}


def violations(room: str, source: str) -> list[str]:
    """List what a module of ``room`` imports although the table does not let it."""
    return sorted(imported_rooms(source) - allowed(room))


def package_graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which folders each folder imports; a module beside the folders is one of its own.

    Args:
        modules: Dotted name of a module without ``nlseg.`` to its source.
    """
    folders = {folder_of(name) for name in modules}
    graph: dict[str, set[str]] = {folder: set() for folder in folders}
    for name, source in modules.items():
        own = folder_of(name)
        for target in imported_modules(source):
            parts = target.split(".")[1:] if target.startswith("nlseg.") else []
            while parts and ".".join(parts) not in folders:
                parts.pop()
            if parts and ".".join(parts) != own:
                graph[own].add(".".join(parts))
    return graph


def folder_of(module: str) -> str:
    """Return the folder of a dotted module name; a module beside the folders is one of its own."""
    return module.rpartition(".")[0] or module


def rings(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """List the pairs of folders that import each other, directly or by way of others."""
    reach = {room: set(targets) for room, targets in graph.items()}
    for _ in graph:
        for targets in reach.values():
            targets |= {far for near in targets for far in reach.get(near, set())}
    pairs = ((a, b) for a in reach for b in reach[a] if a < b and a in reach.get(b, set()))
    return sorted(pairs)


def code_lines(source: str) -> int:
    """Count the lines that are neither blank, comment nor docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if constant and isinstance(node.value.value, str):
            docstrings |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def measure() -> list[Room]:
    """Return all rooms, the core first, each in the order of its table."""
    graph = package_graph(sources())
    counted: dict[str, list[int]] = {folder: [] for folder in graph}
    for path in modules():
        lines = code_lines(path.read_text())
        if lines:
            name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            counted[folder_of(name)].append(lines)
    order = [*TABLE, *KIT]
    names = sorted(graph, key=lambda name: (order.index(name.split(".")[0]), name))
    return [
        Room(name, len(counted[name]), sum(counted[name]), frozenset(graph[name])) for name in names
    ]
