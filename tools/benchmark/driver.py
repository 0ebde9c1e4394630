"""Runs the sections that were asked for, and writes what came out after each of them."""

import datetime
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmark import loading, results, starting, tables
from benchmark.chart import draw
from benchmark.growth import measure_growth
from benchmark.machine import describe_machine, device_name
from benchmark.measure import Plan, measure, prepare
from benchmark.results import Results, Section
from benchmark.suite import Comparison, Growth, Suite
from benchmark.tables import TITLES

_GROWING = ("block", "inference")


@dataclass(frozen=True)
class Request:
    """What to measure and where to write it.

    Args:
        suite: The rows.
        plan: How to measure them.
        folder: Where the files go.
        command: The command line, for the record.
        match: Only rows whose name holds this.
        data_root: Folder in the layout of Cityscapes for the data section; drawn where None.
        keep: Leave out rows that the folder holds for this machine already.
        growth: Whether to measure how time and memory grow.
        state: What tells the machine from itself at another time; its results stand apart.
    """

    suite: Suite
    plan: Plan
    folder: Path
    command: str
    match: str = ""
    data_root: str | None = None
    keep: bool = False
    growth: bool = True
    state: str = ""


def run(sections: Sequence[str], request: Request) -> Results:
    """Measure sections one after the other.

    Args:
        sections: Their names.
        request: What else was asked for.

    Returns:
        Everything that the folder now holds.
    """
    found = results.read(request.folder)
    machine = ", ".join(filter(None, [device_name(request.plan.device), request.state]))
    for name in sections:
        there = _names(found, machine, name) if request.keep else set()
        keep = partial(_keep, found, machine, name, request)
        section = _measure_section(name, request, there, keep)
        results.merge(found, machine, name, section, partly=bool(request.match) or request.keep)
        print_section(name, section)
        write_files(request.folder, found)
    return found


def _names(found: Results, machine: str, name: str) -> set[str]:
    """Return which rows of a section are there."""
    return {row["name"] for row in found.get(machine, {}).get(name, {}).get("rows", [])}


def _keep(found: Results, machine: str, name: str, request: Request, section: Section) -> None:
    """Write down the rows of a section that is not through yet."""
    results.merge(found, machine, name, section, partly=True)
    results.write(request.folder, found)


def _measure_section(
    name: str, request: Request, there: set[str], keep: Callable[[Section], None]
) -> Section:
    section: Section = {
        "date": datetime.date.today().isoformat(),
        "command": request.command,
        "settings": asdict(request.plan),
    }
    special: dict[str, Callable[[Request], Section]] = {
        "data": lambda r: loading.measure_loading(r.data_root, quick=r.suite.quick),
        "start": lambda r: starting.measure_starting(1 if r.suite.quick else r.plan.rounds),
    }
    prepare(request.plan)
    section["machine"] = describe_machine(request.plan.device)
    if name in special:
        section.update(special[name](request))
    else:
        rows = [row for row in getattr(request.suite, name)() if row.name not in there]
        section["rows"] = _measure_rows(
            name, rows, request, lambda records: keep({**section, "rows": records})
        )
        if name in _GROWING and request.growth:
            section["growth"] = _measure_growth(name, request)
    return section


def _measure_rows(
    name: str,
    rows: Sequence[Comparison],
    request: Request,
    keep: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    rows = [row for row in rows if request.match in row.name]
    records = []
    for row in (bar := tqdm(rows, desc=name, leave=False, disable=None)):
        bar.set_postfix_str(row.name)
        ways = {way: partial(row.build, way, request.plan.device) for way in row.ways}
        records.append(results.row_record(row, measure(ways, request.plan)))
        keep(list(records))  # a section takes long: what is measured is not lost
    return records


def _measure_growth(name: str, request: Request) -> list[dict[str, Any]]:
    growths: list[Growth] = getattr(request.suite, f"{name}_growth")()
    if request.match:
        growths = [growth for growth in growths if growth.name == request.match]
    bar = tqdm(growths, desc=f"{name}, growth", leave=False, disable=None)
    return [measure_growth(growth, request.plan) for growth in bar]


def print_section(name: str, section: Section) -> None:
    """Show a section on the terminal."""
    lines = tables.section_lines(section, tables.as_text)
    tqdm.write("\n".join([f"\n{TITLES[name]}", *lines]))


def write_files(folder: Path, found: Results) -> list[Path]:
    """Write JSON, page and charts; charts are left out where matplotlib is not installed."""
    written = [results.write(folder, found)]
    charts: dict[str, str] = {}
    for machine, sections in found.items():
        path = folder / f"benchmarks_{slug(machine)}.png"
        with suppress(ImportError):
            draw(sections, machine, path)
            charts[machine] = path.name
            written.append(path)
    page = folder / "benchmarks.md"
    page.write_text(tables.page(found, charts), encoding="utf-8")
    return [*written, page]


def slug(name: str) -> str:
    """Make a file name of a machine's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def default_device() -> str:
    """Return 'cuda' where there is a GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
