"""Which checkpoint is the best: each score with its rule, and its best value so far."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nlseg.errors import ConfigError

_GREATER = (
    "acc", "top", "ar@", "auc", "precision", "map", "mdice", "miou", "macc", "aacc", "fscore",
)  # fmt: skip
_LESS = ("loss",)


class BestScores:
    """Keeps the best value of each score that was asked for.

    Args:
        keys: Names of the scores; 'auto' is the first of the first validation.
        rules: 'greater' or 'less' for each, or one for all; None guesses from the name.
        greater: Words in names of scores of which more is better, beside those that are known.
        less: Words in names of scores of which less is better.
    """

    def __init__(
        self,
        keys: Sequence[str],
        rules: Sequence[str | None],
        greater: Sequence[str] = (),
        less: Sequence[str] = (),
    ) -> None:
        if len(rules) not in (1, len(keys)):
            raise ConfigError(
                f"checkpoint.rule: {len(rules)} rules for {len(keys)} scores in save_best"
            )
        self.keys = list(keys)
        self.rules = list(rules) * len(keys) if len(rules) == 1 else list(rules)
        self.greater, self.less = tuple(greater), tuple(less)
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
        rule = rule or guess_rule(key, self.greater, self.less)
        return value > best if rule == "greater" else value < best

    def keep(self, key: str, score: float, file: str, iteration: int) -> str | None:
        """Note a new best; return the name of the file that it replaces."""
        before = self.kept.get(key, {}).get("file")
        self.kept[key] = {"score": float(score), "file": file, "iter": iteration}
        return before if before != file else None


def guess_rule(key: str, greater: Sequence[str] = (), less: Sequence[str] = ()) -> str:
    """Return, from a score's name, whether more of it is better.

    Args:
        key: The name.
        greater: Words of scores of which more is better; they count before the known ones.
        less: Words of scores of which less is better.

    Raises:
        ConfigError: The name does not say.
    """
    name = key.lower()
    for words_of in ((greater, less), (_GREATER, _LESS)):
        for rule, words in zip(("greater", "less"), words_of, strict=True):
            if any(word.lower() in name for word in words):
                return rule
    raise ConfigError(f"checkpoint.rule: say 'greater' or 'less' for '{key}'; its name does not")
