"""Reading a YAML or JSON config file as data, with the line of each key, within bounds."""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from nlseg.config.marked import Mark, Written, put, set_place
from nlseg.config.origin import shown
from nlseg.errors import ConfigError

MAX_VALUES = 50_000
"""More than ten times the values of the largest config; aliases count as often as they are used."""
MAX_DEPTH = 50
_TOO_MANY = f"more than {MAX_VALUES} values, which no config needs"
TUPLE = "tag:yaml.org,2002:python/tuple"


def read_data(text: str, path: Path) -> Written:
    """Read a YAML or JSON file.

    Args:
        text: The file. Nothing in it is run; tuples that mmengine wrote into YAML are read.
        path: The file, which decides the notation.

    Returns:
        Its values, which know their lines. In JSON that YAML cannot read, all stand on line 1.

    Raises:
        ConfigError: The text is not of its notation, holds an object, refers to itself, is nested
            too deeply, or stands for too many values.
    """
    file = shown(path)
    try:
        values = (_json if path.suffix == ".json" else _yaml)(text, file)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{file}{line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(_too_deep(file)) from error
    if not isinstance(values, Written):
        raise ConfigError(f"{file}: expected keys with values, given {type(values).__name__}")
    return values


def _json(text: str, file: str) -> Any:
    plain = json.loads(text)
    if _count(plain, file, 1) > MAX_VALUES:
        raise ConfigError(f"{file}: {_TOO_MANY}")
    return _with_lines(plain, _json_lines(text, file), file)


def _yaml(text: str, file: str) -> Any:
    loader = _Loader(text, file)
    node = loader.get_single_node()
    if node is None:
        return None
    _measure(node, file, {})
    return _built(loader, node, file)


def _too_deep(place: str) -> str:
    return f"{place}: nested more than {MAX_DEPTH} deep, which no config needs"


class _Loader(yaml.SafeLoader):
    """Composes a YAML text, and stops where it is nested too deeply or too long."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file = file
        self.depth = self.count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node with those inside."""
        self.depth, self.count = self.depth + 1, self.count + 1
        place = f"{self.file}:{self.line + 1}"
        if self.depth > MAX_DEPTH:
            raise ConfigError(_too_deep(place))
        if self.count > MAX_VALUES:
            raise ConfigError(f"{place}: {_TOO_MANY}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _measure(node: Any, file: str, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return how many values a node stands for, and how deep it is, each alias written out.

    Args:
        node: A composed node; aliases are one and the same node.
        file: Its file, for errors.
        known: Results by identity, None for the nodes around this one.
    """
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise ConfigError(f"{file}:{node.start_mark.line + 1}: this value refers to itself")
        return found
    known[id(node)] = None
    inside: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    sizes = [_measure(part, file, known) for part in inside]
    count = 1 + sum(size for size, _ in sizes)
    depth = 1 + max((deep for _, deep in sizes), default=0)
    if count > MAX_VALUES:
        raise ConfigError(f"{file}:{node.start_mark.line + 1}: its aliases stand for {_TOO_MANY}")
    if depth > MAX_DEPTH:
        raise ConfigError(_too_deep(f"{file}:{node.start_mark.line + 1}"))
    known[id(node)] = count, depth
    return count, depth


def _count(value: Any, file: str, depth: int) -> int:
    """Return how many values a JSON text holds, and refuse one that is nested too deeply."""
    if depth > MAX_DEPTH:
        raise ConfigError(_too_deep(file))
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)):
        return 1
    return 1 + sum(_count(item, file, depth + 1) for item in inside)


def _built(loader: _Loader, node: Any, file: str) -> Any:
    """Build a value; what is neither a mapping nor a list is left to the safe loader of YAML."""
    if isinstance(node, yaml.MappingNode) and node.tag == loader.DEFAULT_MAPPING_TAG:
        loader.flatten_mapping(node)
        result = Written()
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConfigError(f"{file}:{key_node.start_mark.line + 1}: {key!r} is no key")
            put(result, key, _built(loader, value_node, file), _mark(file, key_node, value_node))
        set_place(result, _at(file, node))
        return result
    if isinstance(node, yaml.SequenceNode) and node.tag in (loader.DEFAULT_SEQUENCE_TAG, TUPLE):
        items = [_built(loader, item, file) for item in node.value]
        return tuple(items) if node.tag == TUPLE else items
    return loader.construct_object(node, deep=True)


def _at(file: str, node: Any) -> str:
    return f"{file}:{node.start_mark.line + 1 if node is not None else 1}"


def _mark(file: str, key: Any, value: Any) -> Mark:
    return Mark(_at(file, key), _at(file, value))


def _json_lines(text: str, file: str) -> Any:
    """Read JSON as YAML, which it nearly is, for the lines alone."""
    try:
        return _Loader(text, file).get_single_node()
    except yaml.YAMLError:
        return None


def _with_lines(value: Any, node: Any, file: str) -> Any:
    """Give the dicts of a JSON text their lines."""
    if isinstance(value, dict):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        nodes = {key.value: (key, inside) for key, inside in pairs}
        result = Written()
        for key, item in value.items():
            key_node, value_node = nodes.get(key, (None, None))
            put(result, key, _with_lines(item, value_node, file), _mark(file, key_node, value_node))
        set_place(result, _at(file, node))
        return result
    if isinstance(value, list):
        known = isinstance(node, yaml.SequenceNode) and len(node.value) == len(value)
        parts = node.value if known else [None] * len(value)
        return [_with_lines(item, part, file) for item, part in zip(value, parts, strict=True)]
    return value
