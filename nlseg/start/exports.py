"""Pairs of a folder, whatever holds its labels: masks, or an export of a labelling tool."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from nlseg.errors import DataError, UserError
from nlseg.intake.class_masks import ClassMasks, find_class_masks
from nlseg.intake.object_masks import find_object_masks
from nlseg.intake.rows import SPLITS, read_json
from nlseg.intake.writing import Written, import_export, recognise
from nlseg.pictures import IMAGE_SUFFIXES
from nlseg.start.binary import as_two_classes
from nlseg.start.layout import (
    Layout,
    Pair,
    Where,
    find_layout,
    folders_between,
    names_below,
    published_root,
)
from nlseg.start.lists import take_lists
from nlseg.start.names import Names, find_names
from nlseg.start.progress import take_long, tell
from nlseg.start.readings import Reading, Unclear
from nlseg.start.request import Request

_JSONS = 1000
_SHOWN = 4
_MASKS = ("masks", "labels", "annotations")


def read_layout(request: Request, *, progress: bool = False) -> tuple[Layout, Names | None]:
    """Return the pairs of a folder, those of an export after it is turned into masks.

    Args:
        request: What is asked for.
        progress: Say what takes a while.

    Returns:
        The pairs, and the names of the classes where something gives them.

    Raises:
        UserError: The folder cannot be used.
        Unclear: It can be understood in several ways.
    """
    folder, where = request.folder, request.where
    of_masks = where.masks or where.image_suffix or where.mask_suffix
    kind, broken = request.kind, ""
    if kind is None and not of_masks:
        kind, broken = _export_kind(folder)
    if kind not in (None, "masks"):
        _check_options(request, str(kind))
        return _imported(request, str(kind), progress=progress)
    published = None if any(where) else published_root(folder)
    if kind is None and published is None and not any(where):
        _ask_about_classes(request)
    try:
        folder = published or folder
        layout = find_layout(folder, where, request.files)
        masks = [pair.mask for pair in layout.pairs]
        take_lists(folder, layout)
        if request.binary is not None:
            tell(f"writing {len(masks)} masks of two classes", wanted=progress and take_long(masks))
            as_two_classes(layout, request.binary, request.files)
        below = folders_between(folder, masks)
        return layout, find_names(folder, request.classes, below)
    except Unclear:
        raise
    except UserError as error:
        if broken:
            raise UserError(f"{broken}; correct the file, or remove it") from error
        raise


def _ask_about_classes(request: Request) -> None:
    """Ask where images have several masks of two values: of classes, of people, or of objects.

    Raises:
        Unclear: They have.
    """
    folder = request.folder
    if not folder.is_dir():
        return
    try:
        found = find_class_masks(folder, names_below(folder, request.files))
        objects = find_object_masks(folder, names_below(folder, request.files))
    except (DataError, OSError):  # of a folder, which is told where pairs are looked for
        return
    if found is None and not objects:
        return
    readings, images, count = [], len(objects), sum(map(len, objects.values()))
    if found is not None:
        images, count = len(found.images), sum(map(len, found.masks.values()))
        readings = [
            Reading(f"a class each: {', '.join(found.masks)}", ("--format", "class-masks")),
            *(one for name in list(found.masks)[:_SHOWN] for one in _alone(request, found, name)),
        ]
    if objects:
        readings.append(Reading("an object each, all of one class", ("--format", "object-masks")))
    readings.append(Reading("something else", ("--format", "masks")))
    raise Unclear(
        f"{folder}: {images} images have {count} masks of two values; what are they?", readings
    )


def _alone(request: Request, found: ClassMasks, name: str) -> Iterator[Reading]:
    """Yield the reading that only the masks of one name count, if options can say it."""
    place, end = found.groups[name]
    mask, image = next(iter(found.masks[name].values())), next(iter(found.images.values()))
    above = image.parent.relative_to(request.folder).as_posix()
    below = mask.parent.relative_to(request.folder).as_posix()
    ways = [
        Where(images=above, masks=place),
        Where(images=above, masks=below),
        Where(image_suffix=image.suffix, mask_suffix=f"{end}{mask.suffix}"),
        Where(images=above, masks=below, mask_suffix=f"{end}{mask.suffix}"),
    ]
    for where in ways:
        try:
            layout = find_layout(request.folder, where, request.files)
        except UserError:
            continue
        if {pair.mask for pair in layout.pairs} <= set(found.masks[name].values()):
            yield Reading(f"{name} alone ({len(layout.pairs)} pairs)", where.options())
            return


def _check_options(request: Request, kind: str) -> None:
    """Refuse options that an export leaves nothing to say about.

    Raises:
        UserError: Names the option.
    """
    where = request.where
    for option, value in (
        ("--masks", where.masks),
        ("--image-suffix", where.image_suffix),
        ("--mask-suffix", where.mask_suffix),
        ("--classes", request.classes if kind != "labelme" else None),
        ("--binary", request.binary),
    ):
        if value is not None:
            raise UserError(
                f"{option} {value}: an export of {kind} says that itself; leave the option out, or "
                "give --format masks where masks are the labels"
            )


def _export_kind(folder: Path) -> tuple[str | None, str]:
    """Return the format of an export, if it is one; if not, what is wrong with a JSON file."""
    labelmap = (folder / "labelmap.txt").is_file()
    jsons = [folder] if folder.suffix == ".json" else sorted(folder.rglob("*.json"))
    jsons = [file for file in jsons if file.name != "classes.json"][:_JSONS]
    if not jsons and not labelmap:
        return None, ""
    try:
        kind = recognise(folder).kind
    except UserError as error:
        if "COCO files" in str(error):  # several of them: one has to be named
            raise
        return None, next(filter(None, map(_damage, jsons)), "")
    masks = next((name for name in _MASKS if any((folder / name).glob("**/*.png"))), None)
    if kind != "cvat" and masks is not None:
        raise Unclear(
            f"{folder}: holds an export ({kind}) and masks in {masks}; which are the labels?",
            [Reading(f"the {kind} files", ("--format", kind)),
             Reading(f"the masks in {masks}", ("--format", "masks"))],
        )  # fmt: skip
    return kind, ""


def _damage(file: Path) -> str:
    """Say what is wrong with a JSON file, nothing where it can be read."""
    try:
        read_json(file)
    except DataError as error:
        return str(error)
    return ""


def _imported(request: Request, kind: str, *, progress: bool) -> tuple[Layout, Names | None]:
    folder, target = request.folder, request.files / "import"
    if target.exists():
        shutil.rmtree(target)  # of a plan that was interrupted
    images = Path(request.where.images) if request.where.images else None
    if images is not None and not images.is_dir():
        images = folder / images
    names = find_names(folder, request.classes) if kind == "labelme" else None
    there = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    of_masks = {
        "class-masks": "masks of one class each",
        "object-masks": "masks of one object each",
    }
    what = of_masks.get(kind, f"an export of {kind}")
    tell(f"turning {what} into masks", wanted=progress and take_long(there))
    written = import_export(
        folder, target, unlabelled=request.unlabelled, images=images,
        classes=names.listed if names else None, kind=kind,
        progress=progress,
    )  # fmt: skip
    layout = Layout(what, _pairs(written, target))
    _note(layout, request, written, target, kind)
    if written.given:
        left = len(layout.pairs)
        layout.pairs = [pair for pair in layout.pairs if pair.split]
        left -= len(layout.pairs)
        if left:
            layout.notes.append(f"{left} pairs that no list names are left out")
    elif folder.is_dir():
        take_lists(folder, layout)
    values = {name: i for i, name in enumerate(written.classes)}
    return layout, Names(what, list(written.classes), values)


def _pairs(written: Written, target: Path) -> list[Pair]:
    """Return the pairs with the splits that the export gives, or that the folders say."""
    split_of = {name: split for split, listed in written.given.items() for name in listed}
    files = {p.relative_to(target / "images").with_suffix("").as_posix(): p
             for p in (target / "images").rglob("*") if p.is_file()}  # fmt: skip
    pairs = []
    for name, image in files.items():
        words = (part.lower() for part in name.split("/")[:-1])
        split = next((SPLITS[word] for word in words if word in SPLITS), "")
        split = split_of.get(name, "") if split_of else split
        pairs.append(Pair(name, image, target / "labels" / f"{name}.png", split))
    return sorted(pairs)


def _note(layout: Layout, request: Request, written: Written, target: Path, kind: str) -> None:
    """Note what became of pixels, rows and images without labels."""
    rest = "class 0, background" if request.unlabelled == 0 else "ignored"
    layout.notes.append(
        f"what nobody labelled is {rest}; the other way: --unlabelled {255 - request.unlabelled}"
    )
    layout.notes += written.notes
    if written.unreadable:
        layout.notes.append(
            f"{len(written.unreadable)} rows are left out, see {target / 'unreadable.txt'}"
        )
    if (
        kind in ("cvat", "class-masks", "object-masks") or request.folder.is_file()
    ):  # masks are pictures, too
        return
    names = names_below(request.folder, request.files)
    files = [request.folder / name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    lacking = [file for file in files if file.resolve() not in written.sources]
    if lacking:
        layout.notes.append(
            f"{len(lacking)} images without labels are left out, such as {min(lacking)}"
        )
