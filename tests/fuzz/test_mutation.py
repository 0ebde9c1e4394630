from pathlib import Path

import pytest

from tests.fuzz.mutation import READERS, Reader, fuzz


@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_read_or_refused_by_name(tmp_path: Path, name: str) -> None:
    count, problems = fuzz(READERS[name], seconds=3, seed=1, folder=tmp_path)
    assert count > 10
    assert problems == []


def test_a_reader_that_crashes_is_found(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if path.read_bytes() != b"whole":
            raise KeyError(path)

    _, problems = fuzz(
        Reader(".x", lambda path: path.write_bytes(b"whole"), read), 0.2, 0, tmp_path
    )
    assert "KeyError" in problems[0]
    assert problems[0].startswith("seed 0")
