"""Dicts that know the line that wrote each of their keys, through merging and copying.

A config file is run with these in place of its own dicts (``python_file.py``), or read into them
(``data_file.py``). What they know becomes the tree of ``origin.py`` once the files are merged.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

from mmengine.config import ConfigDict

from nlseg.config.origin import Key, KeyPath, Origin, dotted
from nlseg.errors import ConfigError, nearest

DELETE = "_delete_"
FILE = "__config_file__"
"""Name under which the namespace of a config file holds the file that is being run."""
_MARKS, _PLACE, _VARIABLE = "__marks__", "__place__", "__variable__"


class Mark(NamedTuple):
    """Where one key of a dict was written.

    Args:
        named_at: ``file:line`` of the key.
        where: ``file:line`` of the value.
        variable: Name of the top-level variable that the value was copied from.
    """

    named_at: str
    where: str
    variable: str = ""


class RunningFile(Protocol):
    """A config file that is being run."""

    def mark_of_statement(self, line: int, key: Key, value: Any) -> Mark:
        """Return the mark of a key that the statement at a line sets."""


class Marked(dict[Any, Any]):
    """A dict that notes which line sets each key.

    What it knows stands in attributes whose names no key of a config has, because ``ConfigDict``
    shows its keys as attributes. Lines that set a key after the dict was made are those of the
    innermost config file on the stack.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a key, and note the line that does it."""
        put(self, key, value, _mark_of_running_line(key, value))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Set a key that is missing, and return its value."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Take over keys, with the lines that wrote them where they are known."""
        for key, value, mark in _incoming(args, kwargs):
            put(self, key, value, mark)

    def __ior__(self, other: Any) -> Any:
        """Take over the keys of another dict."""
        self.update(other)
        return self

    def __or__(self, other: Any) -> Any:
        """Return a copy with the keys of another dict."""
        if not isinstance(other, dict) or isinstance(other, MarkedConfigDict):
            return NotImplemented  # which then decides that dicts inside are merged
        return _with(self.copy(), other)

    def __ror__(self, other: Any) -> Any:
        """Return a copy of another dict with these keys."""
        if not isinstance(other, dict):
            return NotImplemented
        return _with(Written(other), self)

    def __copy__(self) -> Any:
        """Return a shallow copy that knows the same lines."""
        new = type(self)()
        for key, value in dict.items(self):
            dict.__setitem__(new, key, _inside(self, value))
        return _like(self, new)

    def copy(self) -> Any:
        """Return a shallow copy that knows the same lines."""
        return self.__copy__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return a deep copy that knows the same lines."""
        new = memo[id(self)] = type(self)()
        for key, value in dict.items(self):
            dict.__setitem__(new, deepcopy(key, memo), deepcopy(value, memo))
        return _like(self, new)


class Written(Marked):
    """What ``dict(...)`` and ``{...}`` make in a config file."""


class MarkedConfigDict(Marked, ConfigDict):
    """What a base file hands on: keys are attributes too, and ``update`` merges dicts inside."""

    def __missing__(self, key: Any) -> Any:
        """Refuse a key that is not there."""
        raise KeyError(f"there is no {key!r}{nearest(str(key), self)}")

    def __getattr__(self, name: str) -> Any:
        """Return the value of a key."""
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Take over keys; a dict is merged into a dict."""
        for key, value, mark in _incoming(args, kwargs):
            old = dict.get(self, key)
            if isinstance(old, dict) and isinstance(value, dict):
                old.update(value)
                _move(old, value)
                value = old
            put(self, key, value, mark)

    def merge(self, other: dict[Any, Any]) -> None:
        """Take over keys as a file does from its base, ``_delete_`` included."""
        new = as_config_dict(deepcopy(other))
        old = MarkedConfigDict() if new.pop(DELETE, False) else self
        running = _mark_of_running_line("", None)
        result = merged(old, new, strict=False, around=running.where if running else "")
        self.clear()
        self.update(result)

    def __or__(self, other: Any) -> Any:
        """Return a copy with the keys of another dict."""
        return _with(deepcopy(self), other) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        """Return a copy of another dict with these keys."""
        if not isinstance(other, dict):
            return NotImplemented
        return _with(as_config_dict(deepcopy(other)), self)


class MarkedList(list[Any]):
    """A list that knows which lines, and which variables, its first items came from."""


class MarkedTuple(tuple[Any, ...]):
    """The same for a tuple."""


def with_marks(items: Any, marks: Sequence[Mark | None]) -> Any:
    """Return a list or tuple that knows where its items were written.

    Args:
        items: A list or tuple.
        marks: One for each item, None for an item that is not known.
    """
    made = MarkedList(items) if isinstance(items, list) else MarkedTuple(items)
    vars(made)[_MARKS] = list(zip(items, marks, strict=True))
    return made


def item_marks(items: Any) -> list[Mark | None]:
    """Return what a list or tuple knows about those items that stand where they stood at first."""
    known = vars(items)[_MARKS] if isinstance(items, (MarkedList, MarkedTuple)) else []
    marks = [mark if old is item else None for item, (old, mark) in zip(items, known, strict=False)]
    return marks + [None] * (len(items) - len(marks))


def each_item(change: Callable[[Any], Any], items: Any) -> Any:
    """Return a list or tuple with each item changed, which knows the same lines."""
    changed = [change(item) for item in items]
    if isinstance(items, (MarkedList, MarkedTuple)):
        made = changed if isinstance(items, list) else tuple(changed)
        return with_marks(made, item_marks(items))
    return type(items)(changed)


def marks_of(value: dict[Any, Any]) -> dict[Any, Mark]:
    """Return what a dict knows about its keys; nothing for a plain dict."""
    if not isinstance(value, Marked):
        return {}
    marks: dict[Any, Mark] = vars(value).setdefault(_MARKS, {})
    return marks


def place_of(value: Any) -> str:
    """Return ``file:line`` at which a dict begins, nothing where it is not known."""
    return str(vars(value).get(_PLACE, "")) if isinstance(value, Marked) else ""


def set_place(value: Marked, place: str) -> None:
    """Say at which ``file:line`` a dict begins."""
    vars(value)[_PLACE] = place


def variable_of(value: Any) -> str:
    """Return the top-level variable that a dict, or what it is a copy of, was given to."""
    return str(vars(value).get(_VARIABLE, "")) if isinstance(value, Marked) else ""


def set_variable(value: Any, name: str) -> None:
    """Say which top-level variable a dict is given to; other values cannot know it."""
    if isinstance(value, Marked):
        vars(value)[_VARIABLE] = name


def mark_of_copy(named_at: str, holder: Any, key: Any, *, is_variable: bool) -> Mark | None:
    """Return the mark of a value that was copied from another dict, None where it knows none.

    Args:
        named_at: ``file:line`` of the key that the copy is given.
        holder: The dict that it was copied from.
        key: Its key there.
        is_variable: That key is a top-level variable.
    """
    source = marks_of(holder).get(key)
    if source is None:
        return None
    return Mark(named_at, source.where, str(key) if is_variable else source.variable)


def put(target: Marked, key: Any, value: Any, mark: Mark | None) -> None:
    """Set a key that a known line wrote.

    Args:
        target: Changed in place.
        key: The key.
        value: Its value.
        mark: Where it was written; None where that is not known.
    """
    dict.__setitem__(target, key, _inside(target, value))
    if mark is not None:
        marks_of(target)[key] = mark
    else:
        marks_of(target).pop(key, None)


def _inside(holder: Marked, value: Any) -> Any:
    """Return a value as a dict holds it."""
    return as_config_dict(value) if isinstance(holder, MarkedConfigDict) else value


def as_config_dict(value: Any) -> Any:
    """Turn the dicts in a value into those that a base file hands on.

    Args:
        value: Any value. As in mmengine, dicts of other classes stay what they are.
    """
    if type(value) in (dict, OrderedDict, Written):
        new = MarkedConfigDict()
        for key, item in dict.items(value):
            dict.__setitem__(new, key, as_config_dict(item))
        return _like(value, new)
    return each_item(as_config_dict, value) if isinstance(value, (list, tuple)) else value


def _like(old: Any, new: Any) -> Any:
    """Give a copy what the original knows."""
    marks_of(new).update(marks_of(old))
    set_place(new, place_of(old))
    set_variable(new, variable_of(old))
    return new


def _move(old: Any, new: Any) -> None:
    """Let a dict that another one was merged into stand where that one stands."""
    if isinstance(old, Marked) and place_of(new):
        set_place(old, place_of(new))


def _with(result: Any, other: dict[Any, Any]) -> Any:
    result.update(other)
    return result


def _incoming(args: Any, kwargs: Any) -> Iterator[tuple[Any, Any, Mark | None]]:
    """Yield keys, values and marks of the arguments of ``update``."""
    marks = marks_of(args[0]) if args and isinstance(args[0], dict) else {}
    for key, value in dict(*args, **kwargs).items():
        known = marks.get(key) if key not in kwargs else None
        yield key, value, known or _mark_of_running_line(key, value)


def _mark_of_running_line(key: Any, value: Any) -> Mark | None:
    """Return where the innermost config file on the stack stands, None outside of config files."""
    frame = sys._getframe(1)
    while frame is not None:
        file: RunningFile | None = frame.f_globals.get(FILE)
        if file is not None:
            return file.mark_of_statement(frame.f_lineno, key, value)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def merged(
    base: Any,
    new: dict[Any, Any],
    *,
    path: KeyPath = (),
    strict: bool = True,
    around: str = "",
) -> MarkedConfigDict:
    """Lay the values of a file over those of its bases.

    Args:
        base: Values of the bases; they are not changed.
        new: Values of the file. A dict is merged into a dict unless it says ``_delete_=True``.
        path: Where both stand in the config.
        strict: Refuse a dict over a value that is none.
        around: ``file:line`` of the key that holds ``new``, for a dict that knows no lines of its
            own, such as one that a function of another module made.

    Returns:
        The merged values. A merged dict stands where the later file wrote it.

    Raises:
        ConfigError: The base holds something else where the file has a dict.
    """
    result: MarkedConfigDict = as_config_dict(dict(base))
    _like(base, result)
    around = place_of(new) or around
    if around:
        set_place(result, around)
    for key, value in dict.items(new):
        mark = marks_of(new).get(key) or (Mark(around, around) if around else None)
        if isinstance(value, dict) and (key in result or not strict):
            old, value = dict.get(result, key), value.copy()
            deletes = value.pop(DELETE, False)
            if isinstance(old, dict) and not deletes:
                held_at = mark.where if mark else ""
                value = merged(old, value, path=(*path, key), strict=strict, around=held_at)
                mark = _still_a_copy(mark, marks_of(result).get(key))
            elif strict and not deletes:
                where = mark.named_at if mark else ""
                raise ConfigError(
                    f"{where}: {dotted((*path, key))}: a dict cannot be merged into the base's "
                    f"{old!r:.60}; {DELETE}=True in it replaces what stands there"
                )
        put(result, key, value, mark)
    return result


def _still_a_copy(mark: Mark | None, old: Mark | None) -> Mark | None:
    """Keep the variable that a dict was copied from when a later file changes keys in it."""
    if mark is not None and old is not None and not mark.variable:
        return mark._replace(variable=old.variable)
    return mark


def origin_of(value: Any, mark: Mark | None, around: str) -> Origin:
    """Make the tree of origins of a value.

    Args:
        value: A value of the merged files.
        mark: Where its key was written.
        around: ``file:line`` of what holds it, for what is not known of its own.

    Returns:
        Its origin with those of all dicts inside.
    """
    where = place_of(value) or (mark.where if mark else around)
    origin = Origin(where)
    if mark is not None:
        origin.named_at, origin.variable = mark.named_at, mark.variable
    if isinstance(value, dict):
        marks = marks_of(value)
        origin.inside = {
            key: origin_of(item, marks.get(key), where) for key, item in dict.items(value)
        }
    elif isinstance(value, (list, tuple)):
        origin.inside = {
            index: origin_of(item, known, where)
            for index, (item, known) in enumerate(zip(value, item_marks(value), strict=True))
            if known is not None or isinstance(item, (dict, list, tuple))
        }
    return origin
