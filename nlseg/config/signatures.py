"""What a class or function takes: its own arguments, its parents' and those of keyword groups."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from typing_extensions import Unpack, is_typeddict

from nlseg.bounds import hints_of_group


@dataclass
class Signature:
    """The arguments that a config may give.

    Args:
        hints: Type of each argument; ``Any`` where nothing is said.
        required: Arguments without a default.
        promised: Arguments of a keyword group, which are handed on; None without a group.
        hands_on: Keywords without a name go to the parent's constructor.
        is_open: Any keyword is taken, so that an unknown one cannot be called wrong.
        defaults: Default of each argument that has one.
    """

    hints: dict[str, Any] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    promised: set[str] | None = None
    hands_on: bool = False
    is_open: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)


def signature_of(built: Callable[..., Any] | type) -> Signature:
    """Collect the arguments of a class or function.

    ``**kwargs: Unpack[Group]`` gives the keys of the ``TypedDict``; plain ``**kwargs`` of a
    constructor gives the arguments of the next constructor in the order of inheritance. An argument
    that only a parent requires is required where a group promises to hand it on.

    Args:
        built: What a config names with ``type``.

    Returns:
        All arguments that can be given by keyword.
    """
    found = Signature()
    promised: set[str] | None = None
    for position, function in enumerate(_constructors(built)):
        own = _own_signature(function)
        found.defaults = {**own.defaults, **found.defaults}
        if promised is None:
            found.hints = {**own.hints, **found.hints}
        else:  # what a parent's own annotation says of an argument that a group promised
            named = promised & (own.hints.keys() - (own.promised or set()))
            found.hints.update({name: own.hints[name] for name in named})
            found.required |= own.required & promised
        if position == 0:
            found.required = own.required
        if own.promised is not None:
            promised = own.promised if promised is None else promised & own.promised
        elif own.is_open and promised is None:
            found.is_open = True
            return found
        elif not own.hands_on:
            return found
    return found


def _constructors(built: Callable[..., Any] | type) -> Iterator[Callable[..., Any]]:
    """Yield the constructors that keywords travel through, or the function itself."""
    if not inspect.isclass(built):
        yield built
        return
    for parent in built.__mro__:
        if "__init__" in vars(parent):
            yield vars(parent)["__init__"]


def _own_signature(function: Callable[..., Any]) -> Signature:
    """Read one constructor or function."""
    own = Signature()
    if function is object.__init__:
        return own
    hints = hints_of(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            group = _group_of(hints.get(name))
            own.hints.update(group)
            own.promised = set(group) or None
            own.hands_on = _calls_parent_with(name, function)
            own.is_open = not group and not own.hands_on
        elif name != "self" and parameter.kind is not parameter.VAR_POSITIONAL:
            own.hints[name] = hints.get(name, Any)
            if parameter.default is parameter.empty:
                own.required.add(name)
            else:
                own.defaults[name] = parameter.default
    return own


def _calls_parent_with(keywords: str, function: Callable[..., Any]) -> bool:
    """Return whether ``**keywords`` is handed to another ``__init__``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return True
    return any(
        isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "__init__"
        and any(k.arg is None and getattr(k.value, "id", "") == keywords for k in node.keywords)
        for node in ast.walk(tree)
    )


def _group_of(hint: Any) -> dict[str, Any]:
    """Return the keys and types of ``Unpack[TypedDict]``, nothing for any other hint."""
    group = get_args(hint)[0] if get_origin(hint) is Unpack else None
    return hints_of_group(group) if group is not None and is_typeddict(group) else {}


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the resolved type hints, or none where a name in them cannot be found."""
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a constructor's or function's own arguments."""
    return _own_signature(function).defaults


def default_of(built: Callable[..., Any] | type | None, name: str) -> Any:
    """Return the default of an argument, None where there is no such argument.

    Args:
        built: A class or function.
        name: The argument.

    Returns:
        Its default in the first constructor that names it.
    """
    return signature_of(built).defaults.get(name) if built is not None else None
