"""One test over many small cases, each of which is run, and each that fails is named."""

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

OUTCOMES = (Exception, pytest.fail.Exception)  # what pytest raises itself is no Exception


def each_case(
    names: str, cases: Iterable[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test once for every case, as ``pytest.mark.parametrize`` does, but as one test.

    It is for cases of milliseconds that show one thing. All are run, also after one has failed,
    and the traceback is that of the first that failed. ``tmp_path`` is a folder of its own for
    every case; any other fixture is one for all of them. Two decorators give every pair.

    Args:
        names: The arguments that a case gives, separated by commas.
        cases: The value of the one argument, or the values of several, for each case.
    """
    arguments = [name.strip() for name in names.split(",")]
    rows = [(case,) if len(arguments) == 1 else tuple(case) for case in cases]
    assert rows, f"no case of {names}"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def run_all(**fixtures: Any) -> None:
            failed: list[tuple[str, BaseException]] = []
            skipped: list[BaseException] = []
            for number, row in enumerate(rows):
                given = dict(zip(arguments, row, strict=True))
                try:
                    test(**{**fixtures, **own_folder(fixtures, number), **given})
                except OUTCOMES as error:
                    failed.append((said(given), error))
                except pytest.skip.Exception as skip:
                    skipped.append(skip)
            if failed:
                cases_said = "\n".join(f"[{case}] {error}" for case, error in failed)
                message = f"{len(failed)} of {len(rows)} cases failed:\n{cases_said}"
                raise AssertionError(message) from failed[0][1]
            if len(skipped) == len(rows):
                raise skipped[0]

        left = [p for name, p in signature.parameters.items() if name not in arguments]
        run_all.__signature__ = signature.replace(parameters=left)  # it asks here for fixtures
        return run_all

    return decorate


def own_folder(fixtures: dict[str, Any], number: int) -> dict[str, Path]:
    if "tmp_path" not in fixtures:
        return {}
    folder = fixtures["tmp_path"] / str(number)
    folder.mkdir()
    return {"tmp_path": folder}


def said(given: dict[str, Any]) -> str:
    """Return a case in one line: names, and values shortened where they are long."""
    values = ((name, repr(value)) for name, value in given.items())
    return ", ".join(f"{n}={v if len(v) < 100 else v[:97] + '...'}" for n, v in values)
