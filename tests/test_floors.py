"""Rooms with one door: imports go down the table only, and no two rooms import each other."""

import ast
from functools import cache
from pathlib import Path

import pytest

from misc.print_tree import print_rooms
from misc.rooms import (
    KIT,
    PACKAGE,
    ROOT,
    TABLE,
    Room,
    code_lines,
    imported_modules,
    measure,
    modules,
    package_graph,
    rings,
    room_of,
    sources,
    violations,
)
from tests.cases import each_case

NAMES_TO_AVOID = {"utils.py", "misc.py", "common.py", "helpers.py"}
MODULES = modules()


@each_case("path", MODULES)
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
    assert rings(package_graph(sources())) == []


@each_case(
    "room, source, found",
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


@each_case("path", sorted(PACKAGE.rglob("__init__.py")))
def test_package_files_hold_exports_only(path: Path) -> None:
    permitted = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    nodes = ast.parse(path.read_text()).body
    odd = [
        type(node).__name__
        for node in nodes
        if not isinstance(node, permitted) and not exports_when_asked(node)
    ]
    assert odd == [] or path == PACKAGE / "__init__.py"


def exports_when_asked(node: ast.stmt) -> bool:
    """Return whether a statement is part of an export that is imported when it is asked for."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef) and node.name == "__getattr__"


def test_compiled_ops_of_mmcv_are_never_imported() -> None:
    files = [*MODULES, *sorted((ROOT / "tools").rglob("*.py"))]
    found = [p for p in files if any(n.startswith("mmcv.ops") for n in names_in(p))]
    assert found == []


def names_in(path: Path) -> set[str]:
    return imported_modules(path.read_text())


SOURCE = '''"""A module
of two lines."""

import os  # one
A = """text
over two lines"""


# a comment
def f():
    """Say so."""
    return (
        1
    )  # five
'''


def test_code_lines_by_hand() -> None:
    assert code_lines(SOURCE) == 7  # import, two of the text, def, three of the return
    assert code_lines('"""Nothing."""\n') == 0


@cache
def rooms_here() -> list[Room]:
    return measure()


def test_rooms_are_measured() -> None:
    rooms = {room.name: room for room in rooms_here()}
    assert rooms["ops"].num_files == len(list((PACKAGE / "ops").glob("[!_]*.py")))
    assert rooms["table"].code_lines == code_lines((PACKAGE / "table.py").read_text())
    assert "table" in rooms["evaluation"].imports
    assert list(rooms).index("ops") < list(rooms).index("doctor")


def test_the_command_prints_rooms_totals_and_rings(capsys: pytest.CaptureFixture[str]) -> None:
    print_rooms(rooms_here())
    lines = capsys.readouterr().out.splitlines()
    core = next(line.split() for line in lines if line.startswith("core"))
    kit = next(line.split() for line in lines if line.startswith("kit"))
    counts = {path: n for path in MODULES if (n := code_lines(path.read_text()))}
    assert int(core[1]) + int(kit[1]) == len(counts)
    assert int(core[2]) + int(kit[2]) == sum(counts.values())
    assert int(kit[1]) == sum(room_of(path) in KIT for path in counts)
    assert lines[-1].startswith(f"rings: {len(rings(package_graph(sources())))}")
