#!/usr/bin/env python3
"""Print the tree of the project with one line a file, or write it between the README's markers."""

import argparse
import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- tree: tools/misc/print_tree.py -->", "<!-- /tree -->"
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


def tree() -> str:
    """Return the tree as a fenced block."""
    lines = branch(ROOT / "nlseg", 0) + branch(ROOT / "tools", 0)
    lines += [f"{name}/  # {title}" for name, title in FOLDERS.items()]
    return "\n".join(["```text", *lines, "```"])


def main() -> None:
    """Print the tree, or write it into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write it into README.md")
    if not parser.parse_args().write:
        print(tree())
        return
    readme = ROOT / "README.md"
    head, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{head}{BEGIN}\n{tree()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
