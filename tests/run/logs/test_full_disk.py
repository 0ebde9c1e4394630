"""A log that cannot be written costs one line, not a traceback for each line."""

import contextlib
import logging
from pathlib import Path

import pytest

from nlseg.run.logs import guard_handlers


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_log_on_a_full_disk_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("full")
    handler = logging.FileHandler("/dev/full")
    logger.addHandler(handler)
    guard_handlers(logger)
    for _ in range(5):
        logger.warning("training goes on")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "/dev/full: cannot be written ([Errno 28] No space left on device)"
    with contextlib.suppress(OSError):  # what is still in its buffer
        handler.stream.close()
