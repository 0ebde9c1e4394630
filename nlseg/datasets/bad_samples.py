"""What happens to a sample whose files cannot be used: say so, leave it out, or take another."""

import json
import os
import time
from collections.abc import Callable
from typing import Any, Literal, TypedDict

from nlseg.bounds import Natural
from nlseg.errors import DataError

BadSampleAction = Literal["raise", "skip", "replace"]


class BadSamples(TypedDict, total=False):
    """The arguments of :class:`BadSamplePolicy`, as a config gives them."""

    policy: BadSampleAction
    limit: Natural
    log: str | None


class BadSamplePolicy:
    """Catch the errors of bad files up to a limit and write each down once.

    Args:
        policy: ``raise`` ends the run, ``skip`` leaves the sample out of its batch, ``replace``
            takes another image in its place (training only; evaluation leaves it out).
        limit: Number of different bad files above which the run ends all the same.
        log: JSON-lines file that gets a line for each bad file; several processes may share it.
    """

    def __init__(
        self, policy: BadSampleAction = "raise", limit: int = 100, log: str | None = None
    ) -> None:
        self.policy = policy
        self.limit = limit
        self.log = log
        self.seen: set[str] = set()
        self.last_was_bad = False

    @property
    def skips(self) -> bool:
        """Return whether a bad sample leaves a gap."""
        return self.policy == "skip"

    def load(self, load: Callable[..., Any], *image: int) -> Any:
        """Return what ``load(*image)`` gives, or None for a bad sample that may be passed over.

        Raises:
            DataError: The sample is bad and the policy is to raise, or the limit is passed.
        """
        self.last_was_bad = False
        try:
            return load(*image)
        except DataError as error:
            self.last_was_bad = True
            if self.policy == "raise":
                raise
            self._note(str(error))
            bad = self._count()
            if bad > self.limit:
                raise DataError(
                    f"{error}\n{bad} bad files, more than bad_samples.limit={self.limit}"
                    + (f"; all of them are in {self.log}" if self.log else "")
                ) from error
            return None

    def _note(self, cause: str) -> None:
        if cause in self.seen:
            return
        self.seen.add(cause)
        if self.log is None:
            return
        line = json.dumps(
            {
                "file": cause.split(": ", 1)[0],
                "cause": cause,
                "policy": self.policy,
                "time": time.time(),
            }
        )
        os.makedirs(os.path.dirname(os.path.abspath(self.log)), exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _count(self) -> int:
        if self.log is None:
            return len(self.seen)
        with open(self.log, encoding="utf-8") as file:
            return len({json.loads(line)["file"] for line in file})
