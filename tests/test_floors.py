"""Imports only go down: names < maths < parts < wiring < door < commands."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nlseg"
FLOORS = {
    "registry": 0, "structures": 0, "errors": 0, "arguments": 0,
    "ops": 1,
    "models": 2, "datasets": 2, "evaluation": 2, "visualization": 2,
    "engine": 3,
    "api": 4,
}  # fmt: skip
NAMES_TO_AVOID = {"utils.py", "misc.py", "common.py", "helpers.py"}


def imported(tree: ast.AST) -> set[str]:
    """Return the parts of nlseg that a module imports, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            names += [f"{module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("nlseg.")}


def violations(part: str, source: str) -> list[str]:
    """List what a module of ``part`` imports although it lies on the same or a higher floor."""
    own = FLOORS[part]
    targets = imported(ast.parse(source)) - {part, "__version__"}
    return sorted(target for target in targets if FLOORS[target] > own or FLOORS[target] == own > 0)


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in FLOORS, f"{path}: which floor is it on? Add it to FLOORS"
    assert violations(part, path.read_text()) == []


def test_a_planted_violation_is_found() -> None:
    assert violations("models", "from nlseg.datasets.base import BaseSegDataset") == ["datasets"]
    assert violations("ops", "import nlseg.engine.runner") == ["engine"]
    assert violations("datasets", "def f():\n    from nlseg.models import resnet") == ["models"]
    assert violations("engine", "from nlseg.models import resnet") == []


def test_no_file_is_a_drawer() -> None:
    assert [p for p in MODULES if p.name in NAMES_TO_AVOID] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=str)
def test_package_files_hold_exports_only(path: Path) -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    odd = [type(n).__name__ for n in ast.parse(path.read_text()).body if not isinstance(n, allowed)]
    assert odd == [] or path == PACKAGE / "__init__.py"


def imports_of(tree: ast.AST) -> set[str]:
    """Return every module named by an import statement."""
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules


def test_compiled_ops_of_mmcv_are_never_imported() -> None:
    files = [*MODULES, *sorted((PACKAGE.parent / "tools").rglob("*.py"))]
    found = [p for p in files if "mmcv.ops" in imports_of(ast.parse(p.read_text()))]
    assert found == []
