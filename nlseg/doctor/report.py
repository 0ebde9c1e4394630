"""The report: on the terminal, as JSON, and as a page with pictures of the files."""

import json
import os
from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.doctor.examination import Examination
from nlseg.doctor.finding import ORDER
from nlseg.pictures import open_picture
from nlseg.table import format_table
from nlseg.visualization.pages import render
from nlseg.visualization.pictures import Image, make_palette, side_by_side, write_text

STRAY = (255, 0, 255)
"""Colour of values that are neither a class nor ignored."""
IGNORED = (60, 60, 60)
"""Colour of values that do not count."""
_GREY = (150, 150, 150)
_MAX_PICTURES = 6
_MAX_VALUES = 80

Report = dict[str, Any]
"""What the doctor writes as JSON: ``config``, ``created``, ``num_files``, ``seconds``,
``findings``, ``partners``, ``labels`` and ``splits``."""


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
            _scale(split["scale"]),
        ]
        for split in report["splits"]
    ]
    header = [
        "split",
        "images",
        "labels",
        "height x width",
        "ignored",
        "mean RGB",
        "std RGB",
        "resized to",
    ]
    return format_table(header, rows)


def _scale(scale: dict[str, Any] | None) -> str:
    """Say what becomes of the most frequent size, and what that loses."""
    if scale is None:
        return "-"
    lost = f", {scale['lost']:.0%} of regions lost" if scale["lost"] else ""
    height, width = scale["after"]
    return f"{height}x{width} ({scale['pixels_kept']:.0%} of pixels{lost})"


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
        file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return files


def doctor_page(report: Report) -> str:
    """Draw a report as one HTML document with all its pictures inside.

    Args:
        report: The doctor's report as it is written to JSON.
    """
    findings = report["findings"]
    counts = [(name, sum(finding["severity"] == name for finding in findings)) for name in ORDER]
    return render(
        "doctor/report.html",
        config=report["config"],
        created=report["created"],
        num_files=report["num_files"],
        seconds=report["seconds"],
        counts=counts,
        findings=[{**finding, "pictures": _pictures(finding, report)} for finding in findings],
        splits=[{**split, "values": _values(split)} for split in report["splits"]],
    )


def _pictures(finding: Report, report: Report) -> list[tuple[str, Image]]:
    """Show the first files of a finding that are there, each with its name."""
    shown = [path for path in finding["files"] if os.path.isfile(path)][:_MAX_PICTURES]
    return [(path, _picture(path, finding, report)) for path in shown]


def _picture(path: str, finding: Report, report: Report) -> Image:
    """Show an offending file: image left, label right, where both are known."""
    named = finding["split"].split(" and ")
    split = next((s for s in report["splits"] if s["name"] in named), None)
    partner = report["partners"].get(path)
    labels = report["labels"]
    if path not in labels and partner not in labels:
        without_image = finding["code"] == "orphan-label"
        return _label(path, split) if without_image else thumbnail(path)
    image, label = (partner, path) if path in labels else (path, partner)
    painted = _label(label, split)
    return side_by_side([thumbnail(image), painted], gap=4) if image else painted


def _label(path: str, split: Report | None) -> Image:
    """Show a label file in the colours of what its values become."""
    if split is None:
        return label_thumbnail(path)
    colours = {}
    for entry in split["values"]:
        colour = IGNORED if entry["becomes"] == "ignored" else _colour(entry, split)
        if colour is not None:
            colours[int(float(entry["value"]))] = colour
    return label_thumbnail(path, colours)


def _colour(entry: Report, split: Report) -> Sequence[int] | None:
    """Return the colour of what a raw value becomes, None for a class without one."""
    becomes = entry["becomes"]
    if becomes is None:
        return STRAY
    colour: Sequence[int] | None = (
        _GREY if becomes == "ignored" else split["classes"][becomes]["colour"]
    )
    return colour


def _values(split: Report) -> list[Report]:
    """Add bars on a logarithmic scale to raw values, and sort those outside the classes first."""
    highest = max((log10(entry["pixels"] + 1) for entry in split["values"]), default=1.0)
    listed = sorted(split["values"], key=lambda entry: entry["becomes"] is not None)[:_MAX_VALUES]
    return [
        {
            **entry,
            "length": log10(entry["pixels"] + 1) / highest,
            "colour": _colour(entry, split),
        }
        for entry in listed
    ]


def thumbnail(path: str, height: int = 150) -> Image:
    """Show an image file in RGB, ``height`` px high; a box with words if it cannot be read."""
    try:  # cv2.imread ends the process at a name that is not UTF-8
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError:
        return _cannot_be_read(height)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        return _cannot_be_read(height)
    return _shrink(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)), height)


def label_thumbnail(
    path: str, colours: Mapping[int, Sequence[int]] | None = None, height: int = 150
) -> Image:
    """Show a label file ``height`` px high: every raw value in a colour of its own.

    Args:
        path: The file; one with colours is shown as it is.
        colours: RGB colours of raw values; the others get those of ``make_palette``.
        height: Of the picture in px.
    """
    try:
        with open(path, "rb") as file, open_picture(file) as image:
            label = np.asarray(image)
    except (OSError, SyntaxError, ValueError):
        return _cannot_be_read(height)
    if label.ndim == 3:
        channels = label[..., :3] if label.shape[2] >= 3 else label[..., [0, 0, 0]]
        return _shrink(np.ascontiguousarray(channels.astype(np.uint8)), height, cv2.INTER_NEAREST)
    values = _shrink(label.astype(np.float32), height, cv2.INTER_NEAREST).astype(np.int64)
    painted = make_palette(256)[np.clip(values, 0, 255)]
    for value, colour in (colours or {}).items():
        painted[values == value] = colour
    return painted


def _shrink(
    picture: NDArray[np.generic], height: int, interpolation: int = cv2.INTER_AREA
) -> NDArray[np.uint8]:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation))


def _cannot_be_read(height: int) -> Image:
    picture = np.full((height, height * 4 // 3, 3), 225, np.uint8)
    write_text(picture, "cannot be read", (height // 2 - 8, height // 5), colour=(150, 0, 0))
    return picture
