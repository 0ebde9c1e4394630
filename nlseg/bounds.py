"""What an argument takes, said once in its annotation, and whether a value fits.

A type hint names types and choices; a range stands beside it::

    num_convs: Annotated[int, AT_LEAST_0] = 2
    crop_size: Annotated[int | Size, AT_LEAST_1, HEIGHT_WIDTH]

Reading a config, building a class from Python and the printed list of arguments all ask here.
"""

import math
import numbers
import os
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from typing_extensions import NotRequired, Required, is_typeddict

from nlseg.errors import nearest


class Claim:
    """What has to hold for a value, beside its type; a child says it in words.

    Attributes:
        words: What is allowed, after "wants values".
        broken: What is wrong with a value, after "is".
    """

    words: str
    broken: str

    def holds(self, value: Any) -> bool:
        """Return whether a value that fits the type is allowed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Range(Claim):
    """An interval for a number, or for every number of a sequence; texts and None are not judged.

    Args:
        low: Smallest value.
        high: Largest value.
        open_low: ``low`` itself is not allowed.
        open_high: ``high`` itself is not allowed.
        also: A number outside the interval that is allowed, too, with a meaning of its own.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: float | None = None

    def holds(self, value: Any) -> bool:
        """Return whether all numbers lie in the interval."""
        return all(map(self._inside, _numbers(value)))

    def _inside(self, number: Any) -> bool:
        if self.also is not None and number == self.also:
            return True
        above = number > self.low if self.open_low else number >= self.low
        return bool(above and (number < self.high if self.open_high else number <= self.high))

    @property
    def interval(self) -> str:
        """The interval as it is written: ``[0, 1)``, and ``1..4`` for whole numbers."""
        if self.low + 1 < self.high and not (self.open_low or self.open_high):
            return f"{self.low}..{self.high}"
        low, high = ("(" if self.open_low else "["), (")" if self.open_high else "]")
        return f"{low}{self.low}, {self.high}{high}"

    @property
    def words(self) -> str:  # type: ignore[override]
        """What is allowed."""
        also = "" if self.also is None else f"{self.also} or "
        if self.high == math.inf:
            return f"{also}{'above' if self.open_low else 'at least'} {self.low}"
        return f"{also}in {self.interval}"

    @property
    def broken(self) -> str:  # type: ignore[override]
        """What is wrong with a value outside."""
        also = "" if self.also is None else f" and not {self.also}"
        if self.high == math.inf:
            return f"{'not above' if self.open_low else 'below'} {self.low}{also}"
        return f"outside {self.interval}{also}"


@dataclass(frozen=True)
class Choice(Claim):
    """A claim of any other kind.

    Args:
        words: What is allowed, after "wants values".
        test: Returns whether a value is allowed.
    """

    words: str
    test: Any = field(repr=False)

    def holds(self, value: Any) -> bool:
        """Return whether a value is allowed."""
        return bool(self.test(value))

    @property
    def broken(self) -> str:  # type: ignore[override]
        """What is wrong with a value that is not allowed."""
        return f"not {self.words}"


@dataclass(frozen=True)
class Order:
    """What the items of a pair mean, such as ``(height, width)``."""

    words: str


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        yield value
    elif _is_sequence(value):
        for item in value:
            yield from _numbers(item)


def _is_sorted(value: Any) -> bool:
    return not _is_sequence(value) or list(value) == sorted(value)


def _share_out(value: Any) -> bool:
    numbers = list(_numbers(value))
    return all(number >= 0 for number in numbers) and sum(numbers) <= 1 + 1e-9


AT_LEAST_0 = Range(0)
AT_LEAST_1 = Range(1)
ABOVE_0 = Range(0, open_low=True)
SHARE = Range(0, 1)
BELOW_1 = Range(0, 1, open_high=True)
LOW_HIGH = Choice("(low, high) with low <= high", _is_sorted)
PROBABILITIES = Choice("in [0, 1], several with a sum of at most 1", _share_out)
HEIGHT_WIDTH = Order("(height, width)")
WIDTH_HEIGHT = Order("(width, height)")

Count = Annotated[int, AT_LEAST_1]
"""A whole number from 1."""
Natural = Annotated[int, AT_LEAST_0]
"""A whole number from 0."""
Probability = Annotated[float, SHARE]
Positive = Annotated[float, ABOVE_0]
NotNegative = Annotated[float, AT_LEAST_0]


class Mismatch(NamedTuple):
    """One value that an argument does not take.

    Args:
        path: Keys and positions from the argument's value to the wrong one; empty for itself.
        given: The wrong value, or the key that a keyword group does not have.
        wanted: What is allowed, after "wants"; for an unknown key all keys, joined.
        broken: What is wrong, after "is".
        hint: ``; did you mean ...?``, or nothing.
        is_key: A keyword group has no such key.
    """

    path: tuple[str | int, ...]
    given: Any
    wanted: str
    broken: str
    hint: str = ""
    is_key: bool = False

    def at(self, where: str) -> str:
        """Return the whole message.

        Args:
            where: Class and argument, ``FCNHead.num_convs``.
        """
        if self.is_key:
            place = ".".join(map(str, (where, *self.path[:-1])))
            return f"{place}: there is no {self.given!r}{self.hint}; it takes {self.wanted}"
        place = ".".join(map(str, (where, *self.path)))
        return f"{place}: {self.given!r} is {self.broken}{self.hint}"


def mismatches(value: Any, hint: Any, path: tuple[str | int, ...] = ()) -> Iterator[Mismatch]:
    """Yield what is wrong with a value, also inside of keyword groups.

    Args:
        value: What an argument is given; lists count as tuples, see ``as_wanted``.
        hint: Its resolved type hint with annotations.
        path: Where the value stands below the argument.
    """
    group = group_in(hint)
    if group is not None and isinstance(value, Mapping) and "type" not in value:
        yield from _in_group(value, group, path)
        return
    value = as_wanted(value, hint)
    if not fits(value, hint):
        wanted = describe_hint(hint)
        yield Mismatch(path, value, wanted, f"not {wanted}", _nearest_choice(value, hint))
        return
    claim = broken_claim(value, hint)
    if claim is not None:
        yield Mismatch(path, value, f"values {claim.words}", claim.broken)
        return
    inner = _items_of(hint)
    if inner is not None and group_in(inner) is not None and _is_sequence(value):
        for place, item in enumerate(value):
            yield from mismatches(item, inner, (*path, place))


def _in_group(
    value: Mapping[Any, Any], group: Any, path: tuple[str | int, ...]
) -> Iterator[Mismatch]:
    hints = hints_of_group(group)
    missing = [key for key in hints if key in group.__required_keys__ and key not in value]
    if missing:
        needs = ", ".join(map(repr, missing))
        yield Mismatch(path, dict(value), f"a dict with {needs}", f"without {needs}")
    for key in value:
        if key in hints:
            yield from mismatches(value[key], hints[key], (*path, key))
        elif not str(key).startswith("_"):
            near = nearest(key, hints)
            yield Mismatch((*path, key), key, ", ".join(hints), "unknown", near, is_key=True)


def hints_of_group(group: Any) -> dict[str, Any]:
    """Return the keys of a ``TypedDict`` with their hints."""
    return get_type_hints(group, include_extras=True)


SEQUENCES = (list, Sequence, Collection, Iterable)
SCALARS: dict[Any, tuple[tuple[Any, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((numbers.Integral,), "a whole number"),
    float: ((numbers.Real,), "a number"),
    str: ((str, os.PathLike), "a text"),
}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value can be meant by a type hint, ranges aside.

    Only plain types are judged: numbers, texts, sequences, dicts and choices. Where a hint names
    any other class, a dict that builds one is as good as an instance, so that everything fits.

    Args:
        value: What an argument is given.
        hint: A resolved type hint.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return fits(value, args[0])
    if origin in (Union, types.UnionType):
        return any(fits(value, choice) for choice in args)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args)
    if hint is None or hint is type(None):
        return value is None
    if hint in SCALARS:
        return isinstance(value, SCALARS[hint][0]) and (hint is bool) == isinstance(value, bool)
    return _fits_container(value, hint, origin or hint, args)


def _fits_container(value: Any, hint: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    if origin is tuple:
        return isinstance(value, tuple) and _items_fit(value, args)
    if origin in SEQUENCES:
        return _is_sequence(value) and all(fits(v, a) for v in value for a in args[:1])
    if origin in (dict, Mapping) or is_typeddict(hint):
        return isinstance(value, Mapping)
    return True


def _is_sequence(value: Any) -> bool:
    """Return whether a value is a list, a tuple or the like; an array is, a text or dict is not."""
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping, Set))


def _items_fit(value: tuple[Any, ...], args: tuple[Any, ...]) -> bool:
    if not args:
        return True
    if len(args) == 2 and args[1] is Ellipsis:
        return all(fits(item, args[0]) for item in value)
    return len(value) == len(args) and all(map(fits, value, args))


def broken_claim(value: Any, hint: Any) -> Claim | None:
    """Return the first claim of a hint that does not hold for a value that fits its types."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        claims = (claim for claim in args[1:] if isinstance(claim, Claim))
        wrong = next((claim for claim in claims if not claim.holds(value)), None)
        return wrong or broken_claim(value, args[0])
    if origin in (Required, NotRequired):
        return broken_claim(value, args[0])
    if origin in (Union, types.UnionType):
        found = [broken_claim(value, choice) for choice in args if fits(value, choice)]
        return None if None in found or not found else found[0]
    if origin is tuple and isinstance(value, tuple) and Ellipsis not in args:
        pairs: Iterable[tuple[Any, Any]] = zip(value, args, strict=False)
    elif (origin is tuple or origin in SEQUENCES) and args and _is_sequence(value):
        pairs = ((item, args[0]) for item in value)
    else:
        return None
    return next((wrong for v, a in pairs if (wrong := broken_claim(v, a)) is not None), None)


def as_wanted(value: Any, hint: Any) -> Any:
    """Return a value with tuples for its lists where the hint wants tuples.

    JSON and YAML write no tuples. A value that fits as it is, or not at all, is returned as it is;
    of a keyword group the values that change are changed in a copy.
    """
    group = group_in(hint)
    if group is not None and isinstance(value, Mapping) and "type" not in value:
        hints = hints_of_group(group)
        changed = {k: as_wanted(v, hints[k]) for k, v in value.items() if k in hints}
        if all(changed[key] is value[key] for key in changed):
            return value
        return type(value)({**value, **changed})  # type: ignore[call-arg]
    if not fits(value, hint) and fits(_as_tuple(value), hint):
        return _as_tuple(value)
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


def describe_hint(hint: Any) -> str:
    """Say in words what types and choices a hint wants, ranges aside."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        orders = [f" for {note.words}" for note in args[1:] if isinstance(note, Order)]
        return describe_hint(args[0]) + "".join(orders)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe_hint(choice) for choice in args))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if hint in SCALARS:
        return SCALARS[hint][1]
    return _describe_container(hint, origin or hint, args)


def _describe_container(hint: Any, origin: Any, args: tuple[Any, ...]) -> str:
    if origin is tuple and args and args[-1] is not Ellipsis:
        return "(" + ", ".join(describe_hint(item) for item in args) + ")"
    if origin in (tuple, *SEQUENCES):
        kind = "tuple" if origin is tuple else "list"
        return f"a {kind} of {_plural(describe_hint(args[0]))}" if args else f"a {kind}"
    if origin in (dict, Mapping) or is_typeddict(hint):
        return "a dict"
    if hint is type(None):
        return "None"
    return getattr(hint, "__name__", str(hint))


def _plural(words: str) -> str:
    return f"{words[2:]}s" if words.startswith("a ") and " of " not in words else words


def claims_in(hint: Any) -> list[str]:
    """List in words all ranges that stand in a hint."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        own = [claim.words for claim in args[1:] if isinstance(claim, Claim)]
        return claims_in(args[0]) + own
    found = [words for part in args for words in claims_in(part)] if origin is not Literal else []
    return list(dict.fromkeys(found))


def choices_in(hint: Any) -> list[Any]:
    """List the values that a hint names one by one, also inside of sequences."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for part in get_args(hint) for choice in choices_in(part)]


def _nearest_choice(given: Any, hint: Any) -> str:
    """Say which choice a value, or the first wrong item of a list, was probably meant to be."""
    choices = choices_in(hint)
    wrong = [item for item in (given if _is_sequence(given) else (given,)) if item not in choices]
    return nearest(wrong[0], choices) if wrong else ""


def group_in(hint: Any) -> Any:
    """Return the ``TypedDict`` that a hint is or offers, None where there is none."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return group_in(args[0])
    choices = args if origin in (Union, types.UnionType) else (hint,)
    return next((choice for choice in choices if is_typeddict(choice)), None)


def _items_of(hint: Any) -> Any:
    """Return the hint of a sequence's items, None where a hint offers no sequence."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return _items_of(args[0])
    if origin in (Union, types.UnionType):
        return next((inner for part in args if (inner := _items_of(part)) is not None), None)
    return args[0] if origin in SEQUENCES and args else None
