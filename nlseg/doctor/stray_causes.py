"""What label values outside the classes are, by the name of their cause."""

from collections.abc import Callable
from math import gcd

from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.doctor.tally import Tally

Check = Callable[[Split, Tally], Finding | None]

# The ids of Cityscapes' classes that count, as its _labelIds.png files hold them.
_LABEL_IDS = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
_MANY_VALUES = 20


def stray_cause(split: Split, tally: Tally) -> Finding | None:
    """Name why labels hold values outside the classes.

    They have one cause mostly, so the first check that recognises it speaks for all of them; the
    last check knows no cause but lists the values.
    """
    return next(filter(None, (check(split, tally) for check in _CHECKS)), None)


def whole_values(tally: Tally, strays: bool = False) -> dict[int, int]:
    """Return whole values -> pixels."""
    found = tally.strays if strays else tally.values
    return {int(raw): s.pixels for raw, s in found.items() if raw.lstrip("-").isdigit()}


def _shown(tally: Tally, most: int = 8) -> str:
    listed = sorted(tally.strays.items(), key=lambda item: -item[1].pixels)
    text = ", ".join(f"{raw} ({spread})" for raw, spread in listed[:most])
    return text + (f" and {len(listed) - most} more values" if len(listed) > most else "")


def _files(tally: Tally) -> tuple[str, ...]:
    listed = sorted(tally.strays.values(), key=lambda spread: -spread.num_files)
    return tuple(dict.fromkeys(file for spread in listed for file in spread.files))[:8]


def _num_files(tally: Tally) -> int:
    """Return how many files hold strays at least: those of the value in most files."""
    return max((spread.num_files for spread in tally.strays.values()), default=0)


def stray_finding(split: Split, tally: Tally, code: str, title: str, remedy: str) -> Finding:
    """Make the finding of a cause, with the values outside the classes and their files."""
    top = len(split.rules.classes) - 1
    detail = f"the classes are 0..{top}, ignored is {split.rules.ignore_index}; "
    detail += f"the labels also hold {_shown(tally)}"
    return Finding(
        code, "error", split.name, title, detail, remedy, _files(tally), _num_files(tally)
    )


def _map_with(split: Split, more: dict[int, int]) -> str:
    """Write the label map that the data set has already together with new entries."""
    return str({**(split.rules.raw_map or {}), **more})


def _smeared(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks that were saved as JPEG or resized with interpolation."""
    jpegs = [path for path, facts in tally.labels.items() if facts.get("format") == "JPEG"]
    values = whole_values(tally)
    ends = sum(n for value, n in values.items() if value < 16 or value > 239)
    smeared_binary = len(values) > _MANY_VALUES and ends > 0.9 * sum(values.values())
    if not tally.strays or not (jpegs or smeared_binary):
        return None
    return stray_finding(
        split, tally, "smeared-masks",
        "Masks hold values in between: saved as JPEG, or resized with interpolation",
        "make the masks again as PNG, resized with nearest neighbour",
    )  # fmt: skip


def _label_ids(split: Split, tally: Tally) -> Finding | None:
    """Recognise Cityscapes' label ids where train ids belong."""
    values, strays = set(whole_values(tally)), set(whole_values(tally, strays=True))
    if len(split.rules.classes) != 19 or not strays or len(strays) < len(tally.strays):
        return None
    if not values <= set(range(-1, 34)) | {255} or not strays & _LABEL_IDS:
        return None
    return stray_finding(
        split, tally, "label-ids", "Labels are Cityscapes' label ids, not train ids",
        f"{split.key}.seg_map_suffix = '_gtFine_labelTrainIds.png'\n"
        "made by: python tools/dataset_converters/cityscapes.py data/cityscapes",
    )  # fmt: skip


def _zero_not_reduced(split: Split, tally: Tally) -> Finding | None:
    """Recognise labels 0..K for K classes: one too many."""
    num_classes = len(split.rules.classes)
    if set(tally.strays) != {str(num_classes)} or split.rules.reduce_zero_label:
        return None
    if "0" not in tally.values:
        return stray_finding(
            split, tally, "reduce-zero-label-missing", "Labels are counted from 1, not from 0",
            f"{split.key}.reduce_zero_label = True  # k becomes class k - 1, 0 would be ignored",
        )  # fmt: skip
    ignoring = _map_with(split, {num_classes: 255})
    return stray_finding(
        split, tally, "reduce-zero-label-missing",
        f"Labels go to {num_classes}, one more than {num_classes} classes have",
        f"{split.key}.reduce_zero_label = True  # if 0 means other or unlabelled\n"
        f"{split.key}.label_map = {ignoring}  # if {num_classes} means unlabelled\n"
        f"or add the missing class to {split.key}.metainfo.classes and to num_classes",
    )  # fmt: skip


def _spread_out(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks whose values are multiples of one step, made to be looked at."""
    values = sorted(value for value in whole_values(tally) if value != split.rules.ignore_index)
    step = gcd(*values)
    if not tally.strays or step < 2 or len(values) < 3:
        return None
    table = ", ".join(f"{value}: {value // step}" for value in values[1:4])
    return stray_finding(
        split, tally, "spread-out-masks", f"Mask values are multiples of {step}",
        f"{split.key}.label_map = {{{table}, ...}}",
    )  # fmt: skip


def _instance_ids(split: Split, tally: Tally) -> Finding | None:
    strays = whole_values(tally, strays=True)
    if not strays or max(strays) < 1000:
        return None
    return stray_finding(
        split, tally, "instance-ids", "Label files hold instance ids (values above 1000)",
        f"{split.key}.seg_map_suffix: take the files of semantic labels, such as "
        "'_gtFine_labelTrainIds.png'",
    )  # fmt: skip


def _unknown(split: Split, tally: Tally) -> Finding | None:
    """List values that no check recognised."""
    if not tally.strays:
        return None
    strays = sorted(whole_values(tally, strays=True))
    table = _map_with(split, dict.fromkeys(strays[:6], 255))
    return stray_finding(
        split, tally, "stray-labels", f"Label values outside the classes: {len(tally.strays)}",
        f"{split.key}.label_map = {table}  # to ignore them\n"
        f"or {split.key}.metainfo.classes and num_classes, if classes are missing there",
    )  # fmt: skip


_CHECKS: tuple[Check, ...] = (
    _instance_ids, _label_ids, _smeared, _zero_not_reduced, _spread_out, _unknown,
)  # fmt: skip
