"""What is wrong with label values, by the name of its cause."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import gcd

from nlseg.doctor.finding import Code, Finding
from nlseg.doctor.splits import Split, num_classes_lines, step_key, unshifted
from nlseg.doctor.tally import Tally, colour_classes

Check = Callable[[Split, Tally], Finding | None]

# The ids of Cityscapes' classes that count, as its _labelIds.png files hold them.
_LABEL_IDS = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
_MANY_VALUES = 20


def label_causes(split: Split, tally: Tally) -> list[Finding]:
    """Name what is wrong with the values of a split's labels.

    Values outside the classes are looked at unless masks of two values explain them, or there are
    no classes that they could be outside of.
    """
    if not split.rules.classes:
        return []
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
    if _fits_shifted(split, tally) == in_pipeline:
        remedy = f"{split.key}.reduce_zero_label = {in_pipeline}  # as LoadAnnotations says"
    else:
        place = step_key(split, "LoadAnnotations")
        remedy = f"{place}.reduce_zero_label = {in_dataset}  # as the data set says"
    return Finding(
        "reduce-zero-label-differs", "error", split.name,
        "Pipeline and data set disagree about reduce_zero_label",
        f"LoadAnnotations says {in_pipeline}, the data set says {in_dataset}; the labels hold "
        f"{', '.join(list(tally.values)[:12]) or 'colours'}",
        remedy,
    )  # fmt: skip


def _fits_shifted(split: Split, tally: Tally) -> bool:
    """Return whether values make more classes and fewer strays when zero is reduced."""
    if split.rules.raw_map or split.rules.palette_to_index:  # neither goes together with a shift
        return False
    values = set(_whole_values(tally)) - {split.rules.ignore_index}
    classes = set(range(len(split.rules.classes)))
    shifted = {value - 1 for value in values if value}

    def strays_and_gain(found: set[int]) -> tuple[int, int]:
        return len(found - classes), -len(found & classes)

    return strays_and_gain(shifted) < strays_and_gain(values)


def _painted(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks that are painted: in the palette's colours, in others, or in grey."""
    files = dict(tally.painted)
    if split.rules.decoder == "cv2":
        files |= {path: [] for path, facts in tally.labels.items() if facts.get("mode") == "P"}
    if not files:
        return None
    colours = {(r, g, b) for listed in files.values() for r, g, b, _ in listed}
    count, is_grey = len(split.rules.classes), all(r == g == b for r, g, b in colours)
    code: Code
    if not tally.painted:
        code, title = "palette-by-cv2", "Palette masks are decoded to colours (imdecode_backend)"
        remedy = f"{step_key(split, 'LoadAnnotations')}.imdecode_backend = 'pillow'"
    elif len(colours) > 256 or (is_grey and len(colours) > max(_MANY_VALUES, count + 1)):
        code, title = "pictures-as-masks", "Label files look like pictures: too many colours"
        remedy = (
            f"name the folder of the masks by {split.key}.data_prefix.seg_map_path; masks that "
            "were saved as JPEG are to be exported again as PNG, with one value per pixel"
        )
    elif is_grey:
        code = "grey-rgb-masks"
        modes = [tally.labels[path]["mode"] for path in files]
        title, remedy = _grey_masks(split, sorted(r for r, _, _ in colours), modes)
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


def _grey_masks(split: Split, levels: Sequence[int], modes: Sequence[str]) -> tuple[str, str]:
    """Return what masks of grey levels in several channels are, and what mends them."""
    if len(levels) == 1 and all("A" in mode for mode in modes):
        title = "Masks hold one colour: they are drawn in an alpha channel"
        return title, "store the alpha channel alone: 0 where it is 0, 1 elsewhere"
    table = _colour_table(_grey_classes(levels, split))
    title = "Masks are grey pictures stored with several channels"
    return title, f"{split.key}.palette_to_index = {table}"


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
        _two_classes(split, 255),
        tuple(tally.values["255"].files), tally.values["255"].num_files,
    )  # fmt: skip


def _two_values(split: Split, tally: Tally) -> Finding | None:
    """Recognise binary masks with some other value for the foreground."""
    if len(tally.values) != 2 or len(tally.strays) != 1 or "0" not in tally.values:
        return None
    raw = next(iter(tally.strays))
    return _stray_finding(
        split, tally, "binary-masks", f"Binary masks hold 0 and {raw}",
        _two_classes(split, int(raw)) if _fits_8_bits(raw) else _stored_again({"0": 0, raw: 1}),
    )  # fmt: skip


def _two_classes(split: Split, level: int) -> str:
    """Return the lines by which a binary mask is background and one class."""
    lines = [*unshifted(split), f"{split.key}.label_map = {{{level}: 1}}"]
    classes = split.rules.classes
    if len(classes) == 1:
        two = ("background", classes[0])
        lines.append(f"{split.key}.metainfo = dict(classes={two}, palette=None)")
        lines += num_classes_lines(split, 2)
    return "\n".join(lines) + "  # with two classes, background first"


def _shifted(split: Split) -> list[str]:
    """Return the lines by which zero is reduced, in the data set and in the pipeline."""
    lines = [f"{split.key}.reduce_zero_label = True"]
    if split.rules.pipeline_reduces is False:
        lines.append(f"{step_key(split, 'LoadAnnotations')}.reduce_zero_label = True")
    return lines


def _fits_8_bits(raw: str) -> bool:
    return raw.isdigit() and int(raw) < 256


def _stored_again(values: Mapping[str, int]) -> str:
    """Return the step for values that no setting can map, as a label map holds 8 bits."""
    table = ", ".join(f"{raw}: {new}" for raw, new in values.items())
    return f"store the labels again as PNG of 8 bits, with these values: {{{table}}}"


def _reduced_twice(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks that start at 0 already, and are shifted once more.

    Either 255 is there, or every value of the classes as they are and not the one after them.
    """
    num_classes = len(split.rules.classes)
    values = tally.values
    if not split.rules.reduce_zero_label or "0" not in values or str(num_classes) in values:
        return None
    whole = num_classes > 2 and all(str(k) in values for k in range(num_classes))
    if num_classes < 2 or not (whole or "255" in values):
        return None
    seen = "255" if "255" in values else "0"
    held = f"0..{num_classes - 1}" + " and 255" * (seen == "255")
    return Finding(
        "reduce-zero-label-twice", "warning", split.name,
        "The labels look as if zero had been reduced already",
        f"they hold {held}, not {num_classes}, and reduce_zero_label=True turns 0 "
        f"({values['0'].pixels} px) into ignored pixels and every k into k - 1",
        "\n".join(unshifted(split)) + f"  # they hold {held}",
        tuple(values[seen].files), values[seen].num_files,
    )  # fmt: skip


def shifted_or_not(findings: Sequence[Finding], num_train: int) -> list[Finding]:
    """Make an error of labels that are shifted twice, where all training sets say so.

    A part of the data may lack the last class, so what one part says is a warning.

    Args:
        findings: Of all data sets.
        num_train: Training sets among them.
    """
    twice = [finding for finding in findings if finding.code == "reduce-zero-label-twice"]
    said = sum(finding.split.startswith("train") for finding in twice)
    if not num_train or said < num_train:
        return list(findings)
    return [replace(f, severity="error") if f in twice else f for f in findings]


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


def _stray_finding(split: Split, tally: Tally, code: Code, title: str, remedy: str) -> Finding:
    """Make the finding of a cause, with the values outside the classes and their files."""
    top = len(split.rules.classes) - 1
    detail = f"the classes are 0..{top}, ignored is {split.rules.ignore_index}; "
    detail += f"the labels also hold {_shown(tally)}"
    return Finding(
        code, "error", split.name, title, detail, remedy, _files(tally), _num_files(tally)
    )


def _mapped(split: Split, tally: Tally, more: Mapping[int, int]) -> str:
    """Write the lines that map raw values, with what the data set does to them already.

    A shift does not go together with a map, so that it is written out as one.
    """
    before = dict(split.rules.raw_map or {})
    if split.rules.reduce_zero_label:
        top = max([len(split.rules.classes), *(v for v in _whole_values(tally) if v < 255)])
        before = {0: 255, **{value: value - 1 for value in range(1, top + 1)}}
    return "\n".join([*unshifted(split), f"{split.key}.label_map = { ({**before, **more}) }"])


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
        _train_ids(split),
    )  # fmt: skip


def _train_ids(split: Split) -> str:
    """Return the line that takes Cityscapes' train ids, and the command that makes them."""
    root = getattr(split.dataset, "data_root", None) or "data/cityscapes"
    return (
        f"{split.key}.seg_map_suffix = '_gtFine_labelTrainIds.png'\n"
        f"made by: python tools/dataset_converters/cityscapes.py {root}"
    )


def _zero_not_reduced(split: Split, tally: Tally) -> Finding | None:
    """Recognise labels 0..K for K classes: one too many."""
    num_classes = len(split.rules.classes)
    rules = split.rules
    if set(tally.strays) != {str(num_classes)} or rules.reduce_zero_label or rules.raw_map:
        return None
    if "0" not in tally.values:
        return _stray_finding(
            split, tally, "reduce-zero-label-missing", "Labels are counted from 1, not from 0",
            "\n".join(_shifted(split)) + "  # k becomes class k - 1, 0 would be ignored",
        )  # fmt: skip
    shifts = "\n".join(f"{line}  # if 0 means other or unlabelled" for line in _shifted(split))
    ignoring = _mapped(split, tally, {num_classes: 255})
    return _stray_finding(
        split, tally, "reduce-zero-label-missing",
        f"Labels go to {num_classes}, one more than {num_classes} classes have",
        f"{shifts}\n{ignoring}  # if {num_classes} means unlabelled\n"
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
    table = {value: value // step for value in values if value}
    return _stray_finding(
        split, tally, "spread-out-masks", f"Mask values are multiples of {step}",
        "\n".join([*unshifted(split), f"{split.key}.label_map = {table}"]) if max(values) < 256
        else _stored_again({str(value): value // step for value in values}),
    )  # fmt: skip


def _instance_ids(split: Split, tally: Tally) -> Finding | None:
    strays = _whole_values(tally, strays=True)
    if not strays or max(strays) < 1000:
        return None
    return _stray_finding(
        split, tally, "instance-ids", "Label files hold instance ids (values above 1000)",
        _train_ids(split) if getattr(split.dataset, "seg_map_suffix", "").startswith("_gtFine_")
        else f"take the files of semantic labels, with one class a pixel: name their folder by "
        f"{split.key}.data_prefix.seg_map_path, the end of their names by "
        f"{split.key}.seg_map_suffix",
    )  # fmt: skip


def _unknown(split: Split, tally: Tally) -> Finding | None:
    """List values that no check recognised."""
    if not tally.strays:
        return None
    strays = sorted(_whole_values(tally, strays=True))
    if all(map(_fits_8_bits, tally.strays)):
        remedy = _mapped(split, tally, dict.fromkeys(strays, 255))
        remedy += "  # to ignore them\nor add the missing classes to "
        remedy += f"{split.key}.metainfo.classes and to num_classes"
    else:
        remedy = _stored_again(dict.fromkeys(list(tally.strays)[:8], 255)) + " to ignore them"
    return _stray_finding(
        split, tally, "stray-labels", f"Label values outside the classes: {len(tally.strays)}",
        remedy,
    )  # fmt: skip


_CHECKS: tuple[Check, ...] = (
    _instance_ids, _label_ids, _smeared, _zero_not_reduced, _spread_out, _unknown,
)  # fmt: skip
