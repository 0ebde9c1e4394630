"""What is wrong with label values, by the name of its cause."""

from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.doctor.stray_causes import stray_cause, stray_finding, whole_values
from nlseg.doctor.tally import Tally


def label_causes(split: Split, tally: Tally) -> list[Finding]:
    """Name what is wrong with the values of a split's labels.

    Values outside the classes are looked at unless masks of two values explain them.
    """
    findings = [check(split, tally) for check in (_twice_configured, _painted, _lost_colours)]
    values = [check(split, tally) for check in (_binary, _two_values)]
    if not any(values):
        values = [stray_cause(split, tally)]
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
    if not tally.painted:
        code, title = "palette-by-cv2", "Palette masks are decoded to colours (imdecode_backend)"
        remedy = f"in {split.key}.pipeline: dict(type='LoadAnnotations'), without imdecode_backend"
    elif all(r == g == b for r, g, b in colours):
        code, title = "grey-rgb-masks", "Masks are grey pictures stored with several channels"
        table = ", ".join(f"({r}, {g}, {b}): {r}" for r, g, b in sorted(colours)[:4])
        remedy = f"{split.key}.palette_to_index = {{{table}, ...}}, or store them with one channel"
    elif colours <= set(split.rules.palette) | {(0, 0, 0), (255, 255, 255)}:
        code, title = "rgb-masks", "Masks are painted in the palette's colours (RGB masks)"
        remedy = f"{split.key}.palette_to_index = True"
    elif len(colours) > 256:
        code, title = "pictures-as-masks", "Label files look like pictures: too many colours"
        remedy = f"check {split.key}.data_prefix.seg_map_path; masks must not be saved as JPEG"
    else:
        code, title = "rgb-masks", "Masks are painted in colours (RGB masks)"
        table = ", ".join(f"{colour}: {i}" for i, colour in enumerate(sorted(colours)[:4]))
        remedy = f"{split.key}.palette_to_index = {{{table}, ...}}  # RGB: class, 255 to ignore"
    total = len(tally.labels)
    if len(files) < 0.5 * total:
        title = f"{title}: {len(files)} of {total}"
        remedy = "store these masks like the others, with one value per pixel"
    named = sorted(colours)[:6]
    detail = f"{len(colours)} colours, such as {', '.join(map(str, named))}" if named else ""
    return Finding(
        code, "error", split.name, title, detail, remedy, tuple(sorted(files)[:8]), len(files)
    )


def _lost_colours(split: Split, tally: Tally) -> Finding | None:
    if not tally.lost_colours:
        return None
    listed = sorted(tally.lost_colours.items(), key=lambda item: -item[1].pixels)
    text = ", ".join(f"{c} ({s})" for c, s in listed[:8])
    files = tuple(dict.fromkeys(file for _, spread in listed for file in spread.files))[:8]
    return Finding(
        "lost-colours", "error", split.name,
        f"Colours that are not in palette_to_index: {len(listed)}", text,
        f"{split.key}.palette_to_index: add {listed[0][0]}: <class>, or 255 to ignore it",
        files, max(spread.num_files for _, spread in listed),
    )  # fmt: skip


def _binary(split: Split, tally: Tally) -> Finding | None:
    """Recognise masks of 0 and 255 whose foreground is ignored or outside the classes."""
    values = whole_values(tally)
    rules = split.rules
    if set(values) != {0, 255} or rules.label_map or rules.palette_to_index:
        return None
    return Finding(
        "binary-masks", "error", split.name,
        "Binary masks hold 0 and 255, so that the foreground is ignored",
        f"0 on {values[0]} px, 255 on {values[255]} px; 255 does not train and does not count",
        f"{split.key}.label_map = {{255: 1}}  # with two classes, background first",
        tuple(tally.values["255"].files), tally.values["255"].num_files,
    )  # fmt: skip


def _two_values(split: Split, tally: Tally) -> Finding | None:
    """Recognise binary masks with some other value for the foreground."""
    if len(tally.values) != 2 or len(tally.strays) != 1 or "0" not in tally.values:
        return None
    raw = next(iter(tally.strays))
    return stray_finding(
        split, tally, "binary-masks", f"Binary masks hold 0 and {raw}",
        f"{split.key}.label_map = {{{raw}: 1}}  # with two classes, background first",
    )  # fmt: skip


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
