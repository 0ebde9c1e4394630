"""Checking a config before anything is built."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config

from nlseg.config.check_class import check_names
from nlseg.config.check_data import check_data
from nlseg.config.check_model import check_model
from nlseg.config.check_schedule import check_schedule
from nlseg.config.origin import Trace, dotted
from nlseg.config.places import at
from nlseg.config.problems import Problem, distinct, raise_errors
from nlseg.config.runner_keys import KNOWN_KEYS


def check_config(
    config: Config, trace: Trace, *, allow_unknown: bool = False, refused: Sequence[str] = (),
    together: bool = True,
) -> list[Problem]:  # fmt: skip
    """Check names, types and ranges, then whether the parts fit together.

    Args:
        config: A resolved config; lists become tuples where a class wants tuples.
        trace: Where its values were written.
        allow_unknown: Accept top-level keys that no part of a run reads.
        refused: Errors that were found before, told with the others.
        together: Whether the parts have to fit together, as a run needs them to.

    Returns:
        Warnings: what is odd but may be meant.

    Raises:
        ConfigError: Tells every error at once, each with file and line.
    """
    problems = distinct(check_names(config, trace, allow_unknown=allow_unknown))
    raise_errors(problems, refused)
    if together:
        problems += distinct(_cross_checks(dict(config.items()), trace))
        raise_errors(problems)
    return problems


def _cross_checks(values: Any, trace: Trace) -> Iterator[Problem]:
    for check in (check_model, check_data, check_schedule):
        for path, text, is_error in check(values):
            yield Problem(trace.where(path), path, text, is_error)
    yield from _check_late(values, trace)


def _check_late(values: Any, trace: Trace) -> Iterator[Problem]:
    """Find variables that a file sets again after their value was copied by its base."""
    for name in sorted(trace.late - KNOWN_KEYS):
        for path in trace.root.copies_of(name):
            if name in values and at(values, path) != values[name]:
                text = (
                    f"set again after its value was copied; {dotted(path)} keeps "
                    f"{at(values, path)!r:.60} ({trace.where(path)})"
                )
                yield Problem(trace.named_at((name,)), (name,), text, is_error=False)
                break
