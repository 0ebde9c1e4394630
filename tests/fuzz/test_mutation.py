import os
import signal
from pathlib import Path

import pytest

from nlseg.errors import UserError
from tests.fuzz.mutation import READERS, Reader, fuzz


@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_read_or_refused_by_name(tmp_path: Path, name: str) -> None:
    count, problems = fuzz(READERS[name], seconds=1.2, seed=1, folder=tmp_path, least=11)
    assert count > 10
    assert problems == []


def test_a_reader_that_crashes_is_found(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if path.read_bytes() != b"whole":
            raise KeyError(path)

    _, problems = fuzz(Reader(".x", write, read), 0.2, 0, tmp_path)
    assert "KeyError" in problems[0]
    assert problems[0].startswith("seed 0")


def write(path: Path) -> None:
    path.write_bytes(b"whole")


def test_a_reader_that_takes_its_process_down_is_found(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if path.read_bytes() != b"whole":
            os.kill(os.getpid(), signal.SIGKILL)

    _, problems = fuzz(Reader(".x", write, read), 0.2, 0, tmp_path)
    assert problems[-1].endswith("the process was killed by signal 9")


def test_a_reader_that_takes_much_memory_is_found(tmp_path: Path) -> None:
    _, problems = fuzz(Reader(".x", write, lambda path: b"x" * (700 << 20)), 0.2, 0, tmp_path)
    assert "took more than 600 MiB" in problems[0]


def test_an_error_without_the_name_of_the_file_is_found(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        raise UserError("is broken")

    _, problems = fuzz(Reader(".x", write, read), 0.2, 0, tmp_path)
    assert "is not one sentence with its name" in problems[0]
