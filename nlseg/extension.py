"""Extension points: methods of ours in whose place subclasses put their own.

A point that a subclass defines is called, always; a name that is called nowhere is refused when the
class is defined, with what to write instead. Faster ways around a point are taken only where the
point is ours.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from types import CodeType, FunctionType
from typing import Any, TypeVar

from nlseg.errors import ConfigError

Method = TypeVar("Method", bound=Callable[..., Any])

_SHIPPED: set[CodeType] = set()


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


def check_overrides(
    child: type,
    absent: Mapping[str, tuple[tuple[str, ...], str]],
    may_take_more: Collection[str] = (),
) -> None:
    """Refuse a subclass with a method that would never be called, or not with what it takes.

    Args:
        child: The subclass, as it is defined.
        absent: Names that other versions call and we do not, each with the points from which a
            class may call it itself, and what to write in its place.
        may_take_more: Points that other methods of the user's call with further arguments.

    Raises:
        ConfigError: With the class, the method, and what to write instead.
    """
    where = f"{child.__module__}.{child.__qualname__}"
    for name, (callers, advice) in absent.items():
        if name in vars(child) and not overridden(child, *callers):
            raise ConfigError(f"{where}.{name}: is never called; {advice}")
    for name, method in vars(child).items():
        shipped = _shipped(child, name)
        if shipped is None or not isinstance(method, FunctionType):
            continue
        ours, theirs = inspect.signature(shipped), inspect.signature(method)
        count, (required, taken) = len(_by_position(ours)), _positional(theirs)
        if taken < count or (required > count and name not in may_take_more):
            raise ConfigError(f"{where}.{name}: takes {theirs}, but is called as {name}{ours}")


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
