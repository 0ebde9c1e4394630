"""The value of a ``key=value`` override: a Python literal where it is one, else the text itself."""

import ast
from typing import Any

from nlseg.errors import ConfigError

NOT_NONE = ("none", "null", "nil", "~")
NUMBERS = {"inf": float("inf"), "nan": float("nan")}
BOOLEANS = {"true": True, "false": False}


def split_override(text: str) -> tuple[str, str]:
    """Split ``key=value`` at the first equals sign.

    Args:
        text: One word of ``--cfg-options``.

    Returns:
        The dotted key and the raw value.

    Raises:
        ConfigError: No equals sign, or no key before it.
    """
    key, sign, value = text.partition("=")
    key = key.strip()
    if not sign or not key or not all(key.split(".")):
        raise ConfigError(
            f"--cfg-options {text!r}: expected key=value, such as model.pretrained=None"
        )
    return key, value.strip()


def parse_value(text: str, *, like: Any = None) -> Any:
    """Turn the text of a value into what it says.

    Args:
        text: What stands right of the equals sign.
        like: The present value. Where it is a list or tuple, ``a,b`` is a list of two words; where
            it is not, commas belong to the text.

    Returns:
        A literal (``'123'`` stays a string, ``dict(a=1)`` and ``{'a': 1}`` are dicts, ``1,2`` is a
        list as in OpenMMLab's tools), a boolean for ``true`` and ``false``, or the text.

    Raises:
        ConfigError: The text is ``none`` or ``null``, which is neither None nor surely a word.
    """
    if text != "None" and text.lower() in NOT_NONE:
        raise ConfigError(
            f"{text!r} is not None: write None for no value, or \"'{text}'\" for the word"
        )
    if text.lower() in BOOLEANS:
        return BOOLEANS[text.lower()]
    try:
        return _literal(ast.parse(text, mode="eval").body, outermost=True)
    except (SyntaxError, ValueError):
        return _words(text, like)


def _literal(node: ast.expr, *, outermost: bool = False) -> Any:
    """Evaluate a literal, with ``dict(a=1)`` allowed inside; a tuple without brackets is a list."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        if node.args or any(item.arg is None for item in node.keywords):
            raise ValueError("dict() takes key=value pairs only")
        return {str(item.arg): _literal(item.value) for item in node.keywords}
    if isinstance(node, ast.Tuple):
        items = [_literal(item) for item in node.elts]
        bare = outermost and node.elts and node.elts[0].col_offset == node.col_offset
        return items if bare else tuple(items)
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Name) and node.id in NUMBERS:
        return NUMBERS[node.id]
    if isinstance(node, ast.Dict) and all(node.keys):
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_literal, node.values), strict=True))
    return ast.literal_eval(node)


def parse_assignments(text: str) -> dict[str, Any]:
    """Read a resolved config that was written as Python text, without running it.

    Args:
        text: Lines such as ``model = dict(type='x')``.

    Returns:
        The values by name.

    Raises:
        ConfigError: The text holds more than assignments of literals.
    """
    values = {}
    try:
        for node in ast.parse(text).body:
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                raise ValueError(f"line {node.lineno} is no assignment")
            values[node.targets[0].id] = _literal(node.value)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"the text is no resolved config: {error}") from error
    return values


def _words(text: str, like: Any) -> Any:
    """Read ``[a, b]``, ``(a, b)`` and, where a list stood, ``a,b`` as lists of words."""
    if text[:1] + text[-1:] in ("[]", "()"):
        items = [parse_value(part.strip()) for part in split_items(text[1:-1])]
        return tuple(items) if text.startswith("(") else items
    if isinstance(like, (list, tuple)) and "," in text:
        return [parse_value(part.strip()) for part in split_items(text)]
    return text


def split_items(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets."""
    parts, depth, start = [], 0, 0
    for position, char in enumerate(text):
        depth += (char in "[({") - (char in "])}")
        if char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]
