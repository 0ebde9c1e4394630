"""Values or colours of all masks to classes: what is a class, what is ignored, and who says so."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from nlseg.datasets.catalogue import get_classes, get_palette
from nlseg.doctor.probe import Facts
from nlseg.errors import DataError, UserError
from nlseg.start.layout import MOST_VALUES, Layout
from nlseg.start.names import Colour, Names
from nlseg.start.readings import Reading, Unclear
from nlseg.structures import IGNORE_INDEX
from nlseg.visualization.pictures import make_palette

Value = int | Colour
"""What a pixel of a mask holds: an index, or a colour (red, green, blue)."""
BACKGROUND = "background"
_UNLABELLED = (
    r"void|un-?label+ed|ignored?|__ignore__|don'?t.?care|out.of.roi|unknown|unclassified|no.?data"
)
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_RARE_COLOUR = 1e-4
_FIRST_CLASS = 1
_OF_ALPHA = "; masks that are drawn in an alpha channel: --binary 128"
_NEAR = 16
"""Greys closer than this to black or white are nearly so."""
_BLURRED = 3
"""Greys nearly black, and as many nearly white, that make a mask a blurred one."""


class Said(NamedTuple):
    """What a user says about values; a value is written ``255``, a colour ``255,0,0``.

    Args:
        ignore: Values that do not count.
        keep: Values that are a class.
        background: The value of a class called background.
    """

    ignore: tuple[Value, ...] = ()
    keep: tuple[Value, ...] = ()
    background: Value | None = None


@dataclass
class Labels:
    """How masks become classes.

    Args:
        classes: Names in the order of the classes.
        values: Value of each class.
        ignored: Values that do not count.
        palette: RGB colour of each class.
        reasons: One sentence a decision.
    """

    classes: tuple[str, ...]
    values: tuple[Value, ...]
    ignored: tuple[Value, ...] = ()
    palette: tuple[Colour, ...] = ()
    reasons: list[str] = field(default_factory=list)

    @property
    def is_painted(self) -> bool:
        """Return whether the masks hold colours."""
        return isinstance(self.values[0], tuple)

    def table(self) -> dict[Value, int]:
        """Return the class of each value that has another one, 255 for those that are ignored."""
        table = {value: place for place, value in enumerate(self.values)}
        table |= dict.fromkeys(self.ignored, IGNORE_INDEX)
        return {v: new for v, new in table.items() if v != new}


def parse_value(text: str) -> Value:
    """Read a value such as ``255``, or a colour such as ``255,0,0``.

    Raises:
        UserError: It is neither.
    """
    numbers = [part.strip() for part in text.split(",")]
    if len(numbers) in (1, 3) and all(n.isdigit() and int(n) < 256 for n in numbers):
        levels = [int(n) for n in numbers]
        return levels[0] if len(levels) == 1 else (levels[0], levels[1], levels[2])
    raise UserError(f"{text!r} is neither a value in 0..255 nor a colour such as 255,0,0")


def show_value(value: Value) -> str:
    """Write a value as the options take it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def read_labels(
    layout: Layout, facts: Mapping[tuple[str, str], Facts], names: Names | None, said: Said
) -> Labels:
    """Decide which values are classes.

    Args:
        layout: The pairs.
        facts: Of every mask, under ("label", path).
        names: Names of classes, where something gives them.
        said: What the user says.

    Raises:
        DataError: A mask cannot be used; names the file and what to do.
        UserError: Names and values do not go together.
        Unclear: A value may be a class or unlabelled, and nothing says which.
    """
    masks = {pair.mask: facts["label", str(pair.mask)] for pair in layout.pairs}
    pixels = _count(masks)
    if len(pixels) < 2:
        (value,) = pixels
        raise DataError(
            f"{next(iter(masks))}: all pixels of all {len(masks)} masks are {show_value(value)}; a "
            "network needs two classes: export the masks again, or give others with --masks"
            f"{_OF_ALPHA * any('A' in str(one.get('mode')) for one in masks.values())}"
        )
    _check_said(pixels, said)
    if layout.cityscapes:
        return _of_cityscapes(layout.cityscapes, pixels)
    labels = _decide(layout, pixels, names, said, numbered=_number_objects(masks))
    labels.palette = _colours_of(labels, masks, names)
    return labels


def _count(masks: Mapping[Path, Facts]) -> dict[Value, int]:
    """Count the pixels of each value over all masks, in the order of the values."""
    pixels: dict[Value, int] = {}
    kinds: dict[bool, Path] = {}
    for path, facts in masks.items():
        if facts["error"]:
            raise DataError(f"{path}: {facts['error']}; copy it again, or remove it and its image")
        painted = "colours" in facts
        kinds.setdefault(painted, path)
        if len(kinds) == 2:
            raise DataError(
                f"{kinds[True]}: is painted in colours, {kinds[False]} holds one value a pixel; "
                "store all masks in one of the two ways"
            )
        for value, count in _values_of(path, facts):
            pixels[value] = pixels.get(value, 0) + count
    _check_colours(pixels, kinds)
    _check_greys(pixels, masks)
    return dict(sorted(pixels.items(), key=lambda item: _order(item[0])))


def _number_objects(masks: Mapping[Path, Facts]) -> bool:
    """Return whether each mask counts from 1 without a gap, to more than 2, and not all as far."""
    held = [
        {int(raw) for raw in facts["values"]} - {0} for facts in masks.values() if "values" in facts
    ]
    counts = {len(values) for values in held}
    whole = all(values == set(range(1, len(values) + 1)) for values in held)
    return whole and len(counts) > 1 and max(counts) > 2


def _order(value: Value) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _values_of(path: Path, facts: Facts) -> Iterable[tuple[Value, int]]:
    if "colours" in facts:
        if facts["num_colours"] > MOST_VALUES:
            raise DataError(
                f"{path}: holds {facts['num_colours']} colours; a painted mask has one a class: it "
                "was saved as JPEG or resized smoothly, or is no mask; export it again as PNG, or, "
                "if it is black and white, take it by --binary 128"
            )
        return [((r, g, b), count) for r, g, b, count in facts["colours"]]
    values = facts["values"]
    whole = [raw for raw in values if raw.lstrip("-").isdigit()]
    if facts["dtype"].startswith("float") or len(whole) < len(values):
        raise DataError(
            f"{path}: holds {facts['dtype']} numbers; labels are whole numbers in 0..255: store it "
            "as 8-bit PNG, or, of two classes, give the level between them, such as --binary 0.5"
        )
    numbers = [int(raw) for raw in values]
    if min(numbers) < 0 or max(numbers) > 255:
        raise DataError(
            f"{path}: holds values from {min(numbers)} to {max(numbers)}, which look like ids of "
            "objects; labels are in 0..255: export one value a class, or make all objects one "
            "class by --binary 1"
        )
    if facts["format"] == "JPEG" or len(numbers) > 4 * MOST_VALUES - 6:
        raise DataError(
            f"{path}: holds {len(numbers)} values"
            f"{' and is a JPEG' if facts['format'] == 'JPEG' else ''}: it was saved with loss, or "
            "is no mask; export it again as PNG, or, black and white, store 0 below 128 and 255 "
            "above as PNG, as --binary 128 does"
        )
    return zip(numbers, values.values(), strict=True)


def _check_colours(pixels: Mapping[Value, int], kinds: Mapping[bool, Path]) -> None:
    """Refuse colours that only blur can have made."""
    if True not in kinds or len(pixels) <= 2:
        return
    total = sum(pixels.values())
    rare = [value for value, count in pixels.items() if count < _RARE_COLOUR * total]
    if len(pixels) > MOST_VALUES or 2 * len(rare) > len(pixels):
        raise DataError(
            f"{kinds[True]}: the masks hold {len(pixels)} colours, {len(rare)} of them on less "
            "than 1 in 10,000 pixels: they were saved with loss or resized smoothly; export them "
            "again as PNG, resized with nearest neighbour"
        )


def _check_greys(pixels: Mapping[Value, int], masks: Mapping[Path, Facts]) -> None:
    """Refuse black and white masks with greys around the two, which only blur can have made."""
    levels: dict[int, int] = {}
    for value, count in pixels.items():
        if len(set(_order(value))) == 1:
            levels[_order(value)[0]] = count
    dark = [level for level in levels if 0 < level < _NEAR]
    bright = [level for level in levels if 255 - _NEAR < level < 255]
    at_ends = sum(levels.get(level, 0) for level in (0, 255, *dark, *bright))
    if min(len(dark), len(bright)) < _BLURRED or at_ends < 0.9 * sum(pixels.values()):
        return
    held = {path: len(list(_values_of(path, facts))) for path, facts in masks.items()}
    path = next((path for path, number in held.items() if number > 2 * _BLURRED), None)
    if path is None:  # each has few, and no two have the same
        return
    raise DataError(
        f"{path}: the masks hold {len(pixels)} greys, most of them nearly black or nearly white: "
        "they were saved with loss or resized smoothly; export them again as PNG, resized with "
        "nearest neighbour, or store 0 below 128 and 255 above, as --binary 128 does"
    )


def _check_said(pixels: Mapping[Value, int], said: Said) -> None:
    """Refuse what is said about values that do not occur."""
    background = () if said.background is None else (said.background,)
    for option, values in (
        ("ignore", said.ignore),
        ("keep", said.keep),
        ("background", background),
    ):
        for value in values:
            if value not in pixels:
                held = ", ".join(map(show_value, list(pixels)[:12]))
                raise UserError(
                    f"--{option} {show_value(value)}: no mask holds it; the masks hold {held}"
                )
    both = set(said.ignore) & {*said.keep, *background}
    if both:
        named = show_value(next(iter(both)))
        raise UserError(f"--ignore {named}: is named as a class, too; leave one of the two out")


def _of_cityscapes(kind: str, pixels: Mapping[Value, int]) -> Labels:
    known = _CITYSCAPES_IDS if kind == "ids" else tuple(range(19))
    classes = tuple(get_classes("cityscapes"))
    colours = [(c[0], c[1], c[2]) for c in get_palette("cityscapes")]
    ignored = tuple(v for v in pixels if v not in known)
    reason = f"label {kind} of Cityscapes; what its benchmark leaves out is ignored"
    return Labels(classes, known, ignored, tuple(colours), [reason])


# ---- values to classes


def _decide(
    layout: Layout, pixels: Mapping[Value, int], names: Names | None, said: Said, *, numbered: bool
) -> Labels:
    reasons: list[str] = []
    ignored = list(said.ignore)
    if ignored:
        reasons.append(f"{_listed(ignored)} ignored: --ignore")
    called = _named_values(pixels, names, said, ignored)
    for value, name in list(called.items()):
        is_class = value in said.keep or value == said.background
        if not is_class and re.fullmatch(_UNLABELLED, name, re.IGNORECASE):
            ignored.append(value)
            reasons.append(f"{show_value(value)} ignored: called {name!r}")
    ignored += _unlabelled(layout, pixels, called, said, ignored, reasons, numbered=numbered)
    ignored = [value for value in dict.fromkeys(ignored) if value in pixels]
    rest = [value for value in [*called, *pixels] if value not in ignored]
    values = tuple(sorted(dict.fromkeys(rest), key=_order))
    if len([v for v in values if v in pixels]) < 2:
        raise DataError(
            f"{layout.pairs[0].mask}: beside what is ignored ({_listed(ignored)}) the masks hold "
            f"only {_listed(values)}; name the value of a second class with --keep"
        )
    if len(values) > IGNORE_INDEX:
        raise DataError(
            f"{layout.pairs[0].mask}: the masks hold {len(values)} values; at most {IGNORE_INDEX} "
            "can be classes: say which to leave out with --ignore"
        )
    if values == (0, 255) and not called:
        reasons.append("masks of 0 and 255 alone: 255 is the thing, as one class cannot train")
    classes = tuple(called.get(value) or _new_name(value, values, said) for value in values)
    source = f"names of the classes: {names.source}" if names else "no file names the classes"
    return Labels(classes, values, tuple(ignored), reasons=[source, *reasons])


def _new_name(value: Value, values: Sequence[Value], said: Said) -> str:
    is_black = value in (0, (0, 0, 0))
    if value == said.background or (is_black and (len(values) == 2 or value in said.keep)):
        return BACKGROUND
    if len(values) == 2 and _order(values[0]) in ((0,), (0, 0, 0)):
        return "foreground"
    return f"class_{'_'.join(map(str, value)) if isinstance(value, tuple) else value}"


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(map(show_value, values)) or "none"


def _named_values(
    pixels: Mapping[Value, int], names: Names | None, said: Said, ignored: Sequence[Value]
) -> dict[Value, str]:
    """Return the name of each value that has one.

    Raises:
        UserError: There are more values than names, or a value without a name.
    """
    if names is None:
        return {}
    painted = isinstance(next(iter(pixels)), tuple)
    if painted and names.colours:
        return _checked_names({names.colours[n]: n for n in names.colours}, pixels, names, ignored)
    if names.values and not painted:
        return _checked_names({names.values[n]: n for n in names.values}, pixels, names, ignored)
    return _placed_names(pixels, names, said, ignored)


def _placed_names(
    pixels: Mapping[Value, int], names: Names, said: Said, ignored: Sequence[Value]
) -> dict[Value, str]:
    """Return the name of each value where the names say no values: by their order."""
    values = [value for value in pixels if value not in ignored]
    listed, count = names.listed, len(names.listed)
    if set(values) == {0, IGNORE_INDEX} and count == 1:
        return {IGNORE_INDEX: listed[0]}
    if IGNORE_INDEX in values and len(values) == count > 2 and not said.keep:
        raise Unclear(
            f"{names.source}: names {count} classes, the masks hold {_listed(values[:12])}; what "
            f"is 255 ({_share(pixels, IGNORE_INDEX)} of the pixels)?",
            [Reading(f"255 is the last class, {listed[-1]!r}", ("--keep", "255")),
             Reading("255 is unlabelled, and a class never occurs", ("--ignore", "255"))],
        )  # fmt: skip
    spare: set[Value] = set() if IGNORE_INDEX in said.keep else {IGNORE_INDEX}
    for first in (0, _FIRST_CLASS):
        if set(values) <= {*range(count + first)} | spare and set(values) != {0, IGNORE_INDEX}:
            return {place + first: name for place, name in enumerate(listed)}
    black = next((value for value in values if value == (0, 0, 0)), None)
    if len(values) == 2 and count == 1 and black is not None:
        return {value: listed[0] for value in values if value != black}
    if any(isinstance(value, tuple) and len(set(value)) > 1 for value in values):
        held = ", ".join(f"{show_value(v)} ({_share(pixels, v)})" for v in values[:12])
        raise UserError(
            f"{names.source}: names classes without their colours, and the masks are painted in "
            f"{held}; give --classes FILE with name,red,green,blue on each line, such as "
            f"{listed[0]},{show_value(values[0])}"
        )
    if len(values) == count:
        return dict(zip(values, listed, strict=True))
    raise UserError(
        f"{names.source}: names {count} classes, the masks hold {len(values)} values "
        f"({_listed(values[:12])}); name each of them in this order, or leave values out with "
        "--ignore"
    )


def _checked_names(
    called: dict[Value, str], pixels: Mapping[Value, int], names: Names, ignored: Sequence[Value]
) -> dict[Value, str]:
    quiet = {IGNORE_INDEX, 0, (0, 0, 0), *ignored}
    unknown = [value for value in pixels if value not in called and value not in quiet]
    if unknown:
        raise UserError(
            f"{names.source}: has no name for {_listed(unknown[:8])}, which the masks hold; add "
            f"it, or leave it out with --ignore {show_value(unknown[0])}"
        )
    return called


def _unlabelled(
    layout: Layout, pixels: Mapping[Value, int], called: Mapping[Value, str], said: Said,
    ignored: Sequence[Value], reasons: list[str], *, numbered: bool,
) -> list[Value]:  # fmt: skip
    """Return values that are unlabelled beyond doubt; ask about the others.

    Where values look like numbers of objects, that they are is an answer, too.

    Raises:
        Unclear: 0, black, 255 or white may be a class or unlabelled.
    """
    answered = {*ignored, *said.keep, said.background, *called}
    open_values = [value for value in pixels if value not in answered]
    found: list[Value] = []
    if layout.voc and IGNORE_INDEX in open_values and set(pixels) != {0, IGNORE_INDEX}:
        found.append(IGNORE_INDEX)
        reasons.append("255 ignored: the border between objects in VOC's layout")
    elif IGNORE_INDEX in open_values and called:
        found.append(IGNORE_INDEX)
        reasons.append("255 ignored: the names do not count it")
    elif IGNORE_INDEX in open_values and len(pixels) > 2 and not _evenly_spread(pixels):
        raise Unclear(
            f"{layout.pairs[0].mask.parent}: the masks hold {_listed(pixels)}; what is 255 "
            f"({_share(pixels, IGNORE_INDEX)} of the pixels)?",
            [Reading("255 is unlabelled and does not count", ("--ignore", "255")),
             Reading("255 is a class", ("--keep", "255"))],
        )  # fmt: skip
    black: Value = (0, 0, 0) if (0, 0, 0) in pixels else 0
    if black not in open_values or len(pixels) - len(found) - len(ignored) < 3:
        return found
    if layout.voc or ignored or found:
        reasons.append(f"{show_value(black)} is a class: another value is what is unlabelled")
        return found
    given = " ".join(show_value(black).split())
    why = "no file names the classes" if not called else "the names do not count it"
    raise Unclear(
        f"{layout.pairs[0].mask.parent}: the masks hold {_listed(pixels)}, and {why}; what is "
        f"{given} ({_share(pixels, black)} of the pixels)?",
        [Reading(f"{given} is a class, the background", ("--background", given)),
         Reading(f"{given} is unlabelled and does not count", ("--ignore", given)),
         *[Reading("the others number objects, all of one class", ("--binary", "1"))] * numbered],
    )  # fmt: skip


def _evenly_spread(pixels: Mapping[Value, int]) -> bool:
    """Return whether values are steps of grey up to 255, such as 0, 85, 170, 255."""
    values = [value for value in pixels if isinstance(value, int)]
    steps = {b - a for a, b in pairwise(values)}
    return len(values) > 2 and max(steps) - min(steps) <= 1 and min(steps) > 1


def _share(pixels: Mapping[Value, int], value: Value) -> str:
    return f"{100 * pixels[value] / sum(pixels.values()):.1f} %"


def _colours_of(
    labels: Labels, masks: Mapping[Path, Facts], names: Names | None
) -> tuple[Colour, ...]:
    """Return the colour of each class: the masks' own, the names', or drawn ones."""
    if labels.is_painted:
        return tuple(value for value in labels.values if isinstance(value, tuple))
    given = names.colours if names else {}
    stored: dict[str, Sequence[int]] = {}
    for facts in masks.values():
        stored |= facts.get("palette") or {}
    shown = {tuple(stored[str(v)]) for v in labels.values if str(v) in stored}
    drawn = make_palette(len(labels.classes))
    colours = []
    for place, (name, value) in enumerate(zip(labels.classes, labels.values, strict=True)):
        colour = given.get(name) or (stored.get(str(value)) if len(shown) > 1 else None)
        red, green, blue = (int(level) for level in (colour or drawn[place]))
        colours.append((red, green, blue))
    return tuple(colours)
