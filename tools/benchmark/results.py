"""What was measured, as one JSON file that every section updates by itself."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.measure import Result, median_ratio
from benchmark.suite import Comparison
from nlseg.files import write_file

Section = dict[str, Any]
Results = dict[str, dict[str, Section]]
"""Name of the machine -> name of the section -> what was measured there."""

FILE = "benchmarks.json"
_OLD_BASELINE = "customary"
"""What older files call the baseline."""


def row_record(row: Comparison, results: Mapping[str, Result]) -> dict[str, Any]:
    """Write down one row.

    Args:
        row: What was measured.
        results: Result of each way.

    Returns:
        Its name, and each way's figures with ratios to the first way and targets.
    """
    first = results[row.ways[0]]
    ways: dict[str, Any] = {}
    for name in row.ways:
        result = results[name]
        record = asdict(result)
        record.update(median_s=result.median_s, spread=result.spread, share=result.share)
        if name != row.ways[0]:
            record["time_ratio"] = median_ratio(result, first)
            if result.memory is not None and first.memory:
                record["memory_ratio"] = result.memory / first.memory
        if name in row.targets:
            found = asdict(row.targets[name])
            record["targets"] = {key: value for key, value in found.items() if value is not None}
        ways[name] = record
    return {"name": row.name, "ways": ways}


def read(folder: Path) -> Results:
    """Read what a folder holds; nothing where there is no file."""
    path = folder / FILE
    return _load(path) if path.is_file() else {}


def write(folder: Path, results: Results) -> Path:
    """Write everything, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    text = json.dumps(results, indent=1) + "\n"
    write_file(path, text)
    return path


def merge(results: Results, machine: str, section: str, new: Section, *, partly: bool) -> None:
    """Put a new section in place of the old one.

    Args:
        results: Changed in place.
        machine: Where it was measured.
        section: Its name.
        new: What was measured.
        partly: Keep old rows that were not measured again.
    """
    old = results.setdefault(machine, {}).get(section)
    if partly and old is not None:
        for key in ("rows", "growth"):
            new[key] = _merge_rows(old.get(key, []), new.get(key, []))
    results[machine][section] = new


def _merge_rows(old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[Any]:
    rows = {row["name"]: row for row in old}
    rows.update({row["name"]: row for row in new})
    return list(rows.values())


def merge_files(results: Results, files: Iterable[Path]) -> None:
    """Add all sections of other files, such as another machine's."""
    for file in files:
        for machine, sections in _load(file).items():
            results.setdefault(machine, {}).update(sections)


def _load(path: Path) -> Results:
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return {
        machine: {name: _with_baseline(section) for name, section in sections.items()}
        for machine, sections in results.items()
    }


def _with_baseline(section: Section) -> Section:
    """Call the first way of an older file by its present name, in rows, growths and tables."""
    for entry in (*section.get("rows", []), *section.get("growth", [])):
        entry["ways"] = {
            "baseline" if way == _OLD_BASELINE else way: record
            for way, record in entry["ways"].items()
        }
    for table in section.get("tables", []):
        title = table["title"].replace(f"the {_OLD_BASELINE} way", "the baseline")
        table["title"] = title.replace(f"{_OLD_BASELINE}:", "baseline:")
        for row in table["rows"]:
            row[0] = "baseline" if row[0] == _OLD_BASELINE else row[0]
    return section
