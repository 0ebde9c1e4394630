"""Images, indexed label maps, lists and a config, as a data set of nlseg reads them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from pprint import pformat

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from tqdm import tqdm

from nlseg.config.published import find_config
from nlseg.datasets.transforms.decode import picture_to_array, shown_size
from nlseg.errors import ConfigError, DataError, UserError
from nlseg.files import in_use, write_file
from nlseg.intake.class_masks import read_class_masks
from nlseg.intake.coco import find_splits, read_coco
from nlseg.intake.cvat import LABELS, MASKS, read_cvat
from nlseg.intake.labelme import read_labelme
from nlseg.intake.object_masks import read_object_masks
from nlseg.intake.rows import Export, Labelled, printable, read_json
from nlseg.label_png import encode_label
from nlseg.ops.resize import Size
from nlseg.pictures import open_picture
from nlseg.visualization.pictures import make_palette

BASE = "nonlocal_r50-d8_4xb4-20k_voc12aug-512x512"
FORMATS = ("coco", "labelme", "cvat", "class-masks", "object-masks")
_MAX_CLASSES = 255
_BATCH = 16


@dataclass
class Written:
    """What was made of an export.

    Args:
        classes: Names of the classes.
        names: Images of each split.
        given: The same as the export says it, empty where it says nothing.
        unlisted: Images that are in none of the splits, as the export gives others.
        sizes: Sizes that occur, (height, width) in px.
        sources: Files of the images that the export names and that are there.
        unreadable: Rows that were left out, each with file and line.
        notes: What else the export says, a sentence each.
    """

    classes: tuple[str, ...]
    names: dict[str, list[str]] = field(default_factory=dict)
    given: dict[str, list[str]] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)
    sizes: set[Size] = field(default_factory=set)
    sources: set[Path] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recognised:
    """What a path is an export of.

    Args:
        kind: One of ``FORMATS``.
        place: Its file or folder.
        damaged: JSON files beside it that could not be read, each with the reason.
        files: COCO's file of each split, see ``nlseg.intake.coco.find_splits``.
    """

    kind: str
    place: Path
    damaged: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


def recognise(source: Path, kind: str | None = None) -> Recognised:
    """Return the format of an export, and its file or folder.

    Args:
        source: File or folder.
        kind: The format, where it is said.

    Raises:
        UserError: It is none of the formats, or several.
    """
    if kind in (None, "coco") and source.suffix == ".json" and source.is_file():
        return Recognised("coco", source, files={"": source})
    if not source.is_dir():
        raise UserError(
            f"{source}: is neither a folder nor a COCO .json file (unpack archives first)"
        )
    if kind is None and (source / LABELS).is_file() and (source / MASKS).is_dir():
        kind = "cvat"
    if kind not in (None, "coco"):
        return Recognised(kind, source)
    coco, labelme, damaged = _json_files(source)
    files = find_splits(coco)
    if files and (kind or not labelme):
        return Recognised("coco", files.get("", source), damaged, files)
    if labelme and not coco:
        return Recognised("labelme", source)  # tells of the others itself
    if coco:
        listed = ", ".join(map(str, coco[:4]))
        more = f" beside {labelme} files of LabelMe" if labelme else ""
        raise UserError(
            f"{source}: holds {len(coco)} COCO files{more}; name one ({listed}), or leave one for "
            "each split, with train, val or test in its name or its folder's"
        )
    unread = "".join(f"\n  not read: {why}" for why in damaged[:4])
    raise UserError(
        f"{source}: no export of COCO (.json), LabelMe (.json beside images) or CVAT's masks "
        f"({LABELS} and {MASKS}); for masks of one class each: --format class-masks, of one "
        f"object each: --format object-masks{unread}"
    )


def _json_files(folder: Path) -> tuple[list[Path], int, list[str]]:
    """Return COCO's files below a folder, how many of LabelMe there are, and what is unreadable."""
    coco: list[Path] = []
    damaged: list[str] = []
    labelme = 0
    for file in sorted(folder.rglob("*.json")):
        try:
            values, _ = read_json(file)
        except DataError as error:
            damaged.append(str(error))
            continue
        keys = values.keys() if isinstance(values, dict) else set()
        if keys >= {"images", "annotations", "categories"}:
            coco.append(file)
        labelme += "shapes" in keys
    return coco, labelme, damaged


def import_export(
    source: Path, target: Path, *, unlabelled: int = 0, images: Path | None = None,
    classes: Sequence[str] | None = None, validate: float = 0.2, kind: str | None = None,
    progress: bool = False,
) -> Written:  # fmt: skip
    """Turn an export into images, label maps, lists and a config.

    Args:
        source: COCO's .json file, or a folder.
        target: New or empty folder: ``images``, ``labels``, ``train.txt``, ``val.txt``,
            ``config.py``, ``test.txt`` where the export has a test split beside one to validate,
            and ``unreadable.txt`` where rows are left out.
        unlabelled: 0: what nobody labelled is class 0, ``background``; 255: it is ignored.
        images: Folder of the images, where they do not lie where the format says.
        classes: Names in their order, for LabelMe.
        validate: Share of the images that validate, in (0, 1), where the export has no splits.
        kind: One of ``FORMATS``; None recognises it.
        progress: Show a bar, on a terminal.

    Returns:
        What was written.

    Raises:
        UserError: The target is in use, the export is none, or nothing in it can be read.
    """
    if unlabelled not in (0, 255):
        raise ConfigError(f"--unlabelled: {unlabelled} is neither 0 nor 255")
    if not 0 < validate < 1:
        raise ConfigError(f"--val: {validate} is no share between 0 and 1")
    if why := in_use(target):
        raise UserError(f"{target}: {why}; give a new folder")
    found = recognise(source, kind)
    export, labelled = _read(found, unlabelled, images, classes)
    export.unreadable.extend(found.damaged)
    if len(export.classes) > _MAX_CLASSES:
        raise DataError(
            f"{found.place}: names {len(export.classes)} classes; at most {_MAX_CLASSES} fit"
        )
    written = Written(export.classes)
    drawn = make_palette(len(export.classes))
    palette: Sequence[Sequence[int]] = export.palette or drawn.tolist()
    bar = tqdm(labelled, unit="image", disable=None if progress else True)
    files = dict(_write(bar, target, np.array(palette), export, written))
    written.unreadable = list(map(printable, export.unreadable))
    written.notes = list(map(printable, export.notes))
    if not files:
        told = "\n  ".join(written.unreadable[:8])
        raise DataError(f"{found.place}: no image in it can be used\n  {told}")
    suffix = _one_suffix(files)
    written.given = _given(sorted(files), export)
    written.names = _split(sorted(files), written.given, validate)
    listed = set().union(*written.names.values())
    written.unlisted = [name for name in sorted(files) if name not in listed]
    for split, names in written.names.items():
        write_file(target / f"{split}.txt", "\n".join(names) + "\n")
    if written.unreadable:
        write_file(target / "unreadable.txt", "\n".join(written.unreadable) + "\n")
    write_file(target / "config.py", config_text(target, written, palette, suffix, source))
    return written


def _read(
    found: Recognised, unlabelled: int, images: Path | None, classes: Sequence[str] | None
) -> tuple[Export, Iterator[Labelled]]:
    kind, place = found.kind, found.place
    if images is not None and not images.is_dir():
        raise UserError(f"--images: there is no folder {images}")
    if classes and kind != "labelme":
        raise UserError(f"--classes: {place} names its classes itself; leave the option out")
    if images is not None and kind in ("class-masks", "object-masks"):
        raise UserError(f"--images: images are looked for in {place}; leave the option out")
    if kind == "coco":
        return read_coco(found.files, images, unlabelled=unlabelled)
    if kind == "labelme":
        return read_labelme(place, images, unlabelled=unlabelled, classes=classes)
    if kind == "class-masks":
        return read_class_masks(place, unlabelled=unlabelled)
    if kind == "object-masks":
        return read_object_masks(place, unlabelled=unlabelled)
    return read_cvat(place, images, unlabelled=unlabelled)


def _write(
    labelled: Iterable[Labelled], target: Path, palette: np.ndarray, export: Export, done: Written
) -> Iterator[tuple[str, Path]]:
    """Write each image and its label map; yield the name and the image's file."""
    taken: set[str] = set()
    for one in labelled:
        where = one.image if isinstance(one.image, Path) else (one.source or Path(one.name))
        done.sources.add(where.resolve())
        try:
            if printable(one.name) != one.name:
                raise ValueError("has a name that is not UTF-8; rename it")
            data = one.image.read_bytes() if isinstance(one.image, Path) else one.image
            with open_picture(BytesIO(data)) as picture:
                size, suffix = shown_size(picture), f".{str(picture.format).lower()}"
                turned = size != (picture.height, picture.width)
        except (OSError, ValueError, SyntaxError) as error:
            why = (
                "is no picture that can be read"
                if isinstance(error, UnidentifiedImageError)
                else error
            )
            export.leave_out(where, 1, f"its image: {why}")
            continue
        if size != one.label.shape:
            height, width = one.label.shape
            how = ", as its EXIF tag turns it" * turned
            mend = "; remove the tag, or label it as it is shown" * turned
            export.leave_out(
                where, 1, f"is {size[0]} x {size[1]} px{how}, labelled as {height} x {width}{mend}"
            )
            continue
        if one.name in taken:
            export.leave_out(where, 1, f"a second image named {one.name}")
            continue
        taken.add(one.name)
        done.sizes.add(size)
        label, image = (target / folder / one.name for folder in ("labels", "images"))
        for path in (label, image):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_file(label.with_name(f"{label.name}.png"), encode_label(one.label, palette))
        kept = where.suffix.lower() if where is one.image else suffix.replace(".jpeg", ".jpg")
        image = image.with_name(f"{image.name}{kept}")
        image.write_bytes(data)
        yield one.name, image


def _one_suffix(files: dict[str, Path]) -> str:
    """Return the suffix of all images; where they have several, all become PNG."""
    suffixes = {path.suffix for path in files.values()}
    if len(suffixes) == 1:
        return suffixes.pop()
    for name, path in files.items():
        if path.suffix != ".png":
            with path.open("rb") as file, open_picture(file) as picture:
                array = picture_to_array(picture, "color")
            PillowImage.fromarray(array[..., ::-1]).save(path.with_suffix(".png"))
            path.unlink()
            files[name] = path.with_suffix(".png")
    return ".png"


def _given(names: Sequence[str], export: Export) -> dict[str, list[str]]:
    """Return the images of each split that an export says."""
    listed = {split: set(export.splits.get(split, ())) for split in ("train", "val", "test")}
    given = {split: [name for name in names if name in there] for split, there in listed.items()}
    return {split: found for split, found in given.items() if found}


def _split(
    names: list[str], given: Mapping[str, list[str]], validate: float
) -> dict[str, list[str]]:
    """Return the images of each split: the given ones, or every n-th image validates.

    Args:
        names: Of all images.
        given: Splits of the export; a test split validates where none is for that.
        validate: Share of the images that validate where nothing is given.
    """
    if "train" in given and len(given) > 1:
        return dict(given) if "val" in given else {"train": given["train"], "val": given["test"]}
    if len(names) == 1:
        return {"train": names, "val": names}
    step = max(2, round(1 / validate))
    chosen = names[step - 1 :: step] or names[-1:]
    return {"train": [name for name in names if name not in set(chosen)], "val": chosen}


def config_text(
    target: Path,
    written: Written,
    palette: Sequence[Sequence[int]],
    suffix: str,
    source: Path,
) -> str:
    """Write the config that trains on an imported data set.

    Args:
        target: Folder of the data set.
        written: Its classes and sizes.
        palette: RGB colour of each class.
        suffix: Of the images.
        source: What it was made of.
    """
    height, width = (max(size[axis] for size in written.sizes) for axis in (0, 1))
    crop = tuple(min(512, -(-side // 8) * 8) for side in (height, width))
    colours = [[int(level) for level in colour] for colour in palette]
    metainfo = pformat({"classes": written.classes, "palette": colours}, width=96, compact=True)
    count = len(written.classes)
    batch = max(1, min(_BATCH, len(written.names["train"])))
    one = written.names["train"] == written.names["val"]
    has_test = written.names.get("test", written.names["val"]) != written.names["val"]
    test = "dict(dataset={**val_dataloader['dataset'], 'ann_file': 'test.txt'})"
    test = test if has_test else "val_dataloader"
    shared = "data_check = 'warn'  # the one image trains and validates: no score counts\n"
    return f"""# Made of {printable(str(source))} by nlseg import; every value may be changed.
_base_ = {str(find_config(BASE))!r}
data_root = {str(target.resolve())!r}
crop_size = {crop}  # height, width: that of the largest image, at most 512
metainfo = {metainfo}
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes={count}),
    auxiliary_head=dict(num_classes={count}))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=({width}, {height}),  # width, height of the largest image
        ratio_range=(0.5, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size={min(4, batch)},
    dataset=dict(
        _delete_=True, type='BaseSegDataset', data_root=data_root, metainfo=metainfo,
        ann_file='train.txt', img_suffix={suffix!r}, seg_map_suffix='.png',
        data_prefix=dict(img_path='images', seg_map_path='labels'), pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        _delete_=True, type='BaseSegDataset', data_root=data_root, metainfo=metainfo,
        ann_file='val.txt', img_suffix={suffix!r}, seg_map_suffix='.png',
        data_prefix=dict(img_path='images', seg_map_path='labels'), pipeline=test_pipeline))
test_dataloader = {test}
{shared if one else ""}"""
