"""A report on the terminal and as files."""

import json
from pathlib import Path
from typing import Any

from nlseg.doctor.examination import Examination
from nlseg.doctor.page import doctor_page
from nlseg.table import format_table


def as_text(examination: Examination) -> str:
    """Return tables of splits and classes, then what was found, the worst last.

    A terminal ends with what matters most.
    """
    report = examination.as_dict()
    parts = [_splits_table(report)]
    parts += [_classes_table(split) for split in report["splits"] if split["classes"]]
    parts += [finding.as_text() for finding in reversed(examination.findings)]
    counts = [
        (sum(f.severity == name for f in examination.findings), name)
        for name in ("error", "warning", "note")
    ]
    summary = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in counts)
    rate = f"{examination.num_files} files in {examination.seconds:.1f} s"
    return "\n\n".join([*parts, f"{summary} ({rate})"])


def _splits_table(report: dict[str, Any]) -> str:
    rows = [
        [
            split["name"],
            split["num_images"],
            split["num_labels"],
            " ".join(f"{h}x{w}" for h, w, _ in split["sizes"][:2])
            + (" ..." if len(split["sizes"]) > 2 else ""),
            "-" if split["ignored_share"] is None else f"{split['ignored_share']:.1%}",
            _triple(split["mean"]),
            _triple(split["std"]),
        ]
        for split in report["splits"]
    ]
    header = ["split", "images", "labels", "height x width", "ignored", "mean RGB", "std RGB"]
    return format_table(header, rows)


def _triple(values: list[float] | None) -> str:
    return "-" if values is None else " ".join(f"{value:.1f}" for value in values)


def _classes_table(split: dict[str, Any]) -> str:
    rows = [
        [i, entry["name"], f"{entry['share']:.3%}", entry["images"], entry["weight"]]
        for i, entry in enumerate(split["classes"])
    ]
    header = ["", "class", "pixels", "images", "weight"]
    where = f" in {split['where']}" if split["where"] else ""
    return f"{split['name']}: {split['key']}{where}\n" + format_table(header, rows)


def write_report(examination: Examination, folder: Path) -> tuple[Path, Path]:
    """Write ``report.json`` and the self-contained page ``report.html``.

    Returns:
        Both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = examination.as_dict()
    files = folder / "report.json", folder / "report.html"
    for file, text in zip(files, (json.dumps(report, indent=1), doctor_page(report)), strict=True):
        file.write_text(text + "\n", encoding="utf-8")
    return files
