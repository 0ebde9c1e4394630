"""A chart of all ratios and of how time and memory grow."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.results import Section
from benchmark.tables import TITLES
from nlseg.visualization.plots import new_figure, style, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    with style():
        figure = new_figure(130 + 35 * max(len(bars), 8), 1540 if curves else 990)
        figure.suptitle(title)
        columns = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
        _draw_ratios(columns[0], bars)
        if curves:
            _draw_growth(columns[1], curves)
        write_figure(figure, path)


def _bars(sections: dict[str, Section]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in (name for name in TITLES if name in sections):
        for row in sections[name].get("rows", []):
            for way, record in row["ways"].items():
                if record.get("time_ratio") is not None or record.get("memory_ratio") is not None:
                    yield f"{name}: {row['name']}, {way}", record


def _draw_ratios(axes: "Axes", bars: list[tuple[str, dict[str, Any]]]) -> None:
    """Draw a bar for each ratio, with a tick where its target is."""
    from matplotlib.patches import Patch

    for place, (_, record) in enumerate(reversed(bars)):
        for i, (key, kind, colour) in enumerate(_KINDS):
            value = record.get(key)
            target = record.get("targets", {}).get(kind)
            middle = place + 0.18 - 0.36 * i
            if value is not None:
                axes.barh(middle, value, 0.34, color=colour)
                hidden = target is not None and value <= target < value + 0.1
                axes.text(
                    target if hidden else value, middle, f" {value:.2f}", va="center", fontsize=7
                )
            if target is not None:
                axes.vlines(target, middle - 0.17, middle + 0.17, color="black", lw=2)
    axes.set_yticks(range(len(bars)), [label for label, _ in reversed(bars)], fontsize=7)
    axes.axvline(1, color="grey", lw=1)
    axes.set_xlabel("ratio to the baseline; black: target")
    axes.set_xlim(left=0)
    axes.legend([Patch(color=colour) for _, _, colour in _KINDS], [kind for _, kind, _ in _KINDS])


def _draw_growth(axes: "Axes", curves: list[tuple[str, dict[str, Any]]]) -> None:
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
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.10g}")
    axes.set_xlabel("positions (block) or pixels (network)")
    axes.set_ylabel("peak memory in MiB")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=7)
