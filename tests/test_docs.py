"""The command blocks of README and docs: they run, or say why not, and name what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from misc.mkdocs_hooks import on_page_markdown
from misc.run_docs import PAGES, SHELL, Block, blocks_of, wrong_arguments
from tests.cases import each_case

ROOT = Path(__file__).parents[1]
MARKS = ("not run:", "run by:", "ends with:", "slow")


@each_case("page", PAGES)
def test_marks_and_arguments(page: str) -> None:
    blocks = blocks_of(page)
    assert [
        block.place for block in blocks if block.mark and not block.mark.startswith(MARKS)
    ] == []
    for block in blocks:
        named = block.after("run by:")
        assert named is None or (ROOT / named.split()[0]).exists(), block.place
        assert block.after("not run:") != "", f"{block.place}: says no reason"
    assert [problem for block in blocks for problem in wrong_arguments(block)] == []


def test_no_block_hides_from_the_collection() -> None:
    fences = sum(
        len(re.findall(rf"^```(?:python|{'|'.join(SHELL)})\b", (ROOT / page).read_text(), re.M))
        for page in PAGES
    )
    assert fences == sum(len(blocks_of(page)) for page in PAGES) > 60


def test_wrong_arguments_are_named() -> None:
    text = (
        "FOO=1 nlseg train CONFIG --dry-rum\nls | nlseg predict CONFIG W - --out x\nnlseg trian\n"
    )
    problems = list(wrong_arguments(Block("x.md", 3, "bash", text, "")))
    assert len(problems) == 2
    assert "x.md:3: FOO=1 nlseg train" in problems[0]
    assert "unrecognized arguments: --dry-rum" in problems[0]
    assert "no command trian" in problems[1]


def test_the_site_says_why_a_block_is_not_run_and_names_files_outside() -> None:
    page = (
        "<!-- not run: needs a GPU -->\n```bash\nx\n```\n[mine](../configs/x.py), [here](zoo.md)\n"
    )
    assert on_page_markdown(page) == (
        "*Not run by the tests: needs a GPU.*\n\n```bash\nx\n```\n"
        "mine (`configs/x.py`), [here](zoo.md)\n"
    )


@pytest.mark.slow
def test_blocks_run(tmp_path: Path) -> None:
    """Every block that is not marked otherwise; ``.ci/run`` runs them by a real shell, too."""
    bad = tmp_path / "bad.md"
    bad.write_text(
        "```bash\nnlseg report absent\n```\n<!-- ends with: no -->\n```python\nprint(1)\n```\n"
    )
    command = [sys.executable, str(ROOT / "tools/misc/run_docs.py"), "--quick"]
    done = subprocess.run(
        [*command, *PAGES, str(bad)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    failed = re.findall(r"^FAILED .* s  (\S+)$", done.stdout, re.M)
    assert failed == [f"{bad}:1", f"{bad}:5"], done.stdout + done.stderr
    assert done.returncode == 1
