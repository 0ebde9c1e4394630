"""A folder that can be understood in several ways, and how a user says which one is right."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from nlseg.errors import UserError


class Reading(NamedTuple):
    """One way to understand a folder.

    Args:
        meaning: What it would be.
        options: Arguments of ``nlseg start`` that say so.
    """

    meaning: str
    options: tuple[str, ...]


class Unclear(UserError):  # noqa: N818 - a question rather than a mistake
    """Several readings are possible: lists them, each with its option.

    Args:
        question: What is unclear, with the place.
        readings: At least two.
    """

    def __init__(self, question: str, readings: Sequence[Reading]) -> None:
        self.question, self.readings = question, tuple(readings)
        lines = [f"  {one.meaning}: add {shlex.join(one.options)}" for one in readings]
        super().__init__("\n".join([question, *lines]))
