"""Constructors of this package: they check what they are given and remember it for ``repr``."""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache, wraps
from typing import Any, TypeVar, get_type_hints

from nlseg.bounds import as_wanted, mismatches
from nlseg.errors import ConfigError

T = TypeVar("T", bound=type)
PACKAGE = __name__.partition(".")[0]
RULE = "check_arguments"
ABSENT = "absent_arguments"
_GIVEN = "_given"
CrossRule = Callable[..., Iterable[tuple[str, str]]]


def is_ours(built: Any) -> bool:
    """Return whether a class or function is defined in this package, and not by a user."""
    return str(getattr(built, "__module__", "")).partition(".")[0] == PACKAGE


def checked(built: T) -> T:
    """Let a class check the arguments of its own constructor against their annotations.

    Built from Python it refuses what a config check refuses, by the same annotations. Arguments
    that it hands on are checked by the parent that names them. Its ``repr`` tells what an instance
    was given; a network's tells it before its layers.

    What several arguments have to agree on says a static method ``check_arguments``: it takes some
    of the constructor's arguments by name and yields, for each conflict, an argument's name and the
    text. It is asked before anything is built, from Python and by the config check.

    ``absent_arguments`` of a class maps arguments that other toolkits have to why it has none.

    Args:
        built: A class; changed in place. One without a constructor of its own has its parent's.
    """
    if "__init__" in vars(built):
        rule = built.check_arguments if RULE in vars(built) else None  # type: ignore[attr-defined]
        built.__init__ = _checking(built.__init__, rule)  # type: ignore[misc]
    if hasattr(built, "extra_repr"):
        if not is_ours(built.extra_repr):
            built.extra_repr = _given_arguments  # type: ignore[attr-defined]
    elif getattr(built, "__repr__", None) is object.__repr__:
        built.__repr__ = _as_call  # type: ignore[assignment,method-assign]
    return built


def conflicts_in(rule: CrossRule, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Ask a rule about the arguments that it takes.

    Args:
        rule: A class's ``check_arguments``.
        arguments: All arguments of its constructor, defaults included.

    Returns:
        For each conflict an argument's name and the text; none where a value is missing.
    """
    takes = inspect.signature(rule).parameters
    if not takes.keys() <= arguments.keys():
        return []
    return list(rule(**{name: arguments[name] for name in takes}))


def _checking(init: Callable[..., None], rule: CrossRule | None) -> Callable[..., None]:
    signature = inspect.signature(init)

    @wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is one
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            _refuse_absent(type(self), kwargs)
            init(self, *args, **kwargs)  # Python's own error says what is missing or unknown
            return
        _check(type(self), bound, _hints_of(init), rule)
        _remember(self, bound)
        init(*bound.args, **bound.kwargs)

    # some of mmengine's metaclasses look at a signature without following wrappers
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


def _refuse_absent(built: type, given: Mapping[str, Any]) -> None:
    """Say why an argument that other toolkits have is none here.

    Raises:
        ConfigError: Names it.
    """
    absent = getattr(built, ABSENT, {})
    wrong = [f"{built.__name__}.{key}: {absent[key]}" for key in given if key in absent]
    if wrong:
        raise ConfigError("\n".join(wrong))


@cache
def _hints_of(init: Callable[..., None]) -> dict[str, Any]:
    return get_type_hints(init, include_extras=True)


def _check(
    built: type, bound: inspect.BoundArguments, hints: Mapping[str, Any], rule: CrossRule | None
) -> None:
    """Turn lists into tuples where tuples are wanted, and refuse what annotations or rule forbid.

    Further keys in a dict are the own matter of a user's subclass, which may read them.

    Raises:
        ConfigError: Tells every argument that is wrong.
    """
    name = built.__name__
    wrong: list[str] = []
    for key, value in list(bound.arguments.items())[1:]:
        parameter = bound.signature.parameters[key]
        named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if not named or key not in hints or value is parameter.default:
            continue
        bound.arguments[key] = value = as_wanted(value, hints[key])
        wrong += [
            found.at(f"{name}.{key}")
            for found in mismatches(value, hints[key])
            if is_ours(built) or not found.is_key
        ]
    if rule is not None and not wrong:
        whole = bound.signature.bind(*bound.args, **bound.kwargs)
        whole.apply_defaults()
        wrong = [f"{name}.{key}: {text}" for key, text in conflicts_in(rule, whole.arguments)]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _remember(built: Any, bound: inspect.BoundArguments) -> None:
    """Note what the outermost constructor was given, as text: nothing is kept alive by it."""
    if _GIVEN in vars(built):
        return
    given: dict[str, Any] = {}
    for key, value in list(bound.arguments.items())[1:]:
        is_rest = bound.signature.parameters[key].kind is inspect.Parameter.VAR_KEYWORD
        given.update(value if is_rest else {key: value})
    text = ", ".join(f"{key}={_SHORT.repr(value)}" for key, value in given.items())
    object.__setattr__(built, _GIVEN, text)  # a network's own way needs its parent's constructor


def _given_arguments(built: Any) -> str:
    """Return the arguments that an instance was built with, as they are written in a call."""
    return str(vars(built).get(_GIVEN, ""))


def _as_call(built: Any) -> str:
    """Return the call that builds an instance, long values cut short."""
    return f"{type(built).__name__}({_given_arguments(built)})"


class _Short(reprlib.Repr):
    """Plain values as Python writes them, cut short; of other objects the name of the class."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 4, 8, 8, 8
        self.maxstring = self.maxother = 80

    def repr1(self, x: Any, level: int) -> str:
        """Return the text of one value; a dict of any kind is a dict."""
        if isinstance(x, dict):
            return self.repr_dict(x, level)
        if isinstance(x, (type(None), bool, int, float, str, list, tuple)):
            return super().repr1(x, level)
        return f"<{getattr(x, '__name__', type(x).__name__)}>"


_SHORT = _Short()
