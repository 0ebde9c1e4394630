"""Checking every name and value of a config against the classes that it names."""

import inspect
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from nlseg.bounds import Mismatch, as_wanted, hints_of_group, mismatches
from nlseg.checked import ABSENT, RULE, conflicts_in, is_ours
from nlseg.config.families import (
    default_type,
    family_at,
    find_anywhere,
    find_class,
    is_family_key,
    names_anywhere,
    names_for,
)
from nlseg.config.fixed import FIXED
from nlseg.config.origin import KeyPath, Trace
from nlseg.config.places import at, walk
from nlseg.config.problems import Problem
from nlseg.config.runner_keys import (
    DEFAULT_HOOKS,
    KNOWN_KEYS,
    OLD_KEYS,
    RUN_KEYS,
    USUAL_HOOKS,
    VARIABLES,
)
from nlseg.config.signatures import Signature, default_of, defaults_of, signature_of
from nlseg.errors import nearest
from nlseg.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS, RUNNERS

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
PLAIN = ("metainfo", "clip_grad")
"""Dicts whose ``type``, if they have one, is a word like any other."""
PARAMETERS: KeyPath = ("optim_wrapper", "paramwise_cfg")
USUAL_CONSTRUCTOR = "DefaultOptimWrapperConstructor"
MULTIPLIERS = ("lr_mult", "decay_mult")
"""What the usual constructor reads for some parameters; the rest goes into their group as it is."""


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
    values = dict(config.items())
    if not allow_unknown:
        yield from _check_top(values, trace)
    walker = _Walker(values, trace)
    yield from walker.check_plain_values()
    for key in [name for name in values if name in KNOWN_KEYS and name not in COPIED]:
        yield from walker.check((key,), None)


def _check_top(values: Any, trace: Trace) -> Iterator[Problem]:
    """Find top-level keys that neither a run nor another line of the files reads."""
    for key in values:
        known = key in KNOWN_KEYS or key in VARIABLES or key in trace.used
        if known or str(key).startswith("_"):
            continue
        hint = nearest(key, RUN_KEYS)
        if not hint and _is_copied(values, key):
            continue
        if key in OLD_KEYS:
            text = (
                "a key of mmsegmentation 0.x; 'nlseg migrate FILE --out-dir DIR' writes such a "
                "config in the present form"
            )
            yield Problem(trace.named_at((key,)), (key,), text)
            continue
        yield Problem(
            trace.named_at((key,)),
            (key,),
            f"no part of a run reads {key!r}{hint}; keys of your own go under 'custom', or give "
            "--allow-unknown-keys",
        )


def _is_copied(values: Any, key: str) -> bool:
    """Return whether a value stands elsewhere too, as variables do in a config that was written."""
    if not isinstance(values[key], (str, dict, list, tuple)) or not values[key]:
        return False
    return any(path and path[0] != key and item == values[key] for path, item in walk(values))


class _Walker:
    """Walks through a config and compares each dict with what it builds.

    Args:
        values: The config; lists become tuples where a class wants tuples.
        trace: Where its values were written.
    """

    def __init__(self, values: Any, trace: Trace) -> None:
        self.values = values
        self.trace = trace

    def check(
        self, path: KeyPath, around: Registry | None, *, is_foreign: bool = False
    ) -> Iterator[Problem]:
        """Check the value at a path and all that it holds.

        Args:
            path: Where it stands.
            around: Registry of what holds it.
            is_foreign: What holds it is not ours and may build it from any registry, or not at all.
        """
        value, family = at(self.values, path), family_at(path, around)
        if isinstance(value, (list, tuple)):
            for index in range(len(value)):
                yield from self.check((*path, index), family, is_foreign=is_foreign)
        elif isinstance(value, dict) and path != ("custom",):
            yield from self._check_dict(value, path, family, is_foreign)

    def check_plain_values(self) -> Iterator[Problem]:
        """Check the top-level values that are words or lists, and no dict that builds something."""
        values = self.values
        kind, path = values.get("runner_type"), ("runner_type",)
        if kind is not None and find_class(kind, RUNNERS) is None:
            yield from self._unknown(kind, path, RUNNERS)
        if isinstance(values.get("custom_hooks"), dict):
            text = "wants a list of dicts, [dict(type=...)], given a dict"
            yield Problem(self.trace.where(("custom_hooks",)), ("custom_hooks",), text)

    def _check_dict(  # noqa: C901, PLR0912 - one branch for each kind of dict
        self, value: dict[str, Any], path: KeyPath, family: Registry | None, is_foreign: bool
    ) -> Iterator[Problem]:
        kind = value.get("type", default_type(path, value))
        others: tuple[str, ...] = ()  # arguments whose types another library knows
        problems: list[Problem] = []
        if path in FIXED:
            if path != PARAMETERS or not _has_own_constructor(self.values[path[0]]):
                group = Signature(hints_of_group(FIXED[path]))
                yield from self._check_arguments(value, path, group, str(path[-1]), _Walker)
                if path == PARAMETERS:
                    yield from self._check_custom_keys(value.get("custom_keys"))
        elif kind is not None and family is not None and path[-1] not in PLAIN:
            found = find_class(kind, family)
            if found is None and is_foreign:
                found, family = find_anywhere(kind) or (None, family)
            if found is None:
                yield from self._unknown(kind, (*path, "type"), family, is_foreign=is_foreign)
                return
            adds_arguments = is_foreign and not is_family_key(path)
            problems = list(self._check_built(value, path, found, family, may_lack=adds_arguments))
            yield from problems
            is_foreign = not is_ours(found)
            others = getattr(found, "of_another_library", ())
        elif kind is None and len(path) == 2 and path[0] == "default_hooks":
            yield self._hook_without_type(path)
        if path[-1] != "metainfo":
            refused = {problem.path for problem in problems}
            for key in [k for k in value if k not in others and (*path, k) not in refused]:
                yield from self.check((*path, key), family, is_foreign=is_foreign)

    def _check_built(
        self,
        value: dict[str, Any],
        path: KeyPath,
        found: Any,
        family: Registry,
        *,
        may_lack: bool = False,
    ) -> Iterator[Problem]:
        """Check the arguments of a class, of the one that it hands others on to, and its rules.

        ``may_lack`` says that a user's class holds it, which may add arguments before it builds.
        """
        kind = value.get("type")
        name = kind if isinstance(kind, str) else getattr(found, "__name__", str(found))
        signature = _with_handed_on(found, value, family)
        if path == PARAMETERS[:1] and _has_own_constructor(value):
            signature.is_open, signature.required = True, set()
        if path == PARAMETERS[:1] and "constructor" in value:
            constructor = value["constructor"]
            if find_class(constructor, OPTIM_WRAPPER_CONSTRUCTORS) is None:
                where = (*path, "constructor")
                yield from self._unknown(constructor, where, OPTIM_WRAPPER_CONSTRUCTORS)
        if may_lack:
            signature.required = set()
        problems = list(self._check_arguments(value, path, signature, name, found))
        yield from problems
        other = getattr(found, "hands_on_to", None)
        if other in value and find_class(value[other], family) is None:
            yield from self._unknown(value[other], (*path, other), family)
        elif not problems:
            yield from self._check_agreement(value, path, found, name)

    def _unknown(
        self, kind: Any, path: KeyPath, family: Registry, *, is_foreign: bool = False
    ) -> Iterator[Problem]:
        """Tell of a name that no class has; what a foreign class means by it is its own matter."""
        what, listed, every = names_for(path, family)
        hint = nearest(kind, every)
        is_error = not is_foreign or is_family_key(path)
        if not is_error and not hint:
            # a word without capitals, such as 'linear', is a setting and no class
            has_capital = isinstance(kind, str) and kind != kind.lower()
            elsewhere = nearest(kind, names_anywhere()) if has_capital else ""
            if elsewhere:
                text = f"no registry holds {kind!r}{elsewhere}"
                yield Problem(self.trace.where(path), path, text, is_error=False)
        if is_error or hint:
            text = f"there is no {what} {kind!r}{hint}\n    nlseg has {', '.join(listed)}"
            yield Problem(self.trace.where(path), path, text, is_error)

    def _hook_without_type(self, path: KeyPath) -> Problem:
        """Tell of a default hook that names no class, and of the name that was probably meant."""
        name = str(path[-1])
        where = self.trace.named_at(path)
        if name in DEFAULT_HOOKS:
            kind = DEFAULT_HOOKS[name]["type"]
            return Problem(where, path, f"names no class; add type={kind!r}")
        names = [*DEFAULT_HOOKS, *USUAL_HOOKS]
        text = f"no default hook has this name{nearest(name, names)}"
        listed = f"default hooks are {', '.join(names)}; any other names a class, type=..."
        return Problem(where, path, f"{text}\n    {listed}")

    def _check_custom_keys(self, rules: Any) -> Iterator[Problem]:
        """Check what the usual constructor is told of the parameters whose names hold a word."""
        kind = at(self.values, ("optim_wrapper", "optimizer", "type"))
        optimizer = find_class(kind, OPTIMIZERS) if kind is not None else None
        options = signature_of(optimizer).hints.keys() - {"params"} if optimizer else set()
        known = [*MULTIPLIERS, *sorted(options)]
        for word, rule in rules.items() if isinstance(rules, dict) else ():
            path: KeyPath = (*PARAMETERS, "custom_keys", word)
            if not isinstance(rule, dict):
                text = f"wants a dict such as dict(lr_mult=0.1), given {rule!r}"
                yield Problem(self.trace.where(path), path, text)
                continue
            for key in rule:
                where = (*path, key)
                if key in MULTIPLIERS:
                    yield from self._check_value(rule, where, float, "custom_keys", _Walker)
                elif key not in known:
                    hint = nearest(key, known)
                    text = f"neither {USUAL_CONSTRUCTOR} nor {kind} reads {key!r}{hint}"
                    listed = f"\n    they read {', '.join(known)}"
                    named_at = self.trace.named_at(where)
                    yield Problem(named_at, where, text + listed, is_error=bool(hint))

    def _check_arguments(
        self, value: dict[str, Any], path: KeyPath, signature: Signature, name: str, found: Any
    ) -> Iterator[Problem]:
        extra = ALSO_TAKEN.get(_place(path), ())
        for key in list(value):
            if key == "type" or str(key).startswith("_") or key in extra:
                continue
            if key in signature.hints:
                known = key in signature.defaults
                if not (known and _is_default(value[key], signature.defaults[key])):
                    hint = signature.hints[key]
                    yield from self._check_value(value, (*path, key), hint, name, found)
            elif not signature.is_open:
                choices = ", ".join([*signature.hints, *extra])
                absent = getattr(found, ABSENT, {}).get(key)
                hint = f": {absent}" if absent else nearest(key, [*signature.hints, *extra])
                text = f"{name} has no {key!r}{hint}"
                where = self.trace.named_at((*path, key))
                yield Problem(where, (*path, key), f"{text}\n    it takes {choices}")
        missing = signature.required - value.keys() - GIVEN_BY_BUILDER
        if missing and _place(path) not in COMPLETED_LATER:
            listed = ", ".join(repr(key) for key in sorted(missing))
            yield Problem(self.trace.where(path), path, f"{name} needs {listed}")

    def _check_value(
        self, value: dict[str, Any], path: KeyPath, hint: Any, name: str, found: Any
    ) -> Iterator[Problem]:
        key = path[-1]
        wanted = as_wanted(value[key], hint)  # type: ignore[index]
        if wanted is not value[key]:  # type: ignore[index]
            value[key] = wanted  # type: ignore[index]
        for mismatch in mismatches(wanted, hint):
            if is_ours(found) or not mismatch.is_key:
                yield self._problem(mismatch, path, name)

    def _problem(self, found: Mismatch, path: KeyPath, name: str) -> Problem:
        whole = (*path, *found.path)
        if found.path:
            name = _place(whole[:-1])
        if found.is_key:
            text = f"{name} has no {found.given!r}{found.hint}\n    it takes {found.wanted}"
            return Problem(self.trace.named_at(whole), whole, text)
        text = f"{name} wants {found.wanted}, given {found.given!r}{found.hint}"
        return Problem(self.trace.where(whole), whole, text)

    def _check_agreement(
        self, value: dict[str, Any], path: KeyPath, found: Any, name: str
    ) -> Iterator[Problem]:
        """Ask the rules of a class of ours, and of its parents, about arguments together."""
        parents = found.__mro__ if isinstance(found, type) and is_ours(found) else ()
        for parent in parents:
            if RULE not in vars(parent) or "__init__" not in vars(parent):
                continue
            arguments = {**defaults_of(vars(parent)["__init__"]), **value}
            for key, text in conflicts_in(getattr(parent, RULE), arguments):
                where = (*path, key)
                yield Problem(self.trace.where(where), where, f"{name}: {text}")


def _has_own_constructor(value: dict[str, Any]) -> bool:
    """Return whether an optimizer wrapper's config goes to a constructor of the user's as it is."""
    return value.get("constructor") not in (None, USUAL_CONSTRUCTOR)


def _is_default(given: Any, default: Any) -> bool:
    """Return whether a plain value is what a signature has as its default, whatever its hint."""
    plain = isinstance(given, (type(None), bool, int, float, str))
    return plain and type(given) is type(default) and bool(given == default)


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
        defaults={**inner.defaults, **signature.defaults},
        is_open=inner.is_open,
    )


def _place(path: KeyPath) -> str:
    """Return the nearest key that says what a dict is for: lists and hook names are passed over."""
    names = [key for key in path if isinstance(key, str)]
    if len(names) == 2 and names[0] == "default_hooks":
        return names[0]
    return names[-1]
