"""What takes a while, and saying so before it begins."""

import sys
from collections.abc import Sequence
from pathlib import Path

FEW_FILES = 400
FEW_BYTES = 16 << 20
"""Together with ``FEW_FILES``: what is read within about a second."""


def take_long(files: Sequence[Path]) -> bool:
    """Return whether reading files takes more than about a second."""
    return len(files) > FEW_FILES or sum(file.stat().st_size for file in files) > FEW_BYTES


def tell(text: str, *, wanted: bool = True) -> None:
    """Say in a line on stderr what is done next.

    Args:
        text: What it is.
        wanted: Whether to say it.
    """
    if wanted:
        sys.stderr.write(f"{text} ...\n")
        sys.stderr.flush()


def has_screen() -> bool:
    """Return whether a bar can be drawn, and is no heap of lines in a file."""
    return sys.stderr is not None and sys.stderr.isatty()
