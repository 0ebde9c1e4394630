"""What is wrong with a config, collected so that all of it is told at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nlseg.config.origin import KeyPath, dotted
from nlseg.errors import ConfigError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or odd.

    Args:
        where: ``file:line``.
        path: Place in the config.
        text: What is given, what is allowed, the nearest right thing.
        is_error: The run cannot be right; otherwise it may be meant.
    """

    where: str
    path: KeyPath
    text: str
    is_error: bool = True

    def __str__(self) -> str:
        """Return the problem as one message: where, path, text."""
        return f"{self.where}: {dotted(self.path)}: {self.text}"


def distinct(problems: Iterable[Problem]) -> list[Problem]:
    """Keep the first of several problems that one line causes through its copies."""
    seen: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        seen.setdefault((problem.where, problem.text), problem)
    return list(seen.values())


def raise_errors(problems: Sequence[Problem], others: Sequence[str] = ()) -> None:
    """Raise one ConfigError that tells every error.

    Args:
        problems: Errors, warnings or nothing.
        others: More errors, told first.

    Raises:
        ConfigError: There is at least one error.
    """
    errors = [*others, *(str(problem) for problem in problems if problem.is_error)]
    if len(errors) == 1:
        raise ConfigError(errors[0])
    if errors:
        raise ConfigError(f"{len(errors)} errors in the config:\n" + "\n".join(errors))
