#!/usr/bin/env python3
"""Print the tree of the project with one line a file, or its rooms with their sizes and imports."""

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # runs from a bare checkout, too

from misc.rooms import KIT, Room, code_lines, measure, package_graph, rings, sources  # noqa: E402

FOLDERS = {
    "configs": "config files: `_base_/` holds the parts that the others inherit",
    "docs": "the longer texts and the printed results",
    "requirements": "what runs, what is optional, what tests need, and the tested versions",
    "tests": "mirrors nlseg/; `golden/` holds recorded reference values, `faults/` hurts real runs",
}


def purpose(path: Path) -> str:
    """Return the first sentence of what a file says about itself."""
    text = path.read_text()
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = " ".join(line[2:] for line in text.splitlines()[:4] if line.startswith("# "))
    return " ".join(said.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def branch(folder: Path, depth: int) -> list[str]:
    """List a folder: its own files first, then the folders below."""
    indent = "  " * depth
    own = folder / "__init__.py"
    title = purpose(own) if own.exists() else FOLDERS.get(folder.name, "")
    lines = [f"{indent}{folder.name}/" + (f"  # {title}" if title else "")]
    files = [p for p in sorted(folder.iterdir()) if p.suffix in (".py", ".sh") and p != own]
    width = max((len(p.name) for p in files), default=0)
    lines += [f"{indent}  {p.name:{width}s}  {purpose(p)}" for p in files]
    for below in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._"):
        lines += branch(below, depth + 1)
    return lines


def print_tree() -> None:
    """Print the tree."""
    lines = branch(ROOT / "nlseg", 0) + branch(ROOT / "tools", 0)
    lines += [f"{name}/  # {title}" for name, title in FOLDERS.items()]
    print("\n".join(lines))


def print_rooms(rooms: Sequence[Room]) -> None:
    """Print files, code lines and imports of each room, totals of core and kit, and rings.

    Code lines are those that are neither blank, comment nor docstring.
    """
    from nlseg.table import format_table

    core = [room for room in rooms if room.name.split(".")[0] not in KIT]
    kit = [room for room in rooms if room not in core]
    header = ["room", "files", "code lines", "imports"]
    for part in (core, kit):
        rows = [[r.name, r.num_files, r.code_lines, " ".join(sorted(r.imports))] for r in part]
        print(format_table(header, rows) + "\n")
    tools = sorted((ROOT / "tools").rglob("*.py"))
    rows = [
        [name, sum(room.num_files for room in part), sum(room.code_lines for room in part)]
        for name, part in (("core", core), ("kit", kit))
    ]
    rows.append(["tools", len(tools), sum(code_lines(path.read_text()) for path in tools)])
    print(format_table(["total", *header[1:3]], rows) + "\n")
    found = rings(package_graph(sources()))
    print(f"rings: {len(found)}" + "".join(f", {one} and {other}" for one, other in found))


def main() -> None:
    """Print the tree or the rooms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rooms", action="store_true", help="files, code lines and imports of each room; rings"
    )
    if parser.parse_args().rooms:
        print_rooms(measure())
    else:
        print_tree()


if __name__ == "__main__":
    main()
