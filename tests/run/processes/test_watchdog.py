import os
import textwrap
from pathlib import Path

import pytest

from nlseg.errors import ConfigError
from nlseg.run.control import Watchdog
from tests.run import prepared


def test_hang_ends_with_stacks_and_code_1(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from nlseg.run.control import Watchdog
        def hangs_here():
            time.sleep(60)
        with Watchdog({"start": None, "validation": 1.0}, Path(sys.argv[1]), rank=3) as dog:
            dog.enter("validation")
            hangs_here()
    """
    result = prepared.run("-c", textwrap.dedent(code), str(tmp_path), timeout=120)
    assert result.returncode == 1
    assert "rank 3: validation took longer than 1 s" in result.stderr
    assert "hangs_here" in (tmp_path / "stacks_rank_3.txt").read_text()


def test_first_iterations_have_the_limit_of_the_start(tmp_path: Path) -> None:
    dog = Watchdog({"start": 100.0, "iteration": 5.0, "saving": 7.0}, tmp_path, 0)
    limits = []
    for section in ("iteration", "iteration", "saving", "iteration"):
        dog.enter(section)
        limits.append(dog.limit_s())
    assert limits == [100.0, 5.0, 7.0, 5.0]


def test_unknown_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"time_limits\.epoch: unknown; choose from start"):
        Watchdog({"epoch": 1.0}, tmp_path, 0)
    assert os.listdir(tmp_path) == []
