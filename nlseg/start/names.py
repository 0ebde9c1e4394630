"""Names of classes where a file gives them: lists, tables of colours, JSON."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nlseg.errors import UserError
from nlseg.intake.rows import SPLITS

FILES = (
    "classes.txt", "class_names.txt", "labels.txt", "label_names.txt", "names.txt",
    "class_dict.csv", "labelmap.txt", "label_colors.txt", "classes.csv", "classes.json",
    "_classes.csv", "objectInfo150.txt", "config.json",
)  # fmt: skip
_OF_MAPILLARY = "config.json"
Colour = tuple[int, int, int]
_NAME = ("name", "class_name", "label_name", "class", "label", "category")
_VALUE = ("id", "value", "index", "class_id", "label_id", "idx", "pixel value")


@dataclass
class Names:
    """What names classes.

    Args:
        source: The file, or the option.
        listed: Names in their order.
        values: Value of each name, where the source says values.
        colours: RGB colour of each name, where the source says colours.
    """

    source: str
    listed: list[str] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)
    colours: dict[str, Colour] = field(default_factory=dict)


def find_names(root: Path, given: str | None, below: Sequence[Path] = ()) -> Names | None:
    """Return the names of classes, None where nothing gives them.

    Args:
        root: Folder of the data; its files of well-known names are read.
        given: Names with commas between, or a file; None looks in the folder.
        below: Folders to look in where there is nothing, such as those above the masks.

    Raises:
        UserError: The file cannot be read, or there are several.
    """
    if given is not None:
        file = next((f for f in (Path(given), root / given) if f.is_file()), None)
        if file is not None:
            return read_names(file)
        if "," not in given:
            raise UserError(f"--classes {given}: is neither a file nor names with commas between")
        listed = [name.strip() for name in given.split(",")]
        return _checked(Names("--classes", listed))
    found = next(filter(None, map(_well_known, (root, *below))), [])
    if len(found) > 1:
        listed = [str(file) for file in found]
        raise UserError(
            f"{' and '.join(listed)} both name classes; say which: --classes {found[0]}"
        )
    return read_names(found[0]) if found else None


def _well_known(root: Path) -> list[Path]:
    """List files that name classes, of a folder or of those of its splits; equal ones once."""
    here = [root / name for name in FILES if (root / name).is_file()]
    here = [file for file in here if file.name != _OF_MAPILLARY or _described(_json(file))]
    if here or not root.is_dir():
        return here
    below = [file for folder in sorted(root.iterdir()) if folder.name.lower() in SPLITS
             for name in FILES if (file := folder / name).is_file()]  # fmt: skip
    return list({str(replace(read_names(file), source="")): file for file in below}.values())


def read_names(file: Path) -> Names:
    """Read a file that names classes.

    One name a line, also as ``3 car`` or ``3: car``; with colours as ``car,128,0,0``,
    ``3,car,128,0,0``, ``car:128,0,0::`` or ``128 0 0 car``; a table whose first line says ``name``
    and may say ``id``, ``r``, ``g`` and ``b``; JSON as a list, or from values to names.

    Raises:
        UserError: It cannot be read, or names a class twice.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        names = _of_json(file, text) if file.suffix == ".json" else _of_lines(file, text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}; write it as UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: is no JSON: {error.msg}; correct it") from error
    return _checked(names)


def _checked(names: Names) -> Names:
    twice = sorted({name for name in names.listed if names.listed.count(name) > 1})
    if twice or "" in names.listed:
        what = f"names {twice[0]!r} twice" if twice and twice[0] else "holds an empty name"
        raise UserError(f"{names.source}: {what}; give each class a name of its own")
    if not names.listed:
        raise UserError(f"{names.source}: names no class; write one name a line")
    return names


def _json(file: Path) -> Any:
    """Return what a JSON file holds, None for one that cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None


def _described(values: Any) -> list[Mapping[str, Any]]:
    """Return Mapillary's list of labels, in the order of their ids; nothing where it is none."""
    labels = values.get("labels") if isinstance(values, dict) else None
    if isinstance(labels, list) and all(isinstance(x, dict) and "name" in x for x in labels):
        return labels
    return []


def _of_json(file: Path, text: str) -> Names:
    values = json.loads(text)
    names = Names(str(file))
    if labels := _described(values):
        values = [str(label.get("readable") or label["name"]) for label in labels]
        colours: list[Any] = [label.get("color") for label in labels]
        if all(isinstance(colour, list) and len(colour) == 3 for colour in colours):
            names.colours = {
                name: (int(r), int(g), int(b))
                for name, (r, g, b) in zip(values, colours, strict=True)
            }
    if isinstance(values, dict) and isinstance(values.get("classes"), list):
        values = values["classes"]
    if isinstance(values, list) and all(isinstance(name, str) for name in values):
        names.listed = list(values)
    elif isinstance(values, dict) and all(key.isdigit() for key in values):
        names.values = {str(name): int(key) for key, name in values.items()}
        names.listed = sorted(names.values, key=lambda name: names.values[name])
    else:
        raise UserError(
            f"{file}: is neither a list of names nor a dict from values to names; write "
            '["background", "thing"]'
        )
    return names


def _of_lines(file: Path, text: str) -> Names:
    names = Names(str(file))
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    table = _of_table(names, lines)
    if table is not None:
        return table
    titled = bool(lines) and not re.search(r"\d", lines[0])
    entries = [(line, _with_colour(line)) for line in lines]
    found = [entry for _, entry in entries if entry is not None]
    odd = [line for line, entry in entries[titled:] if entry is None]
    if found and odd:
        raise UserError(
            f"{file}: {odd[0]!r} has no colour of three levels up to 255, as other lines have; "
            "correct it"
        )
    if found:
        numbered = all(value for value, _, _ in found)
        for value, name, colour in found:
            called = name if numbered else " ".join(filter(None, (value, name)))
            names.listed.append(called)
            names.colours[called] = colour
            if numbered:
                names.values[called] = int(value)
        return names
    numbers = [re.fullmatch(r"(\d+)\s*[:,;\s]\s*(\S.*)", line) for line in lines]
    if lines and all(numbers):
        names.values = {match[2].strip(): int(match[1]) for match in numbers if match}
        names.listed = list(names.values)
        return names
    names.listed = lines
    return names


def _of_table(names: Names, lines: Sequence[str]) -> Names | None:
    """Read lines below one of titles; None where the first line is none."""
    mark = next((mark for mark in ",;\t" if lines and mark in lines[0]), None)
    if mark is None:
        return None
    titles, *rows = csv.reader(lines, delimiter=mark, skipinitialspace=True)
    places = {title.strip().lower(): place for place, title in enumerate(titles)}
    name = next((places[title] for title in _NAME if title in places), None)
    value = next((places[title] for title in _VALUE if title in places), None)
    levels = [places.get(long, places.get(long[0])) for long in ("red", "green", "blue")]
    if name is None:
        return None
    for number, row in enumerate(rows, 2):
        cells = [cell.strip() for cell in row]
        wanted = [place for place in (value, *levels) if place is not None]
        if len(cells) <= max(name, *wanted) or not all(cells[place].isdigit() for place in wanted):
            raise UserError(
                f"{names.source}: row {number}, {mark.join(row)!r}, does not fit the titles "
                f"{lines[0]!r}; correct it"
            )
        names.listed.append(cells[name])
        if value is not None:
            names.values[cells[name]] = int(cells[value])
        red, green, blue = (int(cells[place]) if place is not None else -1 for place in levels)
        if min(red, green, blue) >= 0:
            names.colours[cells[name]] = (red, green, blue)
    return names


def _with_colour(line: str) -> tuple[str, str, Colour] | None:
    """Return value or nothing, name and colour of a line; None for one without a colour."""
    text = line.partition("::")[0]  # CVAT's name:r,g,b::
    after = re.fullmatch(
        r"(?:(\d+)\s*[,;:\s]\s*)?(.*?[^\d\s,;:].*?)\s*[,;:\s]\s*"
        r"(\d+)\s*[,;\s]\s*(\d+)\s*[,;\s]\s*(\d+)\s*(?::.*)?", text,
    )  # fmt: skip
    before = re.fullmatch(r"(\d+)[,;\s]+(\d+)[,;\s]+(\d+)[,;:\s]+(.*[^\d\s,;:].*)", text)
    if before is not None:
        value, name, levels = "", before[4], before.groups()[:3]
    elif after is not None:
        value, name, levels = after[1] or "", after[2], after.groups()[2:]
    else:
        return None
    red, green, blue = (int(level) for level in levels)
    if max(red, green, blue) > 255:
        return None
    return value, name.strip().strip('"'), (red, green, blue)
