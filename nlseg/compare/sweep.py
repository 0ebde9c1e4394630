"""Many runs of one config with some values changed: which runs, where, and which are done."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlseg.config.literals import parse_value, split_items, split_override
from nlseg.config.load import load_config
from nlseg.config.show import as_python, difference
from nlseg.errors import ConfigError

FINISHED = "finished"
"""Name of the empty file that marks a run folder whose training came to its end."""
SEED = "randomness.seed"


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep.

    Args:
        setting: Override keys and their values, without the seed.
        seed: Seed of the run.
        folder: Where its config, log and checkpoints go.
    """

    setting: tuple[tuple[str, str], ...]
    seed: int
    folder: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.folder / "config.py"

    @property
    def is_finished(self) -> bool:
        """Training came to its end."""
        return (self.folder / FINISHED).is_file()

    def overrides(self) -> list[str]:
        """Return what the run changes, as ``--cfg-options`` takes it."""
        changed = [f"{key}={value}" for key, value in self.setting]
        return [*changed, f"{SEED}={self.seed}", f"work_dir={self.folder}"]


def parse_grid(words: Sequence[str]) -> dict[str, list[str]]:
    """Read ``key=value,value`` words.

    Args:
        words: One for each key; commas inside brackets belong to a value.

    Returns:
        Values, as text, by key.

    Raises:
        ConfigError: A word has no values, or a key is given twice.
    """
    grid: dict[str, list[str]] = {}
    for word in words:
        key, text = split_override(word)
        values = [value.strip() for value in split_items(text)]
        if not values or key in grid:
            raise ConfigError(f"--grid {word}: expected each key once, as key=value,value")
        for value in values:
            parse_value(value)
        grid[key] = values
    return grid


def plan(grid: Mapping[str, Sequence[str]], seeds: Sequence[int], folder: Path) -> list[SweepRun]:
    """List the runs of all combinations, each with every seed.

    Args:
        grid: Values by key.
        seeds: Seeds of the repetitions.
        folder: Where the run folders go, named by what they change.

    Returns:
        The runs, repetitions of one setting together.
    """
    names = short_names(list(grid))
    runs = []
    for values in itertools.product(*grid.values()):
        setting = tuple(zip(grid, values, strict=True))
        parts = [f"{names[key]}={value}" for key, value in setting]
        for seed in seeds:
            name = "_".join([*parts, f"seed={seed}"])
            runs.append(SweepRun(setting, seed, folder / re.sub(r"[^\w.=+-]+", "-", name)))
    return runs


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shorten keys to their last part, or to as many parts as tell them apart."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        others = [f".{other}" for other in keys if other != key]
        names[key] = next(
            (end for end in ends if not any(o.endswith(f".{end}") for o in others)), key
        )
    return names


def write_config(base: Path, run: SweepRun, extra: Sequence[str] = ()) -> None:
    """Write the resolved config of a run, each value with its origin.

    Args:
        base: The config file that the sweep changes.
        run: The run.
        extra: Overrides that hold for the whole sweep.

    Raises:
        ConfigError: The folder holds a run of other values.
    """
    config = load_config(base, [*extra, *run.overrides()])
    if run.config.is_file():
        changed = difference(load_config(run.config, check=False), config)
        if changed:
            raise ConfigError(
                f"{run.folder}: holds a run of other values; give another --out\n"
                + "\n".join(changed[:8])
            )
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    run.config.write_text(as_python(config), encoding="utf-8")
