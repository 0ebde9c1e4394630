"""What was measured, as text: aligned for a terminal, or in Markdown for the documentation."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmark.results import Results, Section
from nlseg.table import format_table

TITLES = {
    "block": "Non-local block alone",
    "attention": "Attention kernels",
    "loss": "Loss and its gradient from the head's logits",
    "upsample": "Logits to label map",
    "count": "Counting for the scores",
    "inference": "Whole-image inference",
    "slide": "Sliding windows",
    "tta": "Several scales and flips",
    "train": "Training step",
    "data": "Training samples from files",
    "start": "Starting",
}
HEADER = (
    "work", "way", "time", "peak memory", "GFLOP", "of matrix rate", "time ratio", "memory ratio",
)  # fmt: skip
_GROWTH = ("work", "way", "positions or pixels", "time grows as", "memory grows as", "at largest")
_UNITS = ((1.0, "s", 1), (1e-3, "ms", 1e3), (0.0, "µs", 1e6))

Table = Callable[[Sequence[Sequence[str]]], list[str]]


def seconds(value: float | None) -> str:
    """Write a time with three digits and a unit that suits it."""
    if value is None:
        return ""
    unit, factor = next((name, factor) for least, name, factor in _UNITS if value >= least)
    return f"{value * factor:.3g} {unit}"


def memory(value: float | None) -> str:
    """Write a number of bytes in MiB or GiB."""
    if value is None:
        return ""
    mib = value / 2**20
    return f"{mib / 1024:.2f} GiB" if mib >= 1000 else f"{mib:.0f} MiB"


def ratio(value: float | None, target: float | None) -> str:
    """Write a ratio with what it should be at most, and say where it misses that."""
    if value is None or target is None:
        return "" if value is None else f"{value:.3g}"
    return f"{value:.3g} (≤ {target:g}{'' if value <= target else ', missed'})"


def percent(share: float, target: float | None) -> str:
    """Write a share in percent with what it should be at least, and say where it misses that."""
    text = f"{100 * share:.3g} %"
    if target is None:
        return text
    return f"{text} (≥ {100 * target:g} %{'' if share >= target else ', missed'})"


def row_cells(row: dict[str, Any]) -> list[list[str]]:
    """Return the cells of one row, a line for each way."""
    lines = []
    for i, (name, way) in enumerate(row["ways"].items()):
        lines.append([row["name"] if i == 0 else "", name, *_figures(way)])
    return lines


def _figures(way: dict[str, Any]) -> list[str]:
    targets = way.get("targets", {})
    if way["failure"] is not None:
        return [way["failure"].strip().splitlines()[-1], "", "", "", "", ""]
    time = f"{seconds(way['median_s'])} ± {100 * way['spread']:.0f} %"
    limit = targets.get("memory_gib")
    held = memory(way["memory"])
    if limit is not None:
        missed = way["memory"] > limit * 2**30
        held += f" (≤ {limit:g} GiB{', missed' if missed else ''})"
    share = way["share"]
    rate = "" if share is None else percent(share, targets.get("rate"))
    return [
        time,
        held,
        f"{way['flops'] / 1e9:.3g}" if way["flops"] else "",
        f"{rate} of {way['rate'] / 1e12:.3g} TFLOP/s {way['precision']}" if rate else "",
        ratio(way.get("time_ratio"), targets.get("time")),
        ratio(way.get("memory_ratio"), targets.get("memory")),
    ]


def growth_cells(growths: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Return header and lines of the fitted exponents."""
    lines = [list(_GROWTH)]
    for growth in growths:
        for i, (name, way) in enumerate(growth["ways"].items()):
            sizes = " ".join(str(p) for p in way["positions"])
            last = i == len(growth["ways"]) - 1
            lines.append(
                [
                    growth["name"] if i == 0 else "", name, sizes, _power(way["time_exponent"]),
                    _power(way["memory_exponent"]), _at_largest(growth) if last else "",
                ]
            )  # fmt: skip
    return lines


def _power(exponent: float | None) -> str:
    return "" if exponent is None else f"n^{exponent:.2f}"


def _at_largest(growth: dict[str, Any]) -> str:
    found = growth.get("at_largest") or {}
    if not found:
        return ""
    by = ", the first extrapolated" if found["extrapolated"] else ""
    return f"time ratio {found['time_ratio']:.3g}, memory ratio {found['memory_ratio']:.3g}{by}"


def section_lines(section: Section, table: Table) -> list[str]:
    """Write a section's tables, by whichever way of writing them."""
    lines: list[str] = []
    if section.get("rows"):
        cells = [line for row in section["rows"] for line in row_cells(row)]
        lines += table(_without_empty_columns([list(HEADER), *cells]))
    if section.get("growth"):
        lines += ["", *table(growth_cells(section["growth"]))]
    for extra in section.get("tables", []):
        lines += ["", extra["title"], "", *table([extra["columns"], *extra["rows"]])]
    return lines


def _without_empty_columns(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    kept = [i for i in range(len(cells[0])) if any(line[i] for line in cells[1:])]
    return [[line[i] for i in kept] for line in cells]


def as_text(cells: Sequence[Sequence[str]]) -> list[str]:
    """Align columns for a terminal."""
    return format_table(cells[0], cells[1:]).splitlines()


def as_markdown(cells: Sequence[Sequence[str]]) -> list[str]:
    """Write a Markdown table."""
    lines = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in cells]
    lines.insert(1, "|" + "---|" * len(cells[0]))
    return lines


def page(results: Results, charts: dict[str, str]) -> str:
    """Return the whole Markdown page.

    Args:
        results: Everything that was measured.
        charts: File name of the chart of each machine.
    """
    lines = [_PREFACE]
    for machine, sections in results.items():
        lines += [f"## {machine}", ""]
        if machine in charts:
            lines += [f"![Ratios to the baseline, and growth]({charts[machine]})", ""]
        for name in (name for name in TITLES if name in sections):
            section = sections[name]
            lines += [f"### {TITLES[name]}", "", *section_lines(section, as_markdown), ""]
            lines += [f"`{section['command']}`, {section['date']}. {_facts(section)}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _facts(section: Section) -> str:
    facts = [f"{name} {value}" for name, value in section["machine"].items()]
    return f"{', '.join([*facts, *matrix_rates(section)])}."


def matrix_rates(section: Section) -> list[str]:
    """Return the matrix rates beside which the rows were measured, from the lowest to the highest.

    They tell the state of the machine: ratios differ between a quiet one and a busy one.
    """
    rates: dict[str, list[float]] = {}
    for row in section.get("rows", []):
        for way in row["ways"].values():
            if way.get("rate"):
                rates.setdefault(way["precision"], []).append(way["rate"] / 1e12)
    return [
        f"matrix rate {precision} {min(found):.3g} to {max(found):.3g} TFLOP/s"
        for precision, found in sorted(rates.items())
    ]


_PREFACE = """# Benchmarks

Written by `tools/benchmark.py`; do not edit. Every section is updated by running it again.

Each row does the same work in several ways, in turns, in one process, so that a busy machine slows
all of them. *baseline* is the plain way: mmcv's `NonLocal2d`, logits resized to full size before
loss and argmax, float histograms, channels first, float32, PyTorch's defaults. *nlseg* is this
package in float32. *best* is what `--fast` chooses on that hardware, *fp16* what it would choose on
a V100, *compiled* the best with `torch.compile`, *graphs* that with CUDA graphs. *mmseg* is an
installed mmsegmentation. Attention kernels are called by their names, *tiles* is this package's.
*uint8* counts maps of one byte.

Times are medians, ± half the range. Ratios are medians of the ratios within each round, with the
target in brackets. Peak memory is what a fresh process holds at most beyond weights, inputs and
libraries: on a CPU its resident set, on a GPU what the allocator gave out (also where
`--one-process` starts no process for it). The matrix rate is that of a large product in the same
process and precision, and the load how many processes wanted the cores when a section began: both
say in which state the machine was. Exponents are fitted to four sizes.
"""
