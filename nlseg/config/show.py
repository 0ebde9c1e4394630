"""Showing a config: as Python text with the origin of each value, and as a difference."""

from pathlib import Path

from mmengine.config import Config

from nlseg.config.literals import parse_assignments
from nlseg.config.load import load_config, trace_of
from nlseg.config.origin import dotted, leaves
from nlseg.config.text import RESOLVED, ReadableConfig, python_text
from nlseg.errors import ConfigError
from nlseg.weights.fields import mapping
from nlseg.weights.files import read_checkpoint

CHECKPOINTS = (".pth", ".pt", ".safetensors")


def as_python(config: Config, *, origins: bool = True) -> str:
    """Write a resolved config as a Python file that loads to the same values.

    Args:
        config: A config that ``load_config`` read.
        origins: End each line with the file and line that wrote its value.

    Returns:
        The text, one value a line.
    """
    origin_of = trace_of(config).where if origins else None
    return f"{RESOLVED}\n{python_text(config.to_dict(), origin_of)}"


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
    text = mapping(read_checkpoint(path), "meta", str(path)).get("cfg")
    if not isinstance(text, (str, dict)) or not text:
        raise ConfigError(f"{path}: this checkpoint does not hold the config it was trained with")
    values = parse_assignments(text) if isinstance(text, str) else text
    config = ReadableConfig(dict(values))
    object.__setattr__(config, "_filename", str(path))  # given to the constructor, it would be read
    return config
