"""Errors that end at the user: printed once, without a traceback, before exit code 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

USER_ERROR = 2


class UserError(ValueError):
    """A mistake that the user can mend: says where, what was given, what is allowed."""


class ConfigError(UserError):
    """A config that cannot be built: names the key, and the file and line that wrote it."""


class DataError(UserError):
    """A data set, image or label that cannot be used: names the file."""


class CheckpointError(UserError):
    """A weight file that cannot be read or does not fit: names the file."""


@contextmanager
def ending_at_the_user() -> Iterator[None]:
    """End the command at a ``UserError``: told once, without a traceback, with exit code 2."""
    try:
        yield
    except UserError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        sys.exit(USER_ERROR)
