"""The page of the data doctor: what is wrong and how to mend it, classes, values, sizes."""

import os
from html import escape
from math import log10
from typing import Any

from nlseg.visualization.overlay import Image
from nlseg.visualization.page import bar, figure, page, swatch, table
from nlseg.visualization.thumbnail import IGNORED, STRAY, label_thumbnail, pair_thumbnail, thumbnail

_SEVERITIES = ("error", "warning", "note")
_MAX_PICTURES = 6
_MAX_VALUES = 80

Json = dict[str, Any]


def doctor_page(report: Json) -> str:
    """Draw a report as one HTML document with all its pictures inside.

    Args:
        report: The doctor's report as it is written to JSON: ``config``, ``created``,
            ``num_files``, ``seconds``, ``findings``, ``partners``, ``labels`` and ``splits``.
    """
    parts = [_head(report), "<h2>Findings</h2>"]
    parts += [_finding(finding, report) for finding in report["findings"]]
    if not report["findings"]:
        parts.append('<div class="card good">Nothing was found that is wrong.</div>')
    parts += [_split(split) for split in report["splits"]]
    return page(f"Data check: {report['config']}", "\n".join(parts))


def _head(report: Json) -> str:
    chips = ""
    for severity in _SEVERITIES:
        count = sum(finding["severity"] == severity for finding in report["findings"])
        plural = "" if count == 1 else "s"
        css = severity if count else ""
        chips += f'<span class="chip {css}">{count} {severity}{plural}</span>'
    return (
        f"<h1>Data check</h1><p><code>{escape(report['config'])}</code></p><p>{chips}"
        f'<span class="soft small">{report["num_files"]} files in {report["seconds"]:.1f} s, '
        f"{escape(report['created'])}</span></p>"
    )


def _finding(finding: Json, report: Json) -> str:
    severity = finding["severity"]
    html = (
        f'<div class="card {severity}"><p><span class="chip {severity}">{severity}</span>'
        f'<span class="chip">{escape(finding["split"])}</span>'
        f"<strong>{escape(finding['title'])}</strong></p>"
    )
    if finding["detail"]:
        detail = "<br>".join(escape(line) for line in finding["detail"].splitlines())
        html += f'<p class="small">{detail}</p>'
    if finding["remedy"]:
        html += f"<pre>{escape(finding['remedy'])}</pre>"
    shown = [path for path in finding["files"] if os.path.isfile(path)][:_MAX_PICTURES]
    pictures = [_pictures(path, finding, report) for path in shown]
    if pictures:
        html += f'<div class="pictures">{"".join(pictures)}</div>'
    return html + "</div>"


def _pictures(path: str, finding: Json, report: Json) -> str:
    """Show an offending file: image left, label right, where both are known."""
    named = finding["split"].split(" and ")
    split = next((s for s in report["splits"] if s["name"] in named), None)
    partner = report["partners"].get(path)
    kinds = report["labels"]
    if path in kinds or partner in kinds:
        label = path if path in kinds else partner
        image = partner if path in kinds else path
        shown = _label(label, split)
        picture = pair_thumbnail(thumbnail(image), shown) if image else shown
    else:
        without_image = finding["code"] == "orphan-label"
        picture = _label(path, split) if without_image else thumbnail(path)
    return figure(picture, path)


def _label(path: str, split: Json | None) -> Image:
    """Show a label file in the colours of what its values become."""
    if split is None:
        return label_thumbnail(path)
    palette = [entry["colour"] for entry in split["classes"]]
    colours = {}
    for entry in split["values"]:
        becomes = entry["becomes"]
        if becomes is None:
            colours[int(float(entry["value"]))] = STRAY
        elif becomes == "ignored" or palette[becomes] is not None:
            colours[int(entry["value"])] = IGNORED if becomes == "ignored" else palette[becomes]
    return label_thumbnail(path, colours)


def _split(split: Json) -> str:
    facts = [
        f"{split['num_images']} images, {split['num_labels']} labels",
        _mean_and_std(split),
        "" if split["ignored_share"] is None else f"{split['ignored_share']:.1%} of pixels ignored",
        f"<code>{escape(split['key'])}</code> in {escape(split['where'])}"
        if split["where"]
        else "",
    ]
    html = f"<h2>{escape(split['name'])}</h2>"
    html += '<p class="soft small">' + " &middot; ".join(filter(None, facts)) + "</p>"
    if split["classes"] and split["num_labels"]:
        html += f'<div class="card"><h3>Classes</h3>{_classes(split["classes"])}</div>'
    if split["values"]:
        html += f'<div class="card"><h3>Values in the label files</h3>{_values(split)}</div>'
    if split["sizes"]:
        html += f'<div class="card"><h3>Image sizes</h3>{_sizes(split["sizes"])}</div>'
    return html


def _mean_and_std(split: Json) -> str:
    if split["mean"] is None:
        return ""
    mean, std = (" ".join(f"{v:.1f}" for v in split[key]) for key in ("mean", "std"))
    return f"RGB mean {mean}, std {std}"


def _classes(classes: list[Json]) -> str:
    highest = max(entry["share"] for entry in classes) or 1.0
    rows = [
        [
            str(i),
            swatch(entry["colour"]) + escape(entry["name"]),
            bar(entry["share"] / highest, entry["colour"]) if entry["pixels"] else "",
            f"{entry['share']:.3%}" if entry["pixels"] else '<span class="soft">never</span>',
            str(entry["images"]),
            f"{entry['weight']:g}",
        ]
        for i, entry in enumerate(classes)
    ]
    header = [("", "number"), ("class", ""), ("share of labelled pixels", "wide"),
              ("", "number"), ("images", "number"), ("suggested weight", "number")]  # fmt: skip
    return table(header, rows)


def _values(split: Json) -> str:
    """Show raw values with bars on a logarithmic scale; those outside the classes first."""
    highest = max(log10(entry["pixels"] + 1) for entry in split["values"])
    listed = sorted(split["values"], key=lambda entry: entry["becomes"] is not None)[:_MAX_VALUES]
    rows = [
        [
            escape(entry["value"]),
            _meaning(entry["becomes"], split["classes"]),
            bar(log10(entry["pixels"] + 1) / highest, _colour(entry["becomes"], split["classes"])),
            f"{entry['pixels']:,}",
            str(entry["files"]),
        ]
        for entry in listed
    ]
    header = [("value", "number"), ("becomes", ""), ("pixels, on a logarithmic scale", "wide"),
              ("pixels", "number"), ("files", "number")]  # fmt: skip
    return table(header, rows)


def _meaning(becomes: int | str | None, classes: list[Json]) -> str:
    if becomes is None:
        return '<span class="chip error">outside the classes</span>'
    if isinstance(becomes, str):
        return f'<span class="soft">{becomes}</span>'
    return f"{becomes} {escape(classes[becomes]['name'])}"


def _colour(becomes: int | str | None, classes: list[Json]) -> list[int] | None:
    if becomes is None:
        return list(STRAY)
    return [150, 150, 150] if isinstance(becomes, str) else classes[becomes]["colour"]


def _sizes(sizes: list[list[int]]) -> str:
    highest = max(count for _, _, count in sizes)
    rows = [[f"{h} &times; {w}", bar(n / highest), str(n)] for h, w, n in sizes[:20]]
    return table([("height x width", ""), ("", "wide"), ("images", "number")], rows)
