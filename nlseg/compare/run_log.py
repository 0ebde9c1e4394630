"""The scalars of finished or running trainings, for curves and tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nlseg.errors import UserError
from nlseg.run.logs import SCALARS_FILE, read_scalars
from nlseg.table import format_table
from nlseg.visualization.plots import Scalars


def read_runs(
    paths: Sequence[str | Path], names: Sequence[str] | None = None
) -> dict[str, Scalars]:
    """Read the scalars of several runs.

    Args:
        paths: Run folders or files of scalars, also those that OpenMMLab's toolkits write.
        names: What to call the runs; else their folders.

    Returns:
        Name -> scalars, in order of steps.

    Raises:
        UserError: If a path holds no scalars, or names and paths differ in number.
    """
    if names is not None and len(names) != len(paths):
        raise UserError(f"--legend: {len(names)} names for {len(paths)} logs")
    files = [find_scalars(Path(path)) for path in paths]
    chosen = list(names or (_folder_name(file) for file in files))
    if len(set(chosen)) < len(chosen):
        chosen = [str(path) for path in paths]
    return {name: _read(file) for name, file in zip(chosen, files, strict=True)}


def find_scalars(path: Path) -> Path:
    """Return the file of scalars in a run folder; a file is returned as it is.

    Raises:
        UserError: If there is none.
    """
    if path.is_file():
        return path
    own = path / SCALARS_FILE
    found = [own] if own.is_file() else sorted(path.glob("**/scalars.json*"))
    if not found:
        raise UserError(f"{path}: no {SCALARS_FILE} here; give a run folder or such a file")
    return found[-1]


def _folder_name(file: Path) -> str:
    """Return the name of the run folder; OpenMMLab's file lies two folders deeper."""
    folder = file.resolve().parent
    return folder.parents[1].name if folder.name == "vis_data" else folder.name


def _read(file: Path) -> Scalars:
    if file.name == SCALARS_FILE:
        return read_scalars(file)
    run = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut short by a kill
        if isinstance(entry, dict) and ("step" in entry or "iter" in entry):
            run.append({**entry, "step": entry.get("step", entry.get("iter"))})
    return sorted(run, key=lambda entry: entry["step"])


def summary(runs: Mapping[str, Scalars], keys: Sequence[str]) -> str:
    """Return a table with the last and the best value of every scalar, and where it was.

    The best loss is the lowest, the best of everything else the highest.
    """
    rows = []
    for name, run in runs.items():
        for key in keys:
            found = [(entry[key], entry["step"]) for entry in run if key in entry]
            if found:
                best = min(found) if "loss" in key else max(found, key=lambda pair: pair[0])
                rows.append([name, key, float(found[-1][0]), float(best[0]), best[1]])
    return format_table(["run", "scalar", "last", "best", "at iteration"], rows)
