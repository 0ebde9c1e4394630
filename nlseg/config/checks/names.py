"""Checking every name and value of a config against the classes that it names."""

import inspect
from collections.abc import Iterator
from typing import Any, get_type_hints

from mmengine.config import Config
from mmengine.registry import Registry

from nlseg.config.checks.families import default_type, family_at, find_class, names_in
from nlseg.config.checks.fixed import FIXED
from nlseg.config.checks.problems import Problem
from nlseg.config.checks.signatures import Signature, default_of, signature_of
from nlseg.config.checks.values import (
    PAIRS,
    as_tuple,
    choices_in,
    describe_hint,
    fits,
    group_in,
    out_of_range,
)
from nlseg.config.origin import KeyPath, Trace
from nlseg.config.places import walk
from nlseg.config.runner_keys import KNOWN_KEYS, RUN_KEYS, VARIABLES, nearest

COPIED = ("data_preprocessor", "test_pipeline")
COMPLETED_LATER = (
    "norm_cfg", "conv_cfg", "act_cfg", "upsample_cfg", "cfg", "collate_fn", "worker_init_fn",
)  # fmt: skip
"""Dicts whose class or function gets more arguments from the code that builds or calls it."""
GIVEN_BY_BUILDER = frozenset(
    (
        "runner",
        "dataloader",
        "evaluator",
        "optimizer",
        "params",
        "dataset",
        "context",
        "module",
        "save_dir",
    )
)
ALSO_TAKEN = {
    "init_cfg": ("override", "layer", "map_location", "prefix"),
    "norm_cfg": ("requires_grad",),
    "optim_wrapper": ("optimizer", "constructor", "paramwise_cfg"),
    "default_hooks": ("priority",),
    "custom_hooks": ("priority",),
    "param_scheduler": ("convert_to_iter_based", "monitor"),
    "train_cfg": ("by_epoch",),
    "plugins": ("stages", "position"),
}


def check_names(config: Config, trace: Trace, *, allow_unknown: bool = False) -> Iterator[Problem]:
    """Find unknown keys, unknown classes, unknown, missing and unfit arguments.

    Lists are turned into tuples where the class wants a tuple.

    Args:
        config: A resolved config.
        trace: Where its values were written.
        allow_unknown: Accept top-level keys that no part of a run reads.

    Yields:
        One problem for each mistake.
    """
    values = config._cfg_dict
    if not allow_unknown:
        yield from _check_top(values, trace)
    for key in [name for name in values if name in KNOWN_KEYS and name not in COPIED]:
        yield from _check(values, (key,), None, trace)


def _check_top(values: Any, trace: Trace) -> Iterator[Problem]:
    """Find top-level keys that neither a run nor another line of the files reads."""
    for key in values:
        known = key in KNOWN_KEYS or key in VARIABLES or key in trace.used
        if known or str(key).startswith("_"):
            continue
        hint = nearest(key, RUN_KEYS, cutoff=0.8)
        if not hint and _is_copied(values, key):
            continue
        yield Problem(
            trace.named_at((key,)),
            (key,),
            f"no part of a run reads {key!r}{hint}; keys of your own go under 'custom'",
        )


def _is_copied(values: Any, key: str) -> bool:
    """Tell whether a value stands elsewhere too, as variables do in a config that was written."""
    if not isinstance(values[key], (str, dict, list, tuple)) or not values[key]:
        return False
    return any(path and path[0] != key and item == values[key] for path, item in walk(values))


def _check(values: Any, path: KeyPath, around: Registry | None, trace: Trace) -> Iterator[Problem]:
    """Check the value at a path and all that it holds."""
    value = _at(values, path)
    family = family_at(path, around)
    if isinstance(value, dict):
        signature, name = _signature(value, path, family)
        if signature is None and name:
            yield _unknown_class(name, (*path, "type"), family, trace)
            return
        if signature is not None:
            yield from _check_arguments(value, path, signature, name, trace)
            yield from _check_handed_on(value, path, family, trace)
        if path == ("custom",) or path[-1] == "metainfo":
            return
        for key in list(value):
            yield from _check(values, (*path, key), family, trace)
    elif isinstance(value, (list, tuple)):
        for index in range(len(value)):
            yield from _check(values, (*path, index), family, trace)


def _at(values: Any, path: KeyPath) -> Any:
    for key in path:
        values = values[key]
    return values


def _signature(
    value: dict[str, Any], path: KeyPath, family: Registry | None
) -> tuple[Signature | None, str]:
    """Return what a dict may hold, and the name of what it builds; no signature: no such class."""
    if path in FIXED:
        hints = get_type_hints(FIXED[path])
        return Signature(hints), str(path[-1])
    kind = value.get("type", default_type(path, value))
    if kind is None or family is None:
        return None, ""
    found = find_class(kind, family)
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    return (_with_handed_on(found, value, family), name) if found else (None, name)


def _with_handed_on(found: Any, value: dict[str, Any], family: Registry) -> Signature:
    """Return the arguments of a class, and of the one that it builds from those not its own.

    Args:
        found: A class or function. One whose ``hands_on_to`` names an argument builds what that
            argument says, with what it does not take itself.
        value: What the config gives it.
        family: Where the other class is looked up.
    """
    signature = signature_of(found)
    key = getattr(found, "hands_on_to", None)
    if key is None:
        return signature
    parameters = inspect.signature(found).parameters.values()
    own = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    built = find_class(value.get(key, default_of(found, key)), family)
    inner = signature_of(built) if built else Signature(is_open=True)
    others = {k: h for k, h in inner.hints.items() if k not in (*own, *found.hands_on_itself)}
    return Signature(
        hints={**{k: signature.hints[k] for k in own}, **others},
        required=signature.required | (inner.required & others.keys()),
        is_open=inner.is_open,
    )


def _unknown_class(name: str, path: KeyPath, family: Registry | None, trace: Trace) -> Problem:
    """Return the problem of a name at a path that no class has."""
    own, every = names_in(family) if family is not None else ([], [])
    kind = family.name if family is not None else "class"
    text = f"there is no {kind} {name!r}{nearest(name, every)}"
    return Problem(trace.where(path), path, f"{text}\n    nlseg has {', '.join(own or every)}")


def _check_handed_on(
    value: dict[str, Any], path: KeyPath, family: Registry | None, trace: Trace
) -> Iterator[Problem]:
    """Find an unknown class where an argument names one, see ``_with_handed_on``."""
    found = find_class(value.get("type"), family) if family is not None else None
    key = getattr(found, "hands_on_to", None)
    if key in value and family is not None and find_class(value[key], family) is None:
        yield _unknown_class(value[key], (*path, key), family, trace)


def _check_arguments(
    value: dict[str, Any], path: KeyPath, signature: Signature, name: str, trace: Trace
) -> Iterator[Problem]:
    extra = ALSO_TAKEN.get(_place(path), ())
    for key in list(value):
        if key == "type" or str(key).startswith("_") or key in extra:
            continue
        if key in signature.hints:
            yield from _check_value(value, (*path, key), signature.hints[key], name, trace)
        elif not signature.is_open:
            choices = [*signature.hints, *extra]
            text = f"{name} has no {key!r}{nearest(key, choices)}"
            takes = f"\n    it takes {', '.join(choices)}"
            yield Problem(trace.named_at((*path, key)), (*path, key), text + takes)
    missing = signature.required - value.keys() - GIVEN_BY_BUILDER
    if missing and _place(path) not in COMPLETED_LATER:
        listed = ", ".join(repr(key) for key in sorted(missing))
        yield Problem(trace.where(path), path, f"{name} needs {listed}")


def _place(path: KeyPath) -> str:
    """Return the nearest key that says what a dict is for: lists and hook names are passed over."""
    names = [key for key in path if isinstance(key, str)]
    if len(names) == 2 and names[0] == "default_hooks":
        return names[0]
    return names[-1]


def _nearest_choice(given: Any, choices: list[Any]) -> str:
    """Say which choice a value, or the first wrong item of a list, was probably meant to be."""
    items = given if isinstance(given, (list, tuple)) else (given,)
    wrong = [item for item in items if item not in choices]
    return nearest(str(wrong[0]), choices) if wrong else ""


def _check_value(
    value: dict[str, Any], path: KeyPath, hint: Any, name: str, trace: Trace
) -> Iterator[Problem]:
    key = str(path[-1])
    given = value[key]
    group = group_in(hint)
    if group is not None and isinstance(given, dict) and "type" not in given:
        yield from _check_arguments(given, path, Signature(get_type_hints(group)), key, trace)
        return
    if not fits(given, hint) and fits(as_tuple(given), hint):
        given = value[key] = as_tuple(given)
    if not fits(given, hint):
        meant = PAIRS.get(key, "")
        order = f" for {meant}" if meant.startswith("(") else ""
        text = f"{name} wants {describe_hint(hint)}{order}, given {given!r}"
        yield Problem(trace.where(path), path, text + _nearest_choice(given, choices_in(hint)))
    elif wanted := out_of_range(key, given):
        text = f"{name} wants values {wanted}, given {given!r}"
        yield Problem(trace.where(path), path, text)
