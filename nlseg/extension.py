"""Extension points: methods of ours in whose place subclasses put their own.

A point that a subclass defines is called, always; a name that is called nowhere is refused when the
class is defined, with what to write instead. Faster ways around a point are taken only where the
point is ours.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, ClassVar, TypeVar

from nlseg.errors import ConfigError

Method = TypeVar("Method", bound=Callable[..., Any])

Absent = Mapping[str, tuple[tuple[str, ...], str]]
"""Names that other versions call and we do not, each with the points from which a class may call it
itself, and what to write in its place."""

_SHIPPED: set[CodeType] = set()
_PACKAGE = __name__.partition(".")[0]


def extension_point(method: Method) -> Method:
    """Mark a method as the one that we ship at a point where users may put theirs."""
    _SHIPPED.add(method.__code__)  # type: ignore[attr-defined]
    return method


def overridden(owner: object, *points: str) -> bool:
    """Return whether any of these methods is not the one that we ship.

    Args:
        owner: An object, or a class.
        points: Names of extension points.
    """
    methods = (getattr(owner, point, None) for point in points)
    return any(getattr(method, "__code__", None) not in _SHIPPED for method in methods)


def takes(method: Callable[..., Any], count: int) -> bool:
    """Return whether a bound method can be given ``count`` arguments by position."""
    return _positional(inspect.signature(method))[1] >= count


def stands_for(owner: object, shortcut: str, *methods: str) -> bool:
    """Return whether a shortcut does what these methods of an object do.

    It does where its class wrote both, and where a subclass wrote the shortcut anew; not where a
    subclass, a mixin before it or the object itself has a method of its own.

    Args:
        owner: The object.
        shortcut: Name of the method that may be called in the place of the others.
        methods: Their names; those that the object does not have are left out.
    """
    place = _place(owner, shortcut)
    return place < float("inf") and all(place <= _place(owner, method) for method in methods)


def _place(owner: object, name: str) -> float:
    """Return which of the object's classes defines a name, from 0; -1 for the object itself."""
    if name in getattr(owner, "__dict__", ()):
        return -1
    classes = enumerate(type(owner).__mro__)
    return next((place for place, kind in classes if name in vars(kind)), float("inf"))


class Extensible:
    """A class that checks each subclass when it is defined."""

    not_called: ClassVar[Mapping[str, str]] = {}
    """Names that other versions call and this class does not, each with what to write instead."""
    may_take_less: ClassVar[Collection[str]] = ()
    """See ``check_overrides``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides."""
        super().__init_subclass__(**kwargs)
        absent: Absent = {name: ((), advice) for name, advice in cls.not_called.items()}
        check_overrides(cls, absent, may_take_less=cls.may_take_less)


def check_overrides(
    child: type,
    absent: Absent,
    may_take_more: Collection[str] = (),
    may_take_less: Collection[str] = (),
) -> None:
    """Refuse a subclass with a method that would never be called, or not with what it takes.

    What a mixin defines counts as the subclass's own, where it comes before our class. A method
    that is called nowhere may stand if another one of the subclass names it, as its caller.

    Args:
        child: The subclass, as it is defined.
        absent: See ``Absent``.
        may_take_more: Points that other methods of the user's call with further arguments.
        may_take_less: Points that are never called with their optional arguments once overridden.

    Raises:
        ConfigError: With the class, the method, and what to write instead.
    """
    where = f"{child.__module__}.{child.__qualname__}"
    written = _written(child)
    for name, (callers, advice) in absent.items():
        if name not in written:
            continue
        others = (method for key, method in written.items() if key != name)
        if not overridden(child, *callers) and not any(_names(one, name) for one in others):
            raise ConfigError(f"{where}.{name}: is never called; {advice}")
    for name, method in written.items():
        shipped = _shipped(child, name)
        if shipped is None or not isinstance(method, FunctionType):
            continue
        ours, theirs = inspect.signature(shipped), inspect.signature(method)
        given, (required, taken) = len(_by_position(ours)), _positional(theirs)
        least = _positional(ours)[0] if name in may_take_less else given
        if taken < least or (required > given and name not in may_take_more):
            raise ConfigError(f"{where}.{name}: takes {theirs}, but is called as {name}{ours}")


def _written(child: type) -> dict[str, Any]:
    """Return what a subclass defines itself, or by mixins and parents before our first class."""
    written = dict(vars(child))
    for parent in child.__mro__[1:]:
        if parent.__module__.partition(".")[0] == _PACKAGE:
            break
        written = {**vars(parent), **written}
    return written


def _names(method: object, name: str) -> bool:
    """Return whether the code of a method, or of a function inside it, names an attribute."""
    method = getattr(method, "fget", None) or getattr(method, "__func__", method)
    code = getattr(inspect.unwrap(method) if callable(method) else method, "__code__", None)
    return isinstance(code, CodeType) and any(name in one.co_names for one in _codes(code))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _shipped(child: type, name: str) -> Callable[..., Any] | None:
    """Return the shipped method that a subclass overrides, the nearest one."""
    for parent in child.__mro__[1:]:
        method = vars(parent).get(name)
        if getattr(method, "__code__", None) in _SHIPPED:
            return method
    return None


def _positional(signature: inspect.Signature) -> tuple[int, float]:
    """Return how many arguments must, and how many can, be given by position."""
    named = _by_position(signature)
    variable = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    required = sum(p.default is p.empty for p in named)
    return required, float("inf") if variable else len(named)


def _by_position(signature: inspect.Signature) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in signature.parameters.values() if p.kind in kinds]
