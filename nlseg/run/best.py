"""Which scores count as better, and which checkpoint was the best so far."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nlseg.errors import ConfigError

_GREATER = (
    "acc",
    "top",
    "ar@",
    "auc",
    "precision",
    "map",
    "mdice",
    "miou",
    "macc",
    "aacc",
    "fscore",
)
_LESS = ("loss",)


class BestScores:
    """Keeps the best value of each score that was asked for.

    Args:
        keys: Names of the scores; 'auto' is the first of the first validation.
        rules: 'greater' or 'less' for each, or one for all; None guesses from the name.
    """

    def __init__(self, keys: Sequence[str], rules: Sequence[str | None]) -> None:
        if len(rules) not in (1, len(keys)):
            raise ConfigError(
                f"checkpoint.rule: {len(rules)} rules for {len(keys)} scores in save_best"
            )
        self.keys = list(keys)
        self.rules = list(rules) * len(keys) if len(rules) == 1 else list(rules)
        self.kept: dict[str, dict[str, Any]] = {}

    def improved(self, scores: Mapping[str, float]) -> list[str]:
        """Return the scores that are better than ever before.

        Raises:
            ConfigError: A score that was asked for is not among them, or cannot be ranked.
        """
        if self.keys == ["auto"] and scores:
            self.keys = [next(iter(scores))]
        missing = [key for key in self.keys if key not in scores]
        if missing:
            raise ConfigError(
                f"checkpoint.save_best: validation gives no '{missing[0]}'; it gives "
                f"{', '.join(map(str, scores))}"
            )
        pairs = zip(self.keys, self.rules, strict=True)
        return [key for key, rule in pairs if self._is_better(key, rule, float(scores[key]))]

    def _is_better(self, key: str, rule: str | None, value: float) -> bool:
        if math.isnan(value):
            return False
        if key not in self.kept:
            return True
        best = float(self.kept[key]["score"])
        return value > best if (rule or guess_rule(key)) == "greater" else value < best

    def keep(self, key: str, score: float, file: str, iteration: int) -> str | None:
        """Note a new best; return the name of the file that it replaces."""
        before = self.kept.get(key, {}).get("file")
        self.kept[key] = {"score": float(score), "file": file, "iter": iteration}
        return before if before != file else None


def guess_rule(key: str) -> str:
    """Tell from a score's name whether more of it is better.

    Raises:
        ConfigError: The name does not say.
    """
    name = key.lower()
    if any(part in name for part in _GREATER):
        return "greater"
    if any(part in name for part in _LESS):
        return "less"
    raise ConfigError(f"checkpoint.rule: say 'greater' or 'less' for '{key}'; its name does not")
