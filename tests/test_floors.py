"""Rooms with one door: imports go down the table only, and no two rooms import each other."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nlseg"
TABLE = {
    # the core, each room with those that it may import
    "errors": [],
    "bounds": ["errors"],
    "checked": ["errors", "bounds"],
    "extension": ["errors"],
    "structures": [],
    "registry": ["checked"],
    "files": [],
    "table": [],
    "ops": ["errors", "extension", "bounds", "structures", "registry"],
    "weights": ["errors", "structures", "registry", "files"],
    "models": [
        "errors", "extension", "bounds", "checked", "structures", "registry", "ops", "weights",
    ],
    "datasets": ["errors", "bounds", "structures", "registry", "files", "ops"],
    "evaluation": ["errors", "bounds", "structures", "registry", "files", "table", "ops"],
    "visualization": ["errors", "bounds", "structures", "registry", "files", "ops"],
    "config": [
        "errors", "bounds", "checked", "structures", "registry", "files", "models", "datasets",
        "weights",
    ],
    "run": [
        "errors", "bounds", "structures", "registry", "files", "table", "ops", "models",
        "datasets", "evaluation", "visualization", "weights", "config",
    ],
    "api": [
        "errors", "structures", "registry", "models", "datasets", "weights", "config", "run",
    ],
}  # fmt: skip
KIT = {  # what people use around a run: it may import every room of the core and this of the kit
    "doctor": [],
    "plan": [],
    "compare": ["doctor"],
    "migrate": [],
    "predict": [],
    "demo": ["predict"],
    "commands": ["doctor", "plan", "compare", "migrate", "predict", "demo"],
    "__main__": ["commands"],
}
NAMES_TO_AVOID = {"utils.py", "misc.py", "common.py", "helpers.py"}


def room_of(path: Path) -> str:
    """Return the room that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str) -> set[str]:
    """Return the rooms that a module imports, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("nlseg.")} - {"__version__"}


def allowed(room: str) -> set[str]:
    """Return what a room may import."""
    if room in KIT:
        return {room, *TABLE, *KIT[room]}
    return {room, *TABLE[room]}


def violations(room: str, source: str) -> list[str]:
    """List what a module of ``room`` imports although the table does not let it."""
    return sorted(imported(source) - allowed(room))


def rings(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """List the pairs of folders that import each other, directly or by way of others."""
    reach = {room: set(targets) for room, targets in graph.items()}
    for _ in graph:
        for targets in reach.values():
            targets |= {far for near in targets for far in reach.get(near, set())}
    pairs = ((a, b) for a in reach for b in reach[a] if a < b and a in reach.get(b, set()))
    return sorted(pairs)


def package_graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which folders each folder imports; a module beside the folders is one of its own.

    Args:
        modules: Dotted name of a module without ``nlseg.`` to its source.
    """
    folders = {name.rpartition(".")[0] or name for name in modules}
    graph: dict[str, set[str]] = {folder: set() for folder in folders}
    for name, source in modules.items():
        own = name.rpartition(".")[0] or name
        for node in ast.walk(ast.parse(source)):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            for target in targets:
                parts = target.split(".")[1:] if target.startswith("nlseg.") else []
                while parts and ".".join(parts) not in folders:
                    parts.pop()
                if parts and ".".join(parts) != own:
                    graph[own].add(".".join(parts))
    return graph


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    room = room_of(path)
    assert room in TABLE or room in KIT, f"{path}: give the room {room} a row in the table"
    assert violations(room, path.read_text()) == []


def test_the_table_has_no_ring_and_every_room_exists() -> None:
    order = list(TABLE)
    assert all(order.index(target) < order.index(room) for room in TABLE for target in TABLE[room])
    kit = list(KIT)
    assert all(kit.index(target) < kit.index(room) for room in KIT for target in KIT[room])
    assert {room_of(path) for path in MODULES} == {*TABLE, *KIT}


def test_no_two_folders_import_each_other() -> None:
    modules = {}
    for path in MODULES:
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        modules[name] = "" if path.name == "__init__.py" else path.read_text()
    assert rings(package_graph(modules)) == []


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        ("ops", "import nlseg.run.runner", ["run"]),  # upward
        ("weights", "from nlseg.config import load_config", ["config"]),
        ("models", "from nlseg.datasets.base import BaseSegDataset", ["datasets"]),  # sideways
        ("datasets", "def f():\n    from nlseg.models import resnet", ["models"]),
        ("run", "from nlseg.doctor.hook import DataCheckHook", ["doctor"]),  # core to kit
        ("api", "from nlseg import plan", ["plan"]),
        ("doctor", "from nlseg.compare.sweep import run_all", ["compare"]),  # within the kit
        ("run", "from nlseg.models import resnet", []),
    ],
)
def test_a_planted_violation_is_found(room: str, source: str, found: list[str]) -> None:
    assert violations(room, source) == found


def test_a_planted_ring_is_found() -> None:
    modules = {
        "run.hooks.ema": "from nlseg.run.saving.file import save",
        "run.saving.file": "from nlseg.run.state import RunState",
        "run.state": "import nlseg.run.hooks.ema",
        "ops.attention": "",
    }
    assert rings(package_graph(modules)) == [
        ("run", "run.hooks"), ("run", "run.saving"), ("run.hooks", "run.saving"),
    ]  # fmt: skip
    modules["run.state"] = "from nlseg.ops import attention"
    assert rings(package_graph(modules)) == []


def test_no_file_is_a_drawer() -> None:
    assert [p for p in MODULES if p.name in NAMES_TO_AVOID] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=str)
def test_package_files_hold_exports_only(path: Path) -> None:
    permitted = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    odd = [
        type(n).__name__ for n in ast.parse(path.read_text()).body if not isinstance(n, permitted)
    ]
    assert odd == [] or path == PACKAGE / "__init__.py"


def imports_of(tree: ast.AST) -> set[str]:
    """Return every module named by an import statement."""
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules


def test_compiled_ops_of_mmcv_are_never_imported() -> None:
    files = [*MODULES, *sorted((ROOT / "tools").rglob("*.py"))]
    found = [p for p in files if "mmcv.ops" in imports_of(ast.parse(p.read_text()))]
    assert found == []
