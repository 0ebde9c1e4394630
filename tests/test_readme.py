"""The README tells the truth: its tree is the printed one, its links lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_tree_is_the_printed_one() -> None:
    printed = runpy.run_path(str(ROOT / "tools/misc/print_tree.py"))
    tree = README.split(printed["BEGIN"])[1].split(printed["END"])[0]
    assert tree.strip() == printed["tree"](), "run: python tools/misc/print_tree.py --write"


@pytest.mark.parametrize(
    "path", sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")}), ids=lambda p: p.name
)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_configs_and_tools_that_are_named_exist() -> None:
    named = set(re.findall(r"(?:configs|tools)/[\w/.-]+\.(?:py|sh)", README)) - {"configs/mine.py"}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    assert len(named) > 44
