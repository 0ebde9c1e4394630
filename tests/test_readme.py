"""The README and the documentation tell the truth: what they name exists, links lead somewhere."""

import re
from pathlib import Path

from tests.cases import each_case

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ZOO = (ROOT / "docs/zoo.md").read_text()


def test_reading_order_names_ten_files() -> None:
    order = README.split("## Reading order")[1].split("\n## ")[0]
    paths = re.findall(r"^\d+\. `([^`]+)`", order, re.MULTILINE)
    assert len(paths) == 10
    assert [path for path in paths if not (ROOT / path).is_file()] == []


@each_case("path", sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")}))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_configs_and_tools_that_are_named_exist() -> None:
    text = README + ZOO
    named = set(re.findall(r"(?:configs|tools)/[\w/.-]+\.(?:py|sh)", text)) - {"configs/mine.py"}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    assert len(named) > 44


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200
    assert README.index("![") < README.index("```")  # picture first


def test_ratios_are_those_of_the_benchmarks() -> None:
    """Each number of the table stands in a row of docs/benchmarks.md with the same work."""
    measured = (ROOT / "docs/benchmarks.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d.; to]+) \| ([\d.; to]+) \|$", README, re.MULTILINE)
    assert len(rows) == 5
    for _, times, memories in rows:
        found = [re.split("; | to ", cell) for cell in (times, memories)]
        if len(found[1]) == 1:
            found[1] *= len(found[0])  # the same in both states
        for time, memory in zip(*found, strict=True):
            pattern = rf"\| {re.escape(time)}[ (][^|]*\| {re.escape(memory)}[ (][^|]*\|$"
            assert re.search(pattern, measured, re.MULTILINE), (time, memory)
