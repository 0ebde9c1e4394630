"""What is wrong with label values, by the name of its cause."""

from collections.abc import Callable, Mapping, Sequence
from math import gcd

from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.doctor.tally import Tally, colour_classes

Check = Callable[[Split, Tally], Finding | None]

# The ids of Cityscapes' classes that count, as its _labelIds.png files hold them.
_LABEL_IDS = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
_MANY_VALUES = 20


def label_causes(split: Split, tally: Tally) -> list[Finding]:
    """Name what is wrong with the values of a split's labels.

    Values outside the classes are looked at unless masks of two values explain them.
    """
    findings = [check(split, tally) for check in (_twice_configured, _painted, _lost_colours)]
    values = [check(split, tally) for check in (_binary, _two_values)]
    if not any(values):
        values = [_stray_cause(split, tally)]
    if not any(values):
        values = [_reduced_twice(split, tally)]
    return [finding for finding in (*findings, *values) if finding is not None]


def _twice_configured(split: Split, tally: Tally) -> Finding | None:
    in_pipeline, in_dataset = split.rules.pipeline_reduces, split.rules.reduce_zero_label
    if in_pipeline is None or in_pipeline == in_dataset:
        return None
    return Finding(
        "reduce-zero-label-differs", "error", split.name,
        "Pipeline and data set disagree about reduce_zero_label",
        f"LoadAnnotations says {in_pipeline}, the data set says {in_dataset}",
        f"{split.key}.reduce_zero_label = {in_pipeline}, and leave it out of LoadAnnotations",
    )  # fmt: skip


def _painted(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks that are painted: in the palette's colours, in others, or in grey."""
    files = dict(tally.painted)
    if split.rules.decoder == "cv2":
        files |= {path: [] for path, facts in tally.labels.items() if facts.get("mode") == "P"}
    if not files:
        return None
    colours = {(r, g, b) for listed in files.values() for r, g, b, _ in listed}
    count, is_grey = len(split.rules.classes), all(r == g == b for r, g, b in colours)
    if not tally.painted:
        code, title = "palette-by-cv2", "Palette masks are decoded to colours (imdecode_backend)"
        remedy = f"in {split.key}.pipeline: dict(type='LoadAnnotations'), without imdecode_backend"
    elif len(colours) > 256 or (is_grey and len(colours) > max(_MANY_VALUES, count + 1)):
        code, title = "pictures-as-masks", "Label files look like pictures: too many colours"
        remedy = f"check {split.key}.data_prefix.seg_map_path; masks must not be saved as JPEG"
    elif is_grey:
        code, title = "grey-rgb-masks", "Masks are grey pictures stored with several channels"
        table = _colour_table(_grey_classes(sorted(r for r, _, _ in colours), split))
        remedy = f"{split.key}.palette_to_index = {table}"
    elif colours <= set(split.rules.palette) | {(0, 0, 0), (255, 255, 255)}:
        code, title = "rgb-masks", "Masks are painted in the palette's colours (RGB masks)"
        remedy = f"{split.key}.palette_to_index = {_palette_table(colours, split)}"
    else:
        code, title = "rgb-masks", "Masks are painted in colours (RGB masks)"
        table = _colour_table({c: i if i < count else 255 for i, c in enumerate(sorted(colours))})
        remedy = (
            f"{split.key}.palette_to_index = {table}  # RGB: class, 255 to ignore; put them in the "
            "order of metainfo.classes"
        )
    total = len(tally.labels)
    if len(files) < 0.5 * total:
        title = f"{title}: {len(files)} of {total}"
        remedy = "store these masks like the others, with one value per pixel"
    named = sorted(colours)[:6]
    detail = f"{len(colours)} colours, such as {', '.join(map(str, named))}" if named else ""
    return Finding(
        code, "error", split.name, title, detail, remedy, tuple(sorted(files)[:8]), len(files)
    )


def _palette_table(colours: set[tuple[int, int, int]], split: Split) -> str:
    """Return True where the palette has all colours, else a table with the others ignored."""
    palette = split.rules.palette
    if colours <= set(palette):
        return "True"
    others = dict.fromkeys(sorted(colours - set(palette)), 255)
    table = _colour_table({**{colour: i for i, colour in enumerate(palette)}, **others})
    return f"{table}  # 255 to ignore"


def _grey_classes(values: Sequence[int], split: Split) -> dict[tuple[int, int, int], int]:
    """Guess the classes of grey levels: themselves where they can be, else their order."""
    num_classes, ignored = len(split.rules.classes), split.rules.ignore_index
    can_be = all(value < num_classes or value == ignored for value in values)
    black_and_white = len(values) == 2 and ignored in values  # two classes, none of them ignored
    if can_be and not black_and_white:
        return {(value, value, value): value for value in values}
    order = {value: i if i < num_classes else ignored for i, value in enumerate(values)}
    return {(value, value, value): new for value, new in order.items()}


def _colour_table(classes: Mapping[tuple[int, int, int], int]) -> str:
    """Write a mapping from colours to classes as it stands in a config."""
    return "{" + ", ".join(f"{colour}: {new}" for colour, new in classes.items()) + "}"


def _lost_colours(split: Split, tally: Tally) -> Finding | None:
    if not tally.lost_colours:
        return None
    listed = sorted(tally.lost_colours.items(), key=lambda item: -item[1].pixels)
    text = ", ".join(f"{c} ({s})" for c, s in listed[:8])
    files = tuple(dict.fromkeys(file for _, spread in listed for file in spread.files))[:8]
    known = colour_classes(split.rules.palette_to_index)
    table = _colour_table({**known, **dict.fromkeys(sorted(tally.lost_colours), 255)})
    return Finding(
        "lost-colours", "error", split.name,
        f"Colours that are not in palette_to_index: {len(listed)}", text,
        f"{split.key}.palette_to_index = {table}  # 255 ignores; or give them their classes",
        files, max(spread.num_files for _, spread in listed),
    )  # fmt: skip


def _binary(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks of 0 and 255 whose foreground is ignored or outside the classes."""
    values = _whole_values(tally)
    rules = split.rules
    if set(values) != {0, 255} or rules.label_map or rules.palette_to_index:
        return None
    return Finding(
        "binary-masks", "error", split.name,
        "Binary masks hold 0 and 255, so that the foreground is ignored",
        f"0 on {values[0]} px, 255 on {values[255]} px; 255 does not train and does not count",
        f"{_unreduced(split)}{split.key}.label_map = {{255: 1}}  # with two classes, background "
        "first",
        tuple(tally.values["255"].files), tally.values["255"].num_files,
    )  # fmt: skip


def _two_values(split: Split, tally: Tally) -> Finding | None:
    """Recognise binary masks with some other value for the foreground."""
    if len(tally.values) != 2 or len(tally.strays) != 1 or "0" not in tally.values:
        return None
    raw = next(iter(tally.strays))
    return _stray_finding(
        split, tally, "binary-masks", f"Binary masks hold 0 and {raw}",
        f"{_unreduced(split)}{split.key}.label_map = {{{raw}: 1}}  # with two classes, background "
        "first",
    )  # fmt: skip


def _unreduced(split: Split) -> str:
    """Return the line that label 0 of a binary mask needs to be a class."""
    return f"{split.key}.reduce_zero_label = False\n" if split.rules.reduce_zero_label else ""


def _reduced_twice(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks that already start at 0 with 255 ignored, and are shifted once more."""
    num_classes = len(split.rules.classes)
    values = tally.values
    if not split.rules.reduce_zero_label or "255" not in values or str(num_classes) in values:
        return None
    if "0" not in values or num_classes < 2:
        return None
    return Finding(
        "reduce-zero-label-twice", "warning", split.name,
        "The labels look as if zero had been reduced already",
        f"255 is there, {num_classes} is not, and reduce_zero_label=True turns 0 "
        f"({values['0'].pixels} px) into ignored pixels and every k into k - 1",
        f"{split.key}.reduce_zero_label = False  # they hold 0..{num_classes - 1} and 255",
        tuple(values["255"].files), values["255"].num_files,
    )  # fmt: skip


def _stray_cause(split: Split, tally: Tally) -> Finding | None:
    """Name why labels hold values outside the classes.

    They have one cause mostly, so the first check that recognises it speaks for all of them; the
    last check knows no cause but lists the values.
    """
    return next(filter(None, (check(split, tally) for check in _CHECKS)), None)


def _whole_values(tally: Tally, strays: bool = False) -> dict[int, int]:
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


def _stray_finding(split: Split, tally: Tally, code: str, title: str, remedy: str) -> Finding:
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
    values = _whole_values(tally)
    ends = sum(n for value, n in values.items() if value < 16 or value > 239)
    smeared_binary = len(values) > _MANY_VALUES and ends > 0.9 * sum(values.values())
    if not tally.strays or not (jpegs or smeared_binary):
        return None
    return _stray_finding(
        split, tally, "smeared-masks",
        "Masks hold values in between: saved as JPEG, or resized with interpolation",
        "make the masks again as PNG, resized with nearest neighbour",
    )  # fmt: skip


def _label_ids(split: Split, tally: Tally) -> Finding | None:
    """Recognise Cityscapes' label ids where train ids belong."""
    values, strays = set(_whole_values(tally)), set(_whole_values(tally, strays=True))
    if len(split.rules.classes) != 19 or not strays or len(strays) < len(tally.strays):
        return None
    if not values <= set(range(-1, 34)) | {255} or not strays & _LABEL_IDS:
        return None
    return _stray_finding(
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
        return _stray_finding(
            split, tally, "reduce-zero-label-missing", "Labels are counted from 1, not from 0",
            f"{split.key}.reduce_zero_label = True  # k becomes class k - 1, 0 would be ignored",
        )  # fmt: skip
    ignoring = _map_with(split, {num_classes: 255})
    return _stray_finding(
        split, tally, "reduce-zero-label-missing",
        f"Labels go to {num_classes}, one more than {num_classes} classes have",
        f"{split.key}.reduce_zero_label = True  # if 0 means other or unlabelled\n"
        f"{split.key}.label_map = {ignoring}  # if {num_classes} means unlabelled\n"
        f"or add the missing class to {split.key}.metainfo.classes and to num_classes",
    )  # fmt: skip


def _spread_out(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks whose values are multiples of one step, made to be looked at."""
    values = sorted(value for value in _whole_values(tally) if value != split.rules.ignore_index)
    step = gcd(*values)
    if not tally.strays or step < 2 or len(values) < 3:
        return None
    if max(values) // step >= len(split.rules.classes):
        return None
    table = ", ".join(f"{value}: {value // step}" for value in values if value)
    return _stray_finding(
        split, tally, "spread-out-masks", f"Mask values are multiples of {step}",
        f"{split.key}.label_map = {{{table}}}",
    )  # fmt: skip


def _instance_ids(split: Split, tally: Tally) -> Finding | None:
    strays = _whole_values(tally, strays=True)
    if not strays or max(strays) < 1000:
        return None
    return _stray_finding(
        split, tally, "instance-ids", "Label files hold instance ids (values above 1000)",
        f"{split.key}.seg_map_suffix: take the files of semantic labels, such as "
        "'_gtFine_labelTrainIds.png'",
    )  # fmt: skip


def _unknown(split: Split, tally: Tally) -> Finding | None:
    """List values that no check recognised."""
    if not tally.strays:
        return None
    strays = sorted(_whole_values(tally, strays=True))
    table = _map_with(split, dict.fromkeys(strays, 255))
    return _stray_finding(
        split, tally, "stray-labels", f"Label values outside the classes: {len(tally.strays)}",
        f"{split.key}.label_map = {table}  # to ignore them\n"
        f"or {split.key}.metainfo.classes and num_classes, if classes are missing there",
    )  # fmt: skip


_CHECKS: tuple[Check, ...] = (
    _instance_ids, _label_ids, _smeared, _zero_not_reduced, _spread_out, _unknown,
)  # fmt: skip
