"""Showing a config: as Python text with the origin of each value, and as a difference."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from nlseg.engine.config.literals import parse_assignments
from nlseg.engine.config.load import load_config, trace_of
from nlseg.engine.config.origin import KeyPath, Trace, dotted, leaves
from nlseg.engine.weights.files import read_checkpoint
from nlseg.errors import ConfigError

CHECKPOINTS = (".pth", ".pt", ".safetensors")
COMMENT_COLUMN = 64
Row = tuple[int, str, str]
"""Depth, text and origin of one line."""


def as_python(config: Config, *, origins: bool = True) -> str:
    """Write a config as a Python file that loads to the same values.

    Args:
        config: A config that ``load_config`` read.
        origins: End each line with the file and line that wrote its value.

    Returns:
        The text, one value a line.
    """
    trace = trace_of(config)
    lines = []
    for key, value in config.to_dict().items():
        for depth, text, origin in _rows(f"{key} = ", value, (key,), trace, ""):
            line = "    " * depth + text
            lines.append(f"{line:<{COMMENT_COLUMN}}  # {origin}" if origins and origin else line)
    return "\n".join(lines) + "\n"


def _rows(
    start: str, value: Any, path: KeyPath, trace: Trace, end: str, depth: int = 0
) -> Iterator[Row]:
    """Yield the lines of one value, ``start`` in front of it and ``end`` behind."""
    parts = _parts(value)
    if parts is None:
        yield depth, f"{start}{value!r}{end}", trace.where(path)
        return
    opening, closing, items = parts
    yield depth, start + opening, ""
    for name, key, item in items:
        yield from _rows(name, item, (*path, key), trace, ",", depth + 1)
    yield depth, closing + end, ""


def _parts(value: Any) -> tuple[str, str, list[tuple[str, Any, Any]]] | None:
    """Split a value that takes several lines into brackets and items, None for one line."""
    if isinstance(value, dict) and value:
        if all(str(key).isidentifier() for key in value):
            return "dict(", ")", [(f"{key}=", key, item) for key, item in value.items()]
        return "{", "}", [(f"{key!r}: ", key, item) for key, item in value.items()]
    if isinstance(value, (list, tuple)) and any(isinstance(v, (dict, list, tuple)) for v in value):
        brackets = "[]" if isinstance(value, list) else "()"
        return brackets[0], brackets[1], [("", index, item) for index, item in enumerate(value)]
    return None


def difference(one: Config, other: Config) -> list[str]:
    """List the values in which two configs differ.

    Args:
        one: The first config, its lines begin with ``-``.
        other: The second, its lines begin with ``+``.

    Returns:
        Lines ``- path = value  # origin``, none where the configs are equal.
    """
    values = [dict(leaves(config.to_dict())) for config in (one, other)]
    traces = [trace_of(one), trace_of(other)]
    lines = []
    for path in dict.fromkeys([*values[0], *values[1]]):
        both = path in values[0] and path in values[1]
        if both and values[0][path] == values[1][path]:
            continue
        for sign, side, trace in zip("-+", values, traces, strict=True):
            if path in side:
                text = f"{sign} {dotted(path)} = {side[path]!r}"
                lines.append(f"{text}  # {trace.where(path)}")
    return lines


def read_any(path: str | Path) -> Config:
    """Read the config of a config file or of a checkpoint.

    Args:
        path: A config file, or a weight file whose ``meta`` holds the config that it was trained
            with. That text is read as data; nothing in it is run.

    Returns:
        The config.

    Raises:
        ConfigError: The checkpoint holds no config.
    """
    path = Path(path)
    if path.suffix not in CHECKPOINTS:
        return load_config(path, check=False)
    text = read_checkpoint(path).get("meta", {}).get("cfg")
    if not text:
        raise ConfigError(f"{path}: this checkpoint does not hold the config it was trained with")
    values = parse_assignments(text) if isinstance(text, str) else text
    return Config(dict(values), filename=None)
