"""Does a value fit a type hint, and does a number lie in its range?"""

import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typing_extensions import NotRequired, Required, is_typeddict

SEQUENCES = (list, Sequence, Collection, Iterable)
SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
}


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a config value can be meant by a type hint.

    Only plain types are judged: numbers, texts, sequences, dicts and choices. Where a hint names
    any other class, a dict that builds one is as good as an instance, so that everything fits.

    Args:
        value: Part of a config.
        hint: A resolved type hint.

    Returns:
        False where the value would surely fail.
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
        return isinstance(value, (list, tuple)) and all(fits(v, a) for v in value for a in args[:1])
    if origin in (dict, Mapping) or is_typeddict(hint):
        return isinstance(value, Mapping)
    return True


def _items_fit(value: tuple[Any, ...], args: tuple[Any, ...]) -> bool:
    if not args:
        return True
    if len(args) == 2 and args[1] is Ellipsis:
        return all(fits(item, args[0]) for item in value)
    return len(value) == len(args) and all(map(fits, value, args))


def describe_hint(hint: Any) -> str:
    """Say in words what a type hint wants."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return describe_hint(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe_hint(choice) for choice in args))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if hint is None or hint is type(None):
        return "None"
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
    return getattr(hint, "__name__", str(hint))


def choices_in(hint: Any) -> list[Any]:
    """List the values that a hint names one by one, also inside of sequences."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for part in get_args(hint) for choice in choices_in(part)]


def _plural(words: str) -> str:
    return f"{words[2:]}s" if words.startswith("a ") and " of " not in words else words


def group_in(hint: Any) -> Any:
    """Return the ``TypedDict`` that a hint is or offers, None where there is none."""
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((choice for choice in choices if is_typeddict(choice)), None)


def as_tuple(value: Any) -> Any:
    """Turn a list, and the lists in it, into tuples, as JSON and YAML cannot write them."""
    return tuple(map(as_tuple, value)) if isinstance(value, (list, tuple)) else value


Range = tuple[Callable[[Any], bool], str]
POSITIVE: Range = (lambda x: x > 0, "above 0")
NOT_NEGATIVE: Range = (lambda x: x >= 0, "at least 0")
COUNT: Range = (lambda x: x >= 1, "at least 1")
SHARE: Range = (lambda x: 0 <= x <= 1, "in [0, 1]")
BELOW_ONE: Range = (lambda x: 0 <= x < 1, "in [0, 1)")
RANGES: dict[str, Range] = {
    "accumulative_counts": COUNT,
    "alpha": SHARE,
    "batch_size": COUNT,
    "begin_epoch": NOT_NEGATIVE,
    "begin_iter": NOT_NEGATIVE,
    "beta": POSITIVE,
    "brightness_delta": NOT_NEGATIVE,
    "cat_max_ratio": (lambda x: 0 < x <= 1, "in (0, 1]"),
    "channels": COUNT,
    "class_weight": NOT_NEGATIVE,
    "clip_limit": POSITIVE,
    "contrast_range": NOT_NEGATIVE,
    "crop_size": COUNT,
    "dilation": COUNT,
    "dilations": COUNT,
    "dropout_ratio": BELOW_ONE,
    "end_factor": NOT_NEGATIVE,
    "eta_min": NOT_NEGATIVE,
    "gamma": POSITIVE,
    "hue_delta": NOT_NEGATIVE,
    "in_channels": COUNT,
    "kernel_size": COUNT,
    "limit": NOT_NEGATIVE,
    "loss_weight": NOT_NEGATIVE,
    "lr": NOT_NEGATIVE,
    "max_epochs": COUNT,
    "max_iters": COUNT,
    "max_refetch": NOT_NEGATIVE,
    "min_kept": NOT_NEGATIVE,
    "momentum": BELOW_ONE,
    "n_holes": NOT_NEGATIVE,
    "num_classes": COUNT,
    "num_convs": NOT_NEGATIVE,
    "num_stages": COUNT,
    "num_workers": NOT_NEGATIVE,
    "power": POSITIVE,
    "prob": SHARE,
    "rare_classes": NOT_NEGATIVE,
    "rare_prob": SHARE,
    "ratio": POSITIVE,
    "ratio_range": POSITIVE,
    "ratios": NOT_NEGATIVE,
    "reduction": COUNT,
    "saturation_range": NOT_NEGATIVE,
    "scale": COUNT,
    "scale_factor": POSITIVE,
    "size_divisor": COUNT,
    "start_factor": NOT_NEGATIVE,
    "std": POSITIVE,
    "stride": COUNT,
    "strides": COUNT,
    "thresh": SHARE,
    "threshold": SHARE,
    "tile_grid_size": COUNT,
    "times": COUNT,
    "val_interval": COUNT,
    "weight_decay": NOT_NEGATIVE,
}
"""What the names of arguments promise, wherever they stand."""
PAIRS = {
    "crop_size": "(height, width)",
    "ratio_range": "(low, high)",
    "size": "two sides",
    "stride": "(vertical, horizontal)",
}
"""Arguments that are pairs where they are sequences."""
LOW_HIGH = ("contrast_range", "ratio_range", "saturation_range")


def out_of_range(name: str, value: Any) -> str:
    """Say which range an argument's numbers have to lie in.

    Args:
        name: The argument.
        value: A number or a sequence of numbers; anything else is not judged.

    Returns:
        The range in words, empty where the value lies in it; also for a pair that is none.
    """
    if name in PAIRS and isinstance(value, (list, tuple)) and len(value) != 2:
        return f"{PAIRS[name]}: two numbers"
    if name in LOW_HIGH and value is not None and list(value) != sorted(value):
        return "(low, high) with low <= high"
    inside, words = RANGES.get(name, (None, ""))
    numbers = value if isinstance(value, (list, tuple)) else (value,)
    judged = [x for x in numbers if isinstance(x, (int, float)) and not isinstance(x, bool)]
    return words if inside is not None and not all(map(inside, judged)) else ""
