"""A chart of all ratios and of how time and memory grow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.results import Section
from benchmark.tables import TITLES

_KINDS = (("time_ratio", "time", "#4477aa"), ("memory_ratio", "memory", "#cc6677"))


def draw(sections: dict[str, Section], title: str, path: Path) -> None:
    """Draw everything that was measured on a machine.

    Args:
        sections: The machine's sections by name.
        title: Name of the machine.
        path: PNG file.
    """
    bars = list(_bars(sections))
    curves = [(name, g) for name, s in sections.items() for g in s.get("growth", [])]
    height = 1.2 + 0.32 * max(len(bars), 8)
    figure = Figure(figsize=(14 if curves else 9, height), layout="constrained")
    figure.suptitle(title)
    columns = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
    _draw_ratios(columns[0], bars)
    if curves:
        _draw_growth(columns[1], curves)
    figure.savefig(path, dpi=110)


def _bars(sections: dict[str, Section]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in (name for name in TITLES if name in sections):
        for row in sections[name].get("rows", []):
            for way, record in row["ways"].items():
                if record.get("time_ratio") is not None or record.get("memory_ratio") is not None:
                    yield f"{name}: {row['name']}, {way}", record


def _draw_ratios(axes: Axes, bars: list[tuple[str, dict[str, Any]]]) -> None:
    """Draw a bar for each ratio, with a tick where its target is."""
    for place, (_, record) in enumerate(reversed(bars)):
        for i, (key, kind, colour) in enumerate(_KINDS):
            value = record.get(key)
            target = record.get("targets", {}).get(kind)
            middle = place + 0.18 - 0.36 * i
            if value is not None:
                axes.barh(middle, value, 0.34, color=colour, label=kind if place == 0 else None)
                axes.text(value, middle, f" {value:.2f}", va="center", fontsize=7)
            if target is not None:
                axes.plot([target, target], [middle - 0.17, middle + 0.17], color="black", lw=2)
    axes.set_yticks(range(len(bars)), [label for label, _ in reversed(bars)], fontsize=7)
    axes.axvline(1, color="grey", lw=1)
    axes.set_xlabel("ratio to the customary way; black: target")
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")


def _draw_growth(axes: Axes, curves: list[tuple[str, dict[str, Any]]]) -> None:
    """Draw memory over size, both logarithmic."""
    for i, (section, growth) in enumerate(curves):
        for j, (way, fitted) in enumerate(growth["ways"].items()):
            exponent = fitted["memory_exponent"]
            if exponent is None:
                continue
            axes.loglog(
                fitted["positions"],
                [value / 2**20 for value in fitted["memory"]],
                marker="o",
                color=f"C{i}",
                linestyle=("--", "-")[min(j, 1)],
                label=f"{section}: {growth['name']}, {way}: n^{exponent:.2f}",
            )
    axes.set_xlabel("positions (block) or pixels (network)")
    axes.set_ylabel("peak memory in MiB")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=7)
