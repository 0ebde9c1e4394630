"""Pairs of a folder, whatever holds its labels: masks, or an export of a labelling tool."""

import shutil
from pathlib import Path

from nlseg.errors import DataError, UserError
from nlseg.intake.rows import read_json
from nlseg.intake.writing import import_export, recognise
from nlseg.start.layout import Layout, Pair, find_layout
from nlseg.start.lists import take_lists
from nlseg.start.names import Names, find_names
from nlseg.start.readings import Reading, Unclear
from nlseg.start.request import Request

_JSONS = 1000
_MASKS = ("masks", "labels", "annotations")


def read_layout(request: Request) -> tuple[Layout, Names | None]:
    """Return the pairs of a folder, those of an export after it is turned into masks.

    Args:
        request: What is asked for.

    Returns:
        The pairs, and the names of the classes where something gives them.

    Raises:
        UserError: The folder cannot be used.
        Unclear: It can be understood in several ways.
    """
    folder = request.folder
    kind, broken = request.kind, ""
    if kind is None:
        kind, broken = _export_kind(folder)
    if kind not in (None, "masks"):
        return _imported(request, str(kind))
    try:
        layout = find_layout(folder, request.where)
        take_lists(folder, layout)
        return layout, find_names(folder, request.classes)
    except Unclear:
        raise
    except UserError as error:
        if broken:
            raise UserError(f"{broken}; correct the file, or remove it") from error
        raise


def _export_kind(folder: Path) -> tuple[str | None, str]:
    """Return the format of an export, if it is one; and what is wrong with a JSON file in it."""
    labelmap = (folder / "labelmap.txt").is_file()
    jsons = [folder] if folder.suffix == ".json" else sorted(folder.rglob("*.json"))
    jsons = [file for file in jsons if file.name != "classes.json"][:_JSONS]
    if not jsons and not labelmap:
        return None, ""
    broken = next(filter(None, map(_damage, jsons)), "")
    try:
        kind, _ = recognise(folder)
    except UserError as error:
        if "COCO files" in str(error):  # several of them: one has to be named
            raise
        return None, broken
    masks = next((name for name in _MASKS if any((folder / name).glob("**/*.png"))), None)
    if kind != "cvat" and masks is not None:
        raise Unclear(
            f"{folder}: holds an export ({kind}) and masks in {masks}; which are the labels?",
            [Reading(f"the {kind} files", ("--format", kind)),
             Reading(f"the masks in {masks}", ("--format", "masks"))],
        )  # fmt: skip
    return kind, broken


def _damage(file: Path) -> str:
    """Say what is wrong with a JSON file, nothing where it can be read."""
    try:
        read_json(file)
    except DataError as error:
        return str(error)
    return ""


def _imported(request: Request, kind: str) -> tuple[Layout, Names | None]:
    target = request.files / "import"
    if target.exists():
        shutil.rmtree(target)  # of a plan that was interrupted
    images = Path(request.where.images) if request.where.images else None
    if images is not None and not images.is_dir():
        images = request.folder / images
    names = (
        find_names(request.folder, request.classes)
        if kind == "labelme" and request.classes
        else None
    )
    written = import_export(
        request.folder, target, unlabelled=request.unlabelled, images=images,
        classes=names.listed if names else None, kind=None if kind == "coco" else kind,
    )  # fmt: skip
    given = kind == "cvat" and all(
        (request.folder / "ImageSets/Segmentation" / f"{split}.txt").is_file()
        for split in ("train", "val")
    )
    files = {p.relative_to(target / "images").with_suffix("").as_posix(): p
             for p in (target / "images").rglob("*") if p.is_file()}  # fmt: skip
    pairs = [
        Pair(name, files[name], target / "labels" / f"{name}.png", split if given else "")
        for split, listed in written.names.items()
        for name in listed
    ]
    layout = Layout(f"an export of {kind}", sorted(set(pairs)))
    rest = "class 0, background" if request.unlabelled == 0 else "ignored"
    layout.notes.append(
        f"what nobody labelled is {rest}; the other way: --unlabelled {255 - request.unlabelled}"
    )
    if written.unreadable:
        layout.notes.append(
            f"{len(written.unreadable)} rows are left out, see {target / 'unreadable.txt'}"
        )
    source = f"the {kind} export"
    values = {name: i for i, name in enumerate(written.classes)}
    return layout, Names(source, list(written.classes), values)
