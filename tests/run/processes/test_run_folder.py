import fcntl
import logging
import os
import sys
import textwrap
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from nlseg.errors import UserError
from nlseg.run.folder import FolderLock, check_writable, held
from nlseg.run.runner import Runner
from tests.run.real_processes import environment
from tests.run.toy import toy_config

OWNER = """
    import sys
    from pathlib import Path
    from nlseg.run.folder import FolderLock
    lock = FolderLock(Path(sys.argv[1]))
    lock.acquire()
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_second_start_is_refused_until_the_first_has_gone_even_by_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path)]
    owner = Popen(command, stdin=PIPE, stdout=PIPE, env=environment(), text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "mine\n"
    with pytest.raises(UserError, match=rf"process {owner.pid} on .* trains in this folder; wait"):
        Runner.from_cfg(toy_config(tmp_path))
    owner.kill()
    owner.communicate()
    lock = FolderLock(tmp_path)
    assert lock.acquire() is None
    lock.release()


def refused(folder: Path) -> bool:
    """Return whether another process may not have a folder."""
    child = os.fork()
    if child == 0:
        try:
            with held(folder, "tests", "go home"):
                os._exit(0)
        except UserError as error:
            told = f"process {os.getppid()} on " in str(error)
            os._exit(1 if told and str(error).endswith("or go home") else 2)
    return bool(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1)


def test_a_folder_is_held_as_long_as_a_block_runs(tmp_path: Path) -> None:
    folder = tmp_path / "new/files"
    with held(folder, "plans", "give another --out"):
        assert refused(folder)
    assert not refused(folder)
    (tmp_path / "file").write_text("in the way")
    told = "file/a: cannot be written to: Not a directory; make room, .* or give another --out"
    with pytest.raises(UserError, match=told), held(tmp_path / "file/a", "", "give another --out"):
        pass


def test_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    warnings: list[str] = []
    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(
        logging.Logger, "warning", lambda self, text, *_: warnings.append(str(text))
    )
    Runner.from_cfg(toy_config(tmp_path, iters=4)).train()
    assert any("knows no locks" in text and "start one run only" in text for text in warnings)


def test_folder_that_cannot_be_written_to_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/run: cannot be written to: Not a directory"):
        Runner.build(toy_config(tmp_path / "file/run"))

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match="No space left on device; make room"):
        check_writable(tmp_path / "full")
    monkeypatch.undo()
    check_writable(tmp_path / "new/run")
    assert os.listdir(tmp_path / "new/run") == []
