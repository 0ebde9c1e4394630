"""Rows of JSON files and lists with the lines that they begin on, and what could not be read."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nlseg.errors import DataError
from nlseg.ops.resize import Size

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test", "trn": "train", "tst": "test",
}  # fmt: skip
"""Words for the parts of a data set, in small letters."""
TEXT = "utf-8-sig"
"""UTF-8; a byte order mark, with which Windows' programs begin a file, is no part of the text."""
_SHOWN = 4
_COLUMN = re.compile(r"\t|(?<=\.\w{3})\s|(?<=\.\w{4})\s")


def split_in(name: str) -> str:
    """Return the split that a word of a name says, nothing where none or two do."""
    words = re.findall("[a-z]+", name.lower())
    splits = {SPLITS[word] for word in words if word in SPLITS}
    return splits.pop() if len(splits) == 1 else ""


class Row(NamedTuple):
    """An element of a list in a JSON file.

    Args:
        line: Where it begins, from 1.
        value: What it holds.
    """

    line: int
    value: Any


class Labelled(NamedTuple):
    """An image with its label map.

    Args:
        name: Path of both below their folders, without a suffix.
        image: The file; or its content, where a format brings it along.
        label: Values (H, W) as the data set reads them.
        source: The file that brings the image along.
    """

    name: str
    image: Path | bytes
    label: NDArray[np.uint8]
    source: Path | None = None


@dataclass
class Export:
    """What an export holds, one image after the other.

    Args:
        classes: Their names, in the order of their values.
        palette: RGB colour of each, where the format has colours.
        unreadable: ``file:line: why`` for each row that is left out.
        splits: Names of the images of each split, where the format has splits.
        notes: What else a reader of the plan should know.
    """

    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]] | None = None
    unreadable: list[str] = field(default_factory=list)
    splits: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, file: Path, line: int, why: object) -> None:
        """Note a row that cannot be read."""
        self.unreadable.append(f"{file}:{line}: {why}")


def read_json(file: Path) -> tuple[Any, str]:
    """Return what a JSON file holds, and its text.

    Raises:
        DataError: It is no JSON; names file and line.
    """
    try:
        text = file.read_text(encoding=TEXT)
        return json.loads(text), text
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {error}") from error


def read_lines(file: Path) -> list[tuple[int, str]]:
    """Return the lines of a list that are not empty, with their numbers.

    Raises:
        DataError: It is no text in UTF-8.
    """
    try:
        lines = file.read_text(encoding=TEXT).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}; write it as UTF-8 text") from error
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def names_in(line: str) -> tuple[str, str, str]:
    """Return what a line of a list may name, as names may hold blanks and columns may follow.

    Returns:
        The first column, which quotes, a tab, or a blank behind a suffix end; the first word; and
        the whole line.
    """
    quoted = re.match(r'"(.+?)"', line)
    return quoted[1] if quoted else _COLUMN.split(line)[0].strip(), line.split()[0], line


def printable(text: str) -> str:
    """Return a text with codes for what UTF-8 cannot say, such as parts of the names of files."""
    return text.encode("utf-8", "backslashreplace").decode()


def lost(image: str, folders: Sequence[Path]) -> str:
    """Say that an image was not found, and what helps."""
    more = f" and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
    listed = ", ".join(map(str, folders[:_SHOWN]))
    return f"{image} is in none of {listed}{more}; say where: --images DIR"


def rows_of(values: Any, text: str, key: str) -> list[Row]:
    """Return the elements of a list at the top of a JSON file with their lines.

    Args:
        values: What the file holds.
        text: Its text.
        key: Name of the list.
    """
    wanted = values.get(key) if isinstance(values, dict) else None
    if not isinstance(wanted, list):
        return []
    decoder, place = json.JSONDecoder(), -1
    while (place := text.find(json.dumps(key), place + 1)) >= 0:
        begin = text.find("[", place)
        lead = text[place + len(json.dumps(key)) : begin].strip()
        if begin < 0 or lead != ":":
            continue
        rows = _elements(text, begin + 1, len(wanted), decoder)
        if [row.value for row in rows] == wanted:
            return rows
    return [Row(1, value) for value in wanted]


def _elements(text: str, place: int, count: int, decoder: json.JSONDecoder) -> list[Row]:
    rows: list[Row] = []
    line, counted = 1, 0
    for _ in range(count):
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            return rows
        rows.append(Row(line, value))
    return rows


def checked_size(height: Any, width: Any) -> Size:
    """Return a size that a file gives.

    Raises:
        ValueError: It is none.
    """
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or not 0 < side <= 1 << 20:
            raise ValueError(f"height {height!r} and width {width!r} are no size in px")
    return height, width
