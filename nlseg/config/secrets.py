"""Values of the environment that no log may hold."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import config as mmengine_config

_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_SHORTEST = 6  # a shorter value may be part of any word


def hide_secrets(text: str) -> str:
    """Replace the values of variables that are named like secrets by their names.

    Args:
        text: Such as a config that uses ``{{$API_KEY:}}``.
    """
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"<{name} of the environment>")
    return text


@contextmanager
def values_unsaid() -> Iterator[None]:
    """Let mmengine name the variables that a config uses, without their values."""
    said = mmengine_config.print_log

    def name_only(text: Any, *arguments: Any, **options: Any) -> None:
        text = re.sub(r"(?s)(Using env variable `\w+`) with value of .*", r"\1 in the config", text)
        said(text, *arguments, **options)

    mmengine_config.print_log = name_only
    try:
        yield
    finally:
        mmengine_config.print_log = said
