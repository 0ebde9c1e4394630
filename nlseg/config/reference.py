"""What a registered class takes, as text: read off its signature, annotations and docstring."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from nlseg.bounds import claims_in, describe_hint
from nlseg.config.families import find_anywhere, names_anywhere
from nlseg.config.signatures import Signature, signature_of
from nlseg.errors import UserError, nearest

WIDTH = 100
_ARGUMENT = re.compile(r"^    (\*{0,2}\w+): (.*)$")


def describe(name: str) -> str:
    """Tell what a class or function takes from a config or from Python.

    Args:
        name: A registered name, of nlseg, mmengine or a module that was imported.

    Returns:
        Text: what it does, then for each argument what it takes, its default, what it means.

    Raises:
        UserError: No registry holds the name.
    """
    found = find_anywhere(name)
    if found is None:
        raise UserError(f"no registry holds {name!r}{nearest(name, names_anywhere())}")
    built, registry = found
    purpose = (inspect.getdoc(built) or "").partition("\n")[0]
    head = [f"{name} ({registry.name}): {built.__module__}.{built.__qualname__}", purpose, ""]
    return "\n".join([*head, *_arguments(built)])


def _arguments(built: Any) -> Iterator[str]:
    signature, meanings = signature_of(built), meanings_of(built)
    for name, hint in signature.hints.items():
        yield f"{name}: {_taken(name, hint, signature)}"
        other = getattr(built, "hands_on_to", None)
        meaning = meanings.get(name, f"Handed on, see {other}." if other else "")
        indented = {"initial_indent": "    ", "subsequent_indent": "    "}
        yield from textwrap.wrap(meaning, WIDTH, **indented)  # type: ignore[arg-type]
    if signature.is_open:
        yield "and any further arguments"


def _taken(name: str, hint: Any, signature: Signature) -> str:
    """Return types and ranges of an argument, and its default."""
    words = "anything" if hint is Any else describe_hint(hint)
    ranges = "".join(f", {words}" for words in claims_in(hint))
    if name in signature.required or name not in signature.defaults:
        return f"{words}{ranges}; has to be given"
    return f"{words}{ranges}; default {signature.defaults[name]!r}"


def meanings_of(built: Any) -> dict[str, str]:
    """Read what each argument means from the docstrings of a class and of its parents.

    Args:
        built: A class or function with docstrings in Google's style.

    Returns:
        Argument to text, without line breaks; a child's words come before its parents'.
    """
    meanings: dict[str, str] = {}
    for owner in built.__mro__ if isinstance(built, type) else (built,):
        for part in (owner, vars(owner).get("__init__")):
            for name, meaning in _section(inspect.cleandoc(getattr(part, "__doc__", None) or "")):
                meanings.setdefault(name, meaning)
    return meanings


def _section(doc: str) -> Iterator[tuple[str, str]]:
    """Yield the entries of the ``Args`` section of a docstring."""
    _, _, rest = doc.partition("Args:\n")
    name = ""
    lines: list[str] = []
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        entry = _ARGUMENT.match(line)
        if entry is None:
            lines.append(line.strip())
            continue
        if name:
            yield name, " ".join(lines).strip()
        name, lines = entry[1], [entry[2]]
    if name:
        yield name, " ".join(lines).strip()
