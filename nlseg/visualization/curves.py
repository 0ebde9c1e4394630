"""Curves of training runs: losses and validation scores over iterations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nlseg.errors import UserError
from nlseg.visualization.chart import Series, extent, line_chart
from nlseg.visualization.overlay import Image
from nlseg.visualization.visualizer import write_picture

Run = Sequence[Mapping[str, Any]]
"""Scalars of a run: dicts with ``step`` and numbers by name, in order of steps."""


def series_of(run: Run, key: str, name: str, smooth: int = 1) -> Series:
    """Take one scalar out of a run.

    Args:
        run: Its scalars.
        key: Name of the scalar.
        name: What to call the line.
        smooth: Average over this many points, the last of which gives the step.
    """
    found = [entry for entry in run if isinstance(entry.get(key), int | float)]
    x = [float(entry.get("step", entry.get("iter", 0))) for entry in found]
    y = np.array([float(entry[key]) for entry in found])
    if smooth > 1 and len(y) >= smooth:
        y = np.convolve(y, np.ones(smooth) / smooth, "valid")
        x = x[smooth - 1 :]
    return Series(name, x, y.tolist())


def plot_curves(
    runs: Mapping[str, Run],
    out_file: str | Path | None = None,
    *,
    keys: Sequence[str] = ("mIoU", "loss"),
    title: str = "",
    smooth: int | None = None,
    size: tuple[int, int] = (420, 760),
) -> Image:
    """Draw one chart below the other, one a scalar, with a line for every run.

    Args:
        runs: Name of a run -> its scalars, as ``engine.logs.scalars.read_scalars`` returns them.
        out_file: Picture file to write.
        keys: The scalars.
        title: Of the first chart.
        smooth: Average over this many points; None for as many as leave about 200.
        size: Height and width of each chart in px.

    Returns:
        RGB picture (H, W, 3).

    Raises:
        UserError: If no run has one of the scalars.
    """
    lines = {key: _lines(runs, key, smooth) for key in keys}
    iterations = extent([line.x for found in lines.values() for line in found])
    charts = []
    for i, (key, found) in enumerate(lines.items()):
        label = f"{key}, %" if key.startswith(("m", "a")) and key[1:2].isupper() else key
        chart = line_chart(
            found,
            title=title if i == 0 else "",
            x_label="iteration",
            y_label=label,
            x_extent=iterations,
            size=size,
        )
        charts.append(chart)
    picture = np.concatenate(charts)
    if out_file is not None:
        write_picture(Path(out_file), picture)
    return picture


def _lines(runs: Mapping[str, Run], key: str, smooth: int | None) -> list[Series]:
    lines = [
        _smoothed(run, key, name if len(runs) > 1 else "", smooth) for name, run in runs.items()
    ]
    if not any(line.x for line in lines):
        raise UserError(f"there is no {key!r} in these logs; there are {_keys(runs)}")
    return lines


def _smoothed(run: Run, key: str, name: str, smooth: int | None) -> Series:
    if smooth is None:
        count = sum(key in entry for entry in run)
        smooth = max(1, count // 200) if count > 400 else 1
    return series_of(run, key, name, smooth)


def _keys(runs: Mapping[str, Run]) -> str:
    return ", ".join(sorted({key for run in runs.values() for entry in run for key in entry}))
