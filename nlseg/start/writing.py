"""Choices to a config of one page: every value with its reason, the rest inherited."""

import hashlib
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

from nlseg.config.published import find_config
from nlseg.files import write_file
from nlseg.ops.resize import Size
from nlseg.start.choose import Backbone, Choices
from nlseg.start.facts import DataFacts, colour_table
from nlseg.start.labels import Labels
from nlseg.start.layout import Pair, shared_start
from nlseg.start.loading import Loading
from nlseg.start.parts import Parts

WIDTH = 100
MOST_LINES = 80
RATIOS = (0.75, 1.5)
LOOKS = 4
"""Validations and checkpoints of a training."""
LOOKED_AT = 8
"""Images of a validation while it trains."""
CACHE = "cache"
"""Folder of decoded images, beside the lists."""
KEEP_DEPTH = ", color_type='unchanged'"
_MANY = 24
_LINK = ".img"


@dataclass(frozen=True)
class Place:
    """Where a config finds its files.

    Args:
        root: Folder that the others start from.
        images: Folder of the images, below it.
        masks: Folder of the masks, below it, or a whole path.
        image_suffix: End of the names of images.
        mask_suffix: End of the names of masks.
        stems: Name of a pair -> relative path without a suffix.
    """

    root: Path
    images: str
    masks: str
    image_suffix: str
    mask_suffix: str
    stems: dict[str, str]


@dataclass(frozen=True)
class Schedule:
    """How long a config trains, and in which parts.

    Args:
        iterations: Training steps.
        batch: Images of a part of a step.
        parts: Parts of a step whose gradients are added up.
        reason: The measurement behind it.
    """

    iterations: int
    batch: int
    parts: int
    reason: str


def place_pairs(root: Path, pairs: Sequence[Pair], files: Path) -> tuple[Place, str]:
    """Say where pairs are as two folders and two suffixes; link them where that cannot be said.

    Args:
        root: Folder of the data.
        pairs: Images and masks.
        files: Folder for links.

    Returns:
        The place, and a note about links, or nothing.
    """
    found = _expressed(root, pairs)
    if found is not None:
        return found, ""
    suffixes = [{p.suffix for p in paths} for paths in zip(*(x[1:3] for x in pairs), strict=True)]
    first, second = (s.pop() if len(s) == 1 else _LINK for s in suffixes)
    for pair in pairs:
        for folder, source, suffix in (("images", pair.image, first), ("masks", pair.mask, second)):
            link = files / folder / f"{pair.name}{suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(source.resolve())
    stems = {pair.name: pair.name for pair in pairs}
    note = f"the pairs are linked below {files}, as no two folders and suffixes name them"
    return Place(files.resolve(), "images", "masks", first, second, stems), note


def _expressed(root: Path, pairs: Sequence[Pair]) -> Place | None:
    images, masks = ([str(pair[i]) for pair in pairs] for i in (1, 2))
    ends = [_common_end(paths) for paths in (images, masks)]
    tops = [_common_folder(paths) for paths in (images, masks)]
    for shorten in (0, 1):  # suffixes with the words in them, or file types alone
        first, second = (end if not shorten else Path(end).suffix or end for end in ends)
        stems = {}
        for pair in pairs:
            a = os.path.relpath(pair.image, tops[0])
            b = os.path.relpath(pair.mask, tops[1])
            if not a.endswith(first) or not b.endswith(second):
                break
            a, b = a[: len(a) - len(first)], b[: len(b) - len(second)]
            if a != b or not Path(a).name:
                break
            stems[pair.name] = a
        else:
            if not Path(tops[0]).is_relative_to(root):  # made of an export
                root = Path(os.path.commonpath([os.path.abspath(top) for top in tops]))
            images_below, masks_below = (os.path.relpath(top, root) for top in tops)
            if masks_below.startswith(os.pardir):  # written anew, beside the config
                masks_below = os.path.abspath(tops[1])
            return Place(root.resolve(), images_below, masks_below, first, second, stems)
    return None


def _common_end(paths: Sequence[str]) -> str:
    """Return the end that all names have; at least the file type where they share it."""
    names = [os.path.basename(path) for path in paths]
    end = shared_start([name[::-1] for name in names])[::-1]
    if len(names) == 1:
        return Path(names[0]).suffix
    return end.lstrip("0123456789") if "." in end else ""


def _common_folder(paths: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def write_lists(parts: Parts, place: Place, files: Path) -> dict[str, Path]:
    """Write the list of each split; return the files."""
    files.mkdir(parents=True, exist_ok=True)
    found = {}
    splits = {"train": parts.train, "val": parts.val, "test": parts.test}
    for split, pairs in splits.items():
        found[split] = files / f"{split}.txt"
        write_file(found[split], "".join(f"{place.stems[pair.name]}\n" for pair in pairs))
    return found


def with_mark(text: str, lists: Mapping[str, Path]) -> str:
    """Add a line to a config that tells its plan from others, with what its lists hold."""
    held = [text, *(file.read_text(encoding="utf-8") for _, file in sorted(lists.items()))]
    mark = hashlib.sha256("\0".join(held).encode()).hexdigest()[:12]
    return f"{text}custom = dict(plan={mark!r})  # a run folder belongs to one plan\n"


def narrow_model(backbone: Backbone, num_classes: int) -> dict[str, Any]:
    """Return what a model config of a backbone's base changes for its channels and the classes."""
    decode: dict[str, Any] = {"num_classes": num_classes}
    auxiliary: dict[str, Any] = {"num_classes": num_classes}
    if num_classes == 2:  # meant so: heads warn of a choice that is open
        for head in (decode, auxiliary):
            head["out_channels"] = num_classes
    model: dict[str, Any] = {"decode_head": decode, "auxiliary_head": auxiliary}
    c = backbone.channels
    if c != 64:
        model["backbone"] = {"base_channels": c, "stem_channels": c}
        decode.update(in_channels=8 * c, channels=2 * c)
        auxiliary.update(in_channels=4 * c, channels=c)
    return model


def config_text(
    source: Path, place: Place, lists: dict[str, Path], labels: Labels, data: DataFacts,
    choices: Choices, schedule: Schedule, loading: Loading, heading: Sequence[str], split: str,
) -> str:  # fmt: skip
    """Write a config.

    Args:
        source: Folder of the data.
        place: Where the files are.
        lists: File of each split.
        labels: What values mean.
        data: What was measured.
        choices: What was chosen.
        schedule: How long it trains.
        loading: How training images are loaded.
        heading: What the plan is for.
        split: Where the split is from.

    Returns:
        Python of at most ``MOST_LINES`` lines.
    """
    why = choices.reasons
    height, width = choices.image_size
    lines = [
        *_comment(f"{source}: {' '.join(heading)} Every value may be changed."),
        f"_base_ = {str(find_config(choices.backbone.base))!r}",
        f"data_root = {str(place.root)!r}",
        *_comment("; ".join(labels.reasons)),
        *_metainfo(labels, lists["train"].parent),
        *_comment(f"crop: {why['crop']}"),
        f"crop_size = {choices.crop}",
        *_comment(f"normalisation: {why['normalisation']}"),
        *_preprocessor(choices),
        *_comment(f"network: {why['backbone']}. Weights: {why['weights']}"),
        *_comment(f"loss: {why['loss']}"),
        *_loss(choices),
        *_model(choices, data, len(labels.classes)),
        *_comment(f"scale {choices.scale:g}: {why['scale']}"),
        f"load = dict(type='LoadImageFromFile'{KEEP_DEPTH * data.deep})",
        *_pipelines(choices, data),
        *_comment(f"split: {split}"),
        *_comment(f"loading: {loading.reason}" if loading.reason else ""),
        *_loaders(place, lists, labels, schedule, loading),
        *_comment(f"schedule: {schedule.reason}. Rate: {why['rate']}"),
        *_schedule(choices, schedule),
    ]
    if choices.tta:
        lines += [
            *_comment(f"test with flipped images: {why['tta']}"),
            *_tta(height, width, data, choices),
        ]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="#   ",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def _metainfo(labels: Labels, files: Path) -> list[str]:
    """Write the classes; a long list of them goes into a file of its own."""
    meta: dict[str, Any] = {"classes": labels.classes}
    if len(labels.classes) > _MANY:
        file = files / "classes.txt"
        write_file(file, "\n".join(labels.classes) + "\n")
        meta["classes"] = str(file.resolve())
    else:
        meta["palette"] = [list(colour) for colour in labels.palette]
    return [f"metainfo = {_wrapped(meta, 11)}"]


def _wrapped(value: Any, indent: int) -> str:
    text = pformat(value, width=WIDTH - indent, compact=True, sort_dicts=False)
    return text.replace("\n", "\n" + " " * indent)


def _preprocessor(choices: Choices) -> list[str]:
    mean, std = (list(levels) for levels in (choices.mean, choices.std))
    return [f"data_preprocessor = dict(size=crop_size, mean={mean}, std={std})"]


def _loss(choices: Choices) -> list[str]:
    plain = "dict(type='CrossEntropyLoss', loss_weight={})"
    if choices.loss == "ce":
        return []
    return [
        "# alpha = beta = 0.5 is Dice class by class; DiceLoss would count all classes together",
        "overlap = dict(type='TverskyLoss', alpha=0.5, beta=0.5, loss_weight=1.0)",
        f"loss = [{plain.format(1.0)}, overlap]",
    ]


def _model(choices: Choices, data: DataFacts, num_classes: int) -> list[str]:
    model = narrow_model(choices.backbone, num_classes)
    loss = ", loss_decode=loss" if choices.loss != "ce" else ""
    backbone = dict(model.get("backbone", {}))
    if data.channels == 1:
        backbone["in_channels"] = 1
    lines = [
        "model = dict(",
        f"    pretrained={choices.pretrained!r},",
        "    data_preprocessor=data_preprocessor,",
    ]
    if backbone:
        lines.append(f"    backbone={_call(backbone)},")
    lines.append(f"    decode_head={_call(model['decode_head'])[:-1]}{loss}),")
    lines.append(f"    auxiliary_head={_call(model['auxiliary_head'])})")
    return lines


def _call(values: dict[str, Any]) -> str:
    return f"dict({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def _resizes(choices: Choices, data: DataFacts) -> bool:
    return choices.scale != 1 or len(data.sizes) > 1


def _pipelines(choices: Choices, data: DataFacts) -> list[str]:
    height, width = choices.image_size
    crop = "dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75"
    lines = []
    if choices.rare:
        lines += _comment(f"rare classes: {choices.reasons['rare']}")
        crop += f", rare_classes={list(choices.rare)}"
    colours = [] if data.deep else ["    dict(type='PhotoMetricDistortion'),"]
    resize = [f"    dict(type='Resize', scale=({width}, {height}), keep_ratio=True),"]
    return [
        *lines,
        "train_pipeline = [",
        "    load, dict(type='LoadAnnotations'),",
        f"    dict(type='RandomResize', scale=({width}, {height}), ratio_range={RATIOS}, "
        "keep_ratio=True),",
        f"    {crop}),",
        "    dict(type='RandomFlip', prob=0.5),",
        *colours,
        "    dict(type='PackSegInputs')]",
        "test_pipeline = [  # labels keep their size, and scores are of that size",
        "    load,",
        *(resize if _resizes(choices, data) else []),
        "    dict(type='LoadAnnotations'), dict(type='PackSegInputs')]",
    ]


def _tta(height: int, width: int, data: DataFacts, choices: Choices) -> list[str]:
    resize = f"[dict(type='Resize', scale=({width}, {height}), keep_ratio=True)],"
    return [
        "tta_pipeline = [load, dict(type='TestTimeAug', transforms=[",
        *([f"    {resize}"] if _resizes(choices, data) else []),
        "    [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)],",
        "    [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]",
    ]


def _loaders(
    place: Place, lists: dict[str, Path], labels: Labels, schedule: Schedule, loading: Loading
) -> list[str]:
    table = f"    label_map={_wrapped(labels.table(), 14)}," if labels.table() else ""
    if labels.is_painted:
        table = f"    palette_to_index={_wrapped(colour_table(labels), 21)},"
    files = lists["train"].parent.resolve()
    cache = f",\n    cache='memmap', cache_dir=f'{{lists}}/{CACHE}'" * loading.is_cached
    return [
        "data = dict(",
        "    _delete_=True, type='BaseSegDataset', data_root=data_root, metainfo=metainfo,",
        f"    data_prefix=dict(img_path={place.images!r}, seg_map_path={place.masks!r}),",
        *([table] if table else []),
        f"    img_suffix={place.image_suffix!r}, seg_map_suffix={place.mask_suffix!r})",
        f"lists = {str(files)!r}",
        f"train_dataloader = dict(batch_size={schedule.batch}, num_workers={loading.num_workers}, "
        "dataset=dict(",
        f"    **data, ann_file=f'{{lists}}/train.txt', pipeline=train_pipeline{cache}))",
        "test_dataloader = dict(num_workers=1, dataset=dict(",
        "    **data, ann_file=f'{lists}/test.txt', pipeline=test_pipeline))",
        f"val_dataloader = dict(num_workers=1, dataset=dict(  # a look at up to {LOOKED_AT}",
        f"    **data, ann_file=f'{{lists}}/val.txt', pipeline=test_pipeline, indices={LOOKED_AT}))",
    ]


def _schedule(choices: Choices, schedule: Schedule) -> list[str]:
    every = max(1, schedule.iterations // LOOKS)
    parts = f", accumulative_counts={schedule.parts}" if schedule.parts > 1 else ""
    return [
        f"train_cfg = dict(max_iters={schedule.iterations}, val_interval={every})",
        f"optim_wrapper = dict(optimizer=dict(lr={choices.rate}){parts})",
        "param_scheduler = [dict(",
        "    type='PolyLR', eta_min=1e-4, power=0.9, begin=0, "
        f"end={schedule.iterations}, by_epoch=False)]",
        "default_hooks = dict(",
        f"    logger=dict(interval={max(1, min(50, every // 2))}), "
        f"checkpoint=dict(interval={every}, max_keep_ckpts=1))",
    ]


def listing(rows: Iterable[tuple[str, str, str]]) -> str:
    """Lay out a plan on a terminal of 80 columns: what, which value, and below it why."""
    lines = []
    for what, value, why in rows:
        lines += _paragraph(f"{what:<14}{value}", "", " " * 14)
        lines += _paragraph(why, " " * 16, " " * 16)
    return "\n".join(lines)


def _paragraph(text: str, first: str, rest: str) -> list[str]:
    """Wrap a text between words alone, so that paths and options can be copied."""
    return textwrap.wrap(text, 80, initial_indent=first, subsequent_indent=rest,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def shown_size(size: Size) -> str:
    """Write a size."""
    return f"{size[0]} x {size[1]} px"
