"""Errors that end at the user: printed once, without a traceback, before exit code 2."""

import errno
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches

USER_ERROR = 2


class UserError(ValueError):
    """A mistake that the user can mend: says where, what was given, what is allowed."""


class ConfigError(UserError):
    """A config that cannot be built: names the key, and the file and line that wrote it."""


class DataError(UserError):
    """A data set, image or label that cannot be used: names the file."""


class CheckpointError(UserError):
    """A weight file that cannot be read or does not fit: names the file."""


class RunError(Exception):
    """A run that cannot go on for a reason that one sentence tells: exit code 1."""


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_NEAR = 0.8
"""Share of equal letters from which a word counts as a misspelt one."""


def nearest(given: object, choices: Iterable[object]) -> str:
    """Say which choice was probably meant: a misspelt word, or the number next to the given one.

    Args:
        given: What was written.
        choices: What to choose from.

    Returns:
        ``; did you mean 'x'?``, or nothing where no choice is near.
    """
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        numbers = [c for c in choices if isinstance(c, (int, float)) and not isinstance(c, bool)]
        return f"; did you mean {min(numbers, key=lambda n: abs(n - given))}?" if numbers else ""
    found = near_words(str(given), choices)
    return f"; did you mean {found[0]!r}?" if found else ""


def near_words(
    given: str, choices: Iterable[object], number: int = 1, likeness: float = _NEAR
) -> list[str]:
    """Return the choices of which a word may be a misspelling, the nearest first.

    Upper and lower case are alike; so are words of the same letters, some of which changed places.

    Args:
        given: What was written.
        choices: What to choose from; only strings count.
        number: How many to return at most.
        likeness: The least ratio of letters in common, in [0, 1].
    """
    words: dict[str, str] = {}
    for choice in choices:
        if isinstance(choice, str):
            words.setdefault(choice.lower(), choice)
    word = given.lower()
    swapped = [other for other in words if sorted(other) == sorted(word)]
    near = swapped + get_close_matches(word, words, n=number, cutoff=likeness)
    return [words[other] for other in dict.fromkeys(near)][:number]


@contextmanager
def ending_at_the_user() -> Iterator[None]:
    """End the command at a ``UserError`` or ``RunError``: told once, without a traceback.

    So does a full or locked place for files. The exit code is 2 for a mistake that the user can
    mend, and 1 for a run that failed.
    """
    try:
        with _telling_of_places():
            yield
    except (UserError, RunError) as error:
        with suppress(OSError):  # the terminal may be gone
            sys.stdout.flush()
            if str(error):  # a process that only follows another one has nothing to tell
                sys.stderr.write(f"error: {error}\n")
        sys.exit(USER_ERROR if isinstance(error, UserError) else 1)


@contextmanager
def _telling_of_places() -> Iterator[None]:
    """Turn the error of a full disk, or of a file without permission, into one for the user."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK or error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"{where}{error.strerror}; make room, change permissions, or name another place"
        ) from error
