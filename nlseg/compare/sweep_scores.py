"""Scores of a sweep: mean, spread and confidence of each setting, as table, file and plot."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from nlseg.compare.sweep import SweepRun
from nlseg.config.literals import parse_value
from nlseg.errors import UserError
from nlseg.run.logs import SCALARS_FILE, read_scalars
from nlseg.table import format_table
from nlseg.visualization.plots import ScoreGroup, plot_scores

T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantiles of Student's t with 1 to 30 degrees of freedom."""

_NO_SCORES = {"kind", "step", "epoch", "time", "data_time", "memory"}


def score_of(run: SweepRun, metric: str, *, best: bool) -> float | None:
    """Return the score of a run, None where it has none yet.

    Args:
        run: The run.
        metric: Name of a validation score.
        best: The highest of all validations and not the last.
    """
    values = [float(entry[metric]) for entry in validations(run) if metric in entry]
    if not values:
        return None
    return max(values) if best else values[-1]


def validations(run: SweepRun) -> list[dict[str, Any]]:
    """Return the scalars of each validation of a run, none where it has not begun."""
    file = run.folder / SCALARS_FILE
    entries = read_scalars(file) if file.is_file() else []
    return [entry for entry in entries if entry.get("kind") == "val"]


@dataclass(frozen=True)
class SettingScores:
    """The repetitions of one setting.

    Args:
        setting: Override keys and values.
        scores: Scores of the finished runs.
        unfinished: Number of runs without one.
    """

    setting: tuple[tuple[str, str], ...]
    scores: tuple[float, ...]
    unfinished: int

    @property
    def mean(self) -> float:
        """Mean score, NaN without any."""
        return statistics.fmean(self.scores) if self.scores else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation between repetitions, NaN for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else float("nan")

    @property
    def confidence(self) -> float:
        """Half the width of the 95 % confidence interval of the mean, after Student."""
        count = len(self.scores)
        if count < 2:
            return float("nan")
        quantile = T_QUANTILES[count - 2] if count - 2 < len(T_QUANTILES) else 1.96
        return float(quantile * self.spread / count**0.5)


def summarize(runs: Sequence[SweepRun], metric: str, *, best: bool = False) -> list[SettingScores]:
    """Gather the scores of finished runs by setting.

    Raises:
        UserError: Validations of finished runs have no such score.
    """
    offered = {name for run in runs if run.is_finished for e in validations(run) for name in e}
    if offered and metric not in offered:
        names = ", ".join(sorted(offered - _NO_SCORES))
        raise UserError(f"--metric {metric}: no run was validated by it; there are {names}")
    rows = []
    for setting in dict.fromkeys(run.setting for run in runs):
        same = [run for run in runs if run.setting == setting]
        found = [score_of(run, metric, best=best) for run in same if run.is_finished]
        scores = tuple(score for score in found if score is not None)
        rows.append(SettingScores(setting, scores, len(same) - len(scores)))
    return rows


def as_table(rows: Sequence[SettingScores], metric: str) -> str:
    """Write rows as text: setting, number of runs, mean, spread, confidence."""
    lines = []
    for row in rows:
        name = " ".join(f"{key}={value}" for key, value in row.setting) or "(base)"
        done, total = len(row.scores), len(row.scores) + row.unfinished
        count = f"{done}" if done == total else f"{done} of {total}"
        confidence = "-" if isnan(row.confidence) else f"+- {row.confidence:.2f}"
        lines.append([name, count, row.mean, row.spread, confidence])
    header = ["setting", "runs", metric, "spread", "95 % confidence"]
    return format_table(header, lines, rule=False)


def write_csv(rows: Sequence[SettingScores], file: Path) -> None:
    """Write rows with every single score."""
    keys = [key for key, _ in rows[0].setting]
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow([*keys, "mean", "spread", "confidence", "scores"])
        for row in rows:
            numbers = (row.mean, row.spread, row.confidence, " ".join(map(str, row.scores)))
            writer.writerow([*(value for _, value in row.setting), *numbers])


def plot(rows: Sequence[SettingScores], metric: str, file: Path) -> None:
    """Draw means with confidence and single scores: against one number, else side by side.

    Args:
        rows: What to draw; rows without a score are left out.
        metric: Name of the score.
        file: Image file to write.
    """
    shown = [
        ScoreGroup(_name(row), _place(row), row.scores, row.confidence)
        for row in rows
        if row.scores
    ]
    x_label = rows[0].setting[0][0] if rows and rows[0].setting else ""
    plot_scores(shown, file, x_label=x_label, y_label=metric)


def _name(row: SettingScores) -> str:
    lines = [f"{key.split('.')[-1]}={value}" for key, value in row.setting]
    return "\n".join(lines) or "(base)"


def _place(row: SettingScores) -> float | None:
    """Return the value of a setting of one number, None for any other."""
    values = [parse_value(text) for _, text in row.setting]
    return float(values[0]) if len(values) == 1 and type(values[0]) in (int, float) else None
