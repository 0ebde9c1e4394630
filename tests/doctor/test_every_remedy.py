"""Every kind of finding that offers a remedy: what is printed is done, word for word.

A line ``key = value`` goes to ``load_config`` as it stands; a step is done by a function beside the
fault. The check is clean then, and training, where the fault would have spoilt it, learns.
"""

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, get_args

import cv2
import numpy as np
import pytest
from PIL import Image

from nlseg.config import load_config
from nlseg.datasets import BaseSegDataset
from nlseg.doctor.examination import examine
from nlseg.doctor.finding import Code, Finding
from nlseg.errors import DataError
from nlseg.registry import DATASETS
from nlseg.run.logs import read_scalars
from nlseg.run.runner import Runner
from tests.doctor.damaged import PALETTE, make_config, make_data, make_image, make_label, save
from tests.run.tiny_segmentor import tiny_run

LINE = re.compile(r"(?:^|: )([a-z_]\w*(?:\.\w+)* = .+)$")
WITHOUT_REMEDY = {"not-rgb", "small-images"}
SPOILS_TRAINING = {
    "all-ignored", "binary-masks", "deep-images", "exif", "grey-rgb-masks", "instance-ids",
    "label-ids", "lost-colours", "no-classes", "normalisation", "num-classes", "one-class",
    "palette-by-cv2", "reduce-zero-label-differs", "reduce-zero-label-missing",
    "reduce-zero-label-twice", "rgb-masks", "smeared-masks", "spread-out-masks", "stray-labels",
    "unreadable",
}  # fmt: skip
Relabel = Callable[[Any], Any]


def settings(root: Path) -> dict[str, Any]:
    """Return a config of a tiny network on the data below a folder, ready to be damaged."""
    config: dict[str, Any] = tiny_run(root / "run", iters=2).to_dict()
    for head in ("decode_head", "auxiliary_head"):
        config["model"][head]["num_classes"] = 3
    config["model"]["data_preprocessor"].update(mean=[127.5] * 3, std=[73.9] * 3)
    config["train_cfg"]["val_interval"] = 2
    config["default_hooks"] |= {"report": None, "visualization": None}
    config["default_hooks"]["logger"]["interval"] = 1
    config |= {"val_cfg": {"type": "ValLoop"}, "val_evaluator": {"type": "IoUMetric"}}
    loaders = make_config(root).to_dict()
    for name, shuffle in (("train_dataloader", True), ("val_dataloader", False)):
        dataset = loaders[name]["dataset"]
        dataset["pipeline"].append({"type": "PackSegInputs"})
        kind = "InfiniteSampler" if shuffle else "DefaultSampler"
        config[name] = {"batch_size": 2, "num_workers": 0, "dataset": dataset,
                        "sampler": {"type": kind, "shuffle": shuffle}}  # fmt: skip
    return config


def write(config: dict[str, Any], root: Path) -> Path:
    file = root / "config.py"
    file.write_text("\n".join(f"{key} = {value!r}" for key, value in config.items()) + "\n")
    return file


def findings(file: Path, lines: Sequence[str] = ()) -> list[Finding]:
    config = load_config(file, list(lines))
    return examine(config, num_processes=1, progress=False).findings


def ways(remedy: str) -> list[list[str]]:
    """Return the ways that a remedy offers by lines, each with the lines that go together."""
    lines = []
    for text in remedy.splitlines():
        found = LINE.search(text)
        lines += [found[1]] if found else []
        lines += shlex.split(text)[1:] if text.startswith("--set ") else []
    conditions = dict.fromkeys(line.partition("  # if ")[2] for line in lines)
    return [[x for x in lines if x.partition("  # if ")[2] == one] for one in conditions]


class Fault(NamedTuple):
    """A fault of data or config, and the step that its remedy names where lines do not mend it.

    Args:
        code: What it is recognised as.
        relabel: Makes the label maps of right ones.
        config: Damages the config; gets it and the folder.
        files: Damages the files.
        step: Does what the remedy says; gets the folder and the remedy.
        options: Of ``Image.save`` for label maps.
        left: Findings that the remedy leaves and that are no errors.
        by_line: Whether the remedy has a line that mends it.
    """

    code: Code
    relabel: Relabel = lambda label: label
    config: Callable[[dict[str, Any], Path], object] = lambda config, root: None
    files: Callable[[Path], object] = lambda root: None
    step: Callable[[Path, str], object] | None = None
    left: tuple[Code, ...] = ()
    by_line: bool = True


def of_both(**changes: Any) -> Callable[[dict[str, Any], Path], object]:
    """Change both data sets."""

    def change(config: dict[str, Any], root: Path) -> None:
        for name in ("train_dataloader", "val_dataloader"):
            config[name]["dataset"].update(changes)

    return change


def of_training(**changes: Any) -> Callable[[dict[str, Any], Path], object]:
    return lambda config, root: config["train_dataloader"]["dataset"].update(changes)


def with_classes(count: int, **changes: Any) -> Callable[[dict[str, Any], Path], object]:
    """Give both data sets and the heads a number of classes."""

    def change(config: dict[str, Any], root: Path) -> None:
        names = tuple(f"c{i}" for i in range(count))
        of_both(metainfo={"classes": names}, **changes)(config, root)
        for head in ("decode_head", "auxiliary_head"):
            config["model"][head]["num_classes"] = count

    return change


def steps_of_both(place: int, name: str, **changes: Any) -> Any:
    """Change one transform of both pipelines, or put a new one there."""

    def change(config: dict[str, Any], root: Path) -> None:
        for loader in ("train_dataloader", "val_dataloader"):
            pipeline = config[loader]["dataset"]["pipeline"]
            if pipeline[place]["type"] != name:
                pipeline.insert(place, {"type": name})
            pipeline[place].update(changes)

    return change


def mixed(config: dict[str, Any], root: Path) -> None:
    """Train on mosaics of images that are made small, after a step that does not shrink."""
    loader = config["train_dataloader"]
    *own, pack = loader["dataset"].pop("pipeline")
    inner = {**loader["dataset"], "pipeline": [*own, {"type": "Resize", "scale_factor": 1.0}]}
    outer = [{"type": "RandomMosaic", "prob": 1.0, "img_scale": (12, 16)},
             {"type": "Resize", "scale_factor": 1.25},
             {"type": "RandomCrop", "crop_size": (28, 40)}, pack]  # fmt: skip
    loader["dataset"] = {"type": "MultiImageMixDataset", "dataset": inner, "pipeline": outer}


def cropped(config: dict[str, Any], root: Path) -> None:
    """Crop what is smaller after a step that shrinks it, by less than what is told."""
    pipeline = config["train_dataloader"]["dataset"]["pipeline"]
    pipeline[2:2] = [{"type": "Resize", "scale_factor": 0.8},
                     {"type": "RandomCrop", "crop_size": (22, 28)}]  # fmt: skip


def pictures(root: Path, kind: str = "img") -> list[Path]:
    return sorted(path for path in root.glob(f"*/{kind}/*") if path.suffix != ".txt")


def only(values: dict[int, int]) -> Relabel:
    """Return what replaces values of a label map."""

    def relabel(label: Any) -> Any:
        result = label.astype(np.int32)
        for old, new in values.items():
            result[label == old] = new
        return result.astype(np.uint8 if result.max() < 256 else np.uint16)

    return relabel


def colours(levels: Sequence[Sequence[int]]) -> Relabel:
    return lambda label: np.array(levels, np.uint8)[label]


def binary(level: int) -> Relabel:
    return only({1: level, 2: level})


def palette_masks(root: Path) -> None:
    for path in pictures(root, "lab"):
        mask = Image.fromarray(np.asarray(Image.open(path)), "P")
        mask.putpalette([level for colour in PALETTE for level in colour])
        mask.save(path)


def whole(root: Path, remedy: str = "") -> None:
    """Store right labels where wrong ones were."""
    for split in ("train", "val"):
        for i in range(4):
            save(make_label(i), root / split / f"lab/{i}.png")


def stored_again(root: Path, remedy: str) -> None:
    """Store labels as 8 bits with the values that the remedy gives."""
    assert remedy.startswith("store the labels again as PNG of 8 bits, with these values: {")
    table = eval(remedy.partition("values: ")[2].partition("}")[0] + "}")
    for path in pictures(root, "lab"):
        label = np.asarray(Image.open(path))
        result = label.astype(np.int64)
        for old, new in table.items():
            result[label == old] = new
        save(result.astype(np.uint8), path)


def alpha_alone(root: Path, remedy: str) -> None:
    assert remedy == "store the alpha channel alone: 0 where it is 0, 1 elsewhere"
    for path in pictures(root, "lab"):
        save((np.asarray(Image.open(path))[..., 3] > 0).astype(np.uint8), path)


def train_list(root: Path, remedy: str) -> None:
    """Write the list that the remedy asks for, of the images that have labels."""
    assert f"name the images to use, without '.png', in {root}/train.txt: " in remedy
    names = [path.stem for path in (root / "train/lab").iterdir()]
    (root / "train.txt").write_text("".join(f"{name}\n" for name in sorted(names)))


def divide(root: Path, remedy: str) -> None:
    """Write the two lists that the remedy asks for."""
    lists = re.search(r"without '\.png', in (\S+) and (\S+), each in one of the two:", remedy)
    assert lists is not None
    for file, numbers in zip(lists.groups(), ("0\n1\n2\n", "3\n"), strict=True):
        Path(file).write_text(numbers)


@DATASETS.register_module(force=True)
class NeedsAnIndex(BaseSegDataset):
    """A user's data set that refuses to be built."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        if not Path(str(self.data_root), "index.txt").is_file():
            raise DataError(f"{self.data_root}/index.txt is not there")


def grow(root: Path) -> None:
    """Make images and labels four times as high and wide."""
    for path in pictures(root) + pictures(root, "lab"):
        save(np.asarray(Image.open(path)).repeat(4, 0).repeat(4, 1), path)


def deep(factor: int) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        for i, path in enumerate(pictures(root)):
            save(make_image(i)[..., 0].astype(np.uint16) * factor, path)

    return change


def to_8_bits(root: Path, remedy: str) -> None:
    highest = float(re.findall(r"0\.\.(\d+) to 0\.\.255", remedy)[0])
    for path in pictures(root):
        image = np.asarray(Image.open(path)).astype(np.float64)
        save((image * (255 / highest)).round().astype(np.uint8), path)


def turned(orientation: int) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        for path in pictures(root):
            image = Image.open(path).convert("RGB")
            tags = image.getexif()
            tags[0x0112] = orientation
            image.save(path, exif=tags)

    return change


def jpegs(root: Path) -> None:
    for path in pictures(root, "lab"):
        label = np.asarray(Image.open(path)) * 60
        Image.fromarray(label).save(path, format="JPEG", quality=40)


def photos_as_masks(root: Path) -> None:
    for i, path in enumerate(pictures(root, "lab")):
        kept = root / path.parent.parent.name / "masks" / path.name
        kept.parent.mkdir(exist_ok=True)
        path.rename(kept)
        save(make_image(50 + i), path)


def cityscapes_names(root: Path) -> None:
    """Give labels Cityscapes' names, with the label ids that the right ones stand for."""
    ids = np.array([7, 26, 33], np.uint8)  # road, car, bicycle
    for path in pictures(root, "lab"):
        save(ids[np.asarray(Image.open(path))], path.with_name(f"{path.stem}_gtFine_labelIds.png"))
        path.unlink()


def by_the_converter(root: Path, remedy: str) -> None:
    """Do what the official converter does: files of train ids beside the others."""
    assert f"python tools/dataset_converters/cityscapes.py {root}" in remedy
    for split in ("train", "val"):
        for i in range(4):
            save(make_label(i), root / split / f"lab/{i}_gtFine_labelTrainIds.png")


CITYSCAPES = [
    lambda config, root: with_classes(19, seg_map_suffix="_gtFine_labelIds.png")(config, root)
]


def instance_files(root: Path) -> None:
    for path in pictures(root, "lab"):
        label = np.asarray(Image.open(path)).astype(np.uint16)
        save(label * 1000 + 1007, path.with_name(f"{path.stem}_gtFine_instanceIds.png"))
        path.unlink()


FAULTS: dict[str, Fault] = {
    "a list that is not there": Fault("data-set", config=of_training(ann_file="list.txt")),
    "a list that is to be written": Fault(
        "data-set", config=of_training(ann_file="list.txt"), by_line=False,
        step=lambda root, remedy: (root / "list.txt").write_text("0\n2\n")),
    "a data set that refuses": Fault(
        "data-set", config=of_training(type="NeedsAnIndex"), by_line=False,
        step=lambda root, remedy: (root / "index.txt").write_text("")),
    "a misspelt folder": Fault(
        "missing-folder", config=lambda config, root: config["train_dataloader"]["dataset"][
            "data_prefix"].update(img_path="trian/img")),
    "a misspelt folder of labels": Fault(
        "missing-folder", config=lambda config, root: config["train_dataloader"]["dataset"][
            "data_prefix"].update(seg_map_path="train/labb")),
    "a misspelt root": Fault(
        "missing-folder", config=lambda config, root: config["train_dataloader"]["dataset"].update(
            data_root=str(root)[:-2] + str(root)[:-3:-1])),
    "a folder without a likely name": Fault(
        "missing-folder", by_line=False,
        files=lambda root: (root / "train/lab").rename(root / "train/zzzz"),
        step=lambda root, remedy: (root / "train/zzzz").rename(root / "train/lab")),
    "another suffix of images": Fault("image-suffix", config=of_both(img_suffix=".jpg")),
    "no images": Fault(
        "image-suffix", by_line=False, files=lambda root: (root / "train/img").rename(
            root / "photos") and (root / "train/img").mkdir(),
        step=lambda root, remedy: [shutil.copy(path, root / "train/img")
                                   for path in (root / "photos").iterdir()]),
    "names of a list with their suffix": Fault(
        "missing-image", config=of_training(ann_file="list.txt"), by_line=False,
        files=lambda root: (root / "list.txt").write_text("0.png\n1.png\nx.png\n"),
        step=lambda root, remedy: (root / "list.txt").write_text("0\n1\n")),
    "a list of images with another suffix": Fault(
        "missing-image", config=of_training(ann_file="list.txt", img_suffix="_x.png"),
        files=lambda root: (root / "list.txt").write_text("0\n1\n")),
    "a name of a list without an image": Fault(
        "missing-image", config=of_training(ann_file="list.txt"), by_line=False,
        files=lambda root: (root / "list.txt").write_text("0\n1\n9\n"),
        step=lambda root, remedy: (root / "list.txt").write_text("0\n1\n")),
    "another suffix of labels": Fault(
        "missing-label", files=lambda root: [path.rename(path.with_name(f"{path.stem}_m.png"))
                                             for path in pictures(root, "lab")]),
    "a label that is missing": Fault(
        "missing-label", files=lambda root: (root / "train/lab/2.png").unlink(), step=train_list),
    "a label that belongs to nothing": Fault(
        "orphan-label", files=lambda root: save(make_label(1), root / "train/lab/9.png"),
        by_line=False, step=lambda root, remedy: (root / "train/lab/9.png").unlink()),
    "a shift in the pipeline alone": Fault(
        "reduce-zero-label-differs", relabel=lambda label: label + 1,
        config=steps_of_both(1, "LoadAnnotations", reduce_zero_label=True)),
    "a shift in the pipeline that the labels do not want": Fault(
        "reduce-zero-label-differs",
        config=steps_of_both(1, "LoadAnnotations", reduce_zero_label=True)),
    "palette masks by OpenCV": Fault(
        "palette-by-cv2", files=palette_masks,
        config=steps_of_both(1, "LoadAnnotations", imdecode_backend="cv2")),
    "photos where masks belong": Fault(
        "pictures-as-masks", files=photos_as_masks, by_line=False,
        step=lambda root, remedy: [
            (root / split / "lab").rename(root / split / "old") and
            (root / split / "masks").rename(root / split / "lab") for split in ("train", "val")
        ]),
    "black and white, RGB": Fault(
        "grey-rgb-masks", colours([[0] * 3, [255] * 3, [255] * 3]), with_classes(2)),
    "grey levels, RGB": Fault("grey-rgb-masks", colours([[0] * 3, [90] * 3, [180] * 3])),
    "in an alpha channel": Fault(
        "grey-rgb-masks", colours([[0, 0, 0, 0], *[[0, 0, 0, 255]] * 2]), with_classes(2),
        step=alpha_alone, by_line=False),
    "the palette's colours": Fault("rgb-masks", colours(PALETTE)),
    "the palette's colours and black": Fault(
        "rgb-masks", colours([*PALETTE[:2], [0] * 3]), left=("absent-classes",)),
    "other colours": Fault("rgb-masks", colours([[9, 1, 1], [1, 9, 1], [1, 1, 9]])),
    "one painted mask among others": Fault(
        "rgb-masks", files=lambda root: save(colours(PALETTE)(make_label(1)),
                                             root / "train/lab/1.png"),
        by_line=False, step=whole),
    "a colour that the table lacks": Fault(
        "lost-colours", colours(PALETTE),
        of_both(palette_to_index={tuple(PALETTE[0]): 0, tuple(PALETTE[1]): 1}),
        left=("absent-classes",)),
    "black and white": Fault("binary-masks", binary(255), with_classes(2)),
    "black and white, zero reduced": Fault(
        "binary-masks", binary(255), with_classes(2, reduce_zero_label=True)),
    "black and white, zero reduced in the pipeline too": Fault(
        "binary-masks", binary(255), lambda config, root: [
            with_classes(2, reduce_zero_label=True)(config, root),
            steps_of_both(1, "LoadAnnotations", reduce_zero_label=True)(config, root)]),
    "black and white, one class": Fault("binary-masks", binary(255), with_classes(1)),
    "black and grey": Fault("binary-masks", binary(128), with_classes(2)),
    "black and white of 16 bits": Fault(
        "binary-masks", binary(65535), with_classes(2), step=stored_again, by_line=False),
    "zero reduced twice": Fault(
        "reduce-zero-label-twice", only({2: 255}), of_both(reduce_zero_label=True),
        left=("absent-classes",)),
    "zero reduced twice, in the pipeline too": Fault(
        "reduce-zero-label-twice", only({2: 255}), lambda config, root: [
            of_both(reduce_zero_label=True)(config, root),
            steps_of_both(1, "LoadAnnotations", reduce_zero_label=True)(config, root)],
        left=("absent-classes",)),
    "zero reduced twice, nothing ignored": Fault(
        "reduce-zero-label-twice", config=of_both(reduce_zero_label=True),
        left=("absent-classes",)),
    "masks saved as JPEG": Fault("smeared-masks", files=jpegs, step=whole, by_line=False),
    "label ids of Cityscapes": Fault(
        "label-ids", config=CITYSCAPES[0], files=cityscapes_names, step=by_the_converter,
        left=("absent-classes",)),
    "instance ids of Cityscapes": Fault(
        "instance-ids", config=of_both(seg_map_suffix="_gtFine_instanceIds.png"),
        files=instance_files, step=by_the_converter),
    "instance ids": Fault(
        "instance-ids", lambda label: label.astype(np.uint16) * 1000 + 5, by_line=False,
        step=whole),
    "counted from 1": Fault("reduce-zero-label-missing", lambda label: label + 1),
    "counted from 1, denied in the pipeline": Fault(
        "reduce-zero-label-missing", lambda label: label + 1,
        steps_of_both(1, "LoadAnnotations", reduce_zero_label=False)),
    "0 and one more": Fault(
        "reduce-zero-label-missing", lambda label: (label + np.arange(32) // 16).astype("u1")),
    "multiples of a step": Fault("spread-out-masks", lambda label: label * 100),
    "multiples of a step, 16 bits": Fault(
        "spread-out-masks", lambda label: label.astype(np.uint16) * 400, step=stored_again,
        by_line=False),
    "a value without a name": Fault("stray-labels", only({2: 77}), left=("absent-classes",)),
    "a value without a name, mapped ones beside": Fault(
        "stray-labels", only({0: 5, 2: 77}), of_both(label_map={5: 0}), left=("absent-classes",)),
    "a value without a name, zero reduced": Fault(
        "stray-labels", lambda label: only({3: 77})(label + 1), of_both(reduce_zero_label=True),
        left=("absent-classes",)),
    "a value of 16 bits without a name": Fault(
        "stray-labels", only({2: 300}), step=stored_again, by_line=False,
        left=("absent-classes",)),
    "no names": Fault("no-classes", config=of_both(metainfo={})),
    "no names for black and white": Fault(
        "no-classes", binary(255), lambda config, root: [
            with_classes(2)(config, root), of_both(metainfo={})(config, root)]),
    "another number of classes": Fault(
        "num-classes", config=lambda config, root: [
            config["model"][head].update(num_classes=7)
            for head in ("decode_head", "auxiliary_head")]),
    "labels that are ignored": Fault(
        "all-ignored", files=lambda root: save(np.full((24, 32), 255, np.uint8),
                                               root / "train/lab/1.png"),
        by_line=False, step=lambda root, remedy: [
            (root / "train" / kind / "1.png").unlink() for kind in ("img", "lab")]),
    "labels that are all ignored": Fault(
        "all-ignored", lambda label: label * 0 + 255, by_line=False, step=whole),
    "most labels mapped to 255": Fault(
        "all-ignored", config=of_both(label_map={0: 255, 1: 255, 2: 255})),
    "a class as the ignore index": Fault(
        "all-ignored", config=of_both(ignore_index=0), left=("one-class",),
        relabel=lambda label: label * 0,
        files=lambda root: [save(make_label(0), root / split / "lab/0.png")
                            for split in ("train", "val")]),
    "a class that never occurs": Fault(
        "absent-classes", only({2: 1}), by_line=False,
        step=lambda root, remedy: whole(root)),
    "zeros and ones with zero reduced": Fault(
        "one-class", only({2: 1}), with_classes(2, reduce_zero_label=True)),
    "all mapped to one": Fault("one-class", config=of_both(label_map={1: 0, 2: 0})),
    "nothing but background": Fault(
        "one-class", lambda label: label * 0, by_line=False, step=whole),
    "a class of few pixels": Fault(
        "rare-classes", relabel=lambda label: np.where(
            np.arange(12288).reshape(96, 128) == 5, 2, label.repeat(4, 0).repeat(4, 1) % 2
        ).astype(np.uint8), files=lambda root: [
            save(make_image(i).repeat(4, 0).repeat(4, 1), path)
            for i, path in enumerate(pictures(root))], left=("rare-classes",)),
    "no mean": Fault(
        "normalisation", config=lambda config, root: [
            config["model"]["data_preprocessor"].pop(key) for key in ("mean", "std")]),
    "another mean": Fault(
        "normalisation", config=lambda config, root: config["model"]["data_preprocessor"].update(
            mean=[0.5] * 3, std=[0.2] * 3)),
    "an image cut off": Fault(
        "unreadable", files=lambda root: (root / "train/img/1.png").write_bytes(b""),
        left=("unreadable",)),
    "an image of the validation cut off": Fault(
        "unreadable", files=lambda root: (root / "val/img/1.png").write_bytes(b""),
        by_line=False, step=lambda root, remedy: save(make_image(101), root / "val/img/1.png")),
    "images turned by a tag": Fault("exif", files=turned(6)),
    "images turned upside down": Fault("exif", files=turned(3)),
    "a label of another size": Fault(
        "size-mismatch", files=lambda root: save(make_label(1)[::2, ::2],
                                                 root / "train/lab/1.png"),
        by_line=False, step=lambda root, remedy: save(
            cv2.resize(np.asarray(Image.open(root / "train/lab/1.png")), (32, 24),
                       interpolation=cv2.INTER_NEAREST), root / "train/lab/1.png")),
    "nearly black images": Fault(
        "deep-images", files=deep(4), step=to_8_bits, by_line=False),
    "images of 16 bits": Fault(
        "deep-images", files=deep(257), step=to_8_bits, by_line=False),
    "an image twice": Fault(
        "same-image-twice", files=lambda root: save(make_image(0), root / "train/img/1.png"),
        by_line=False, step=lambda root, remedy: [
            (root / "train" / kind / "1.png").unlink() for kind in ("img", "lab")]),
    "an image in both": Fault(
        "shared-images", files=lambda root: save(make_image(0), root / "val/img/1.png"),
        by_line=False, step=lambda root, remedy: [
            (root / "val" / kind / "1.png").unlink() for kind in ("img", "lab")]),
    "one folder for both": Fault(
        "shared-images", step=divide, config=of_both(
            data_prefix={"img_path": "train/img", "seg_map_path": "train/lab"})),
    "shrunk, by a size to fit into": Fault(
        "shrunk-images", config=steps_of_both(1, "Resize", scale=(16, 12), keep_ratio=True)),
    "shrunk, to one size": Fault(
        "shrunk-images", config=steps_of_both(1, "Resize", scale=(12, 16))),
    "shrunk, by a factor": Fault(
        "shrunk-images", config=steps_of_both(1, "Resize", scale_factor=0.5)),
    "shrunk, by a drawn ratio": Fault(
        "shrunk-images", files=grow, config=steps_of_both(
            1, "RandomResize", scale=(128, 96), ratio_range=(0.25, 0.75), keep_ratio=True)),
    "shrunk, by a drawn size": Fault(
        "shrunk-images", files=grow, config=steps_of_both(
            1, "RandomResize", scale=[(32, 24), (64, 48)], keep_ratio=True)),
    "shrunk, by a choice": Fault(
        "shrunk-images", files=grow, config=steps_of_both(
            1, "RandomChoiceResize", scales=[(32, 24), (40, 30)], keep_ratio=True)),
    "shrunk, by the shorter edge": Fault(
        "shrunk-images", files=grow, config=steps_of_both(
            1, "ResizeShortestEdge", scale=24, max_size=64)),
    "shrunk, into mosaics": Fault("shrunk-images", config=mixed),
    "crops larger than images": Fault("large-crop", config=cropped),
}  # fmt: skip


def damaged(fault: Fault, root: Path) -> Path:
    make_data(root, fault.relabel)
    config = settings(root)
    config["data_root"] = str(root)
    fault.files(root)
    fault.config(config, root)
    return write(config, root)


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_finding_advises_mends_it(name: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    fault = FAULTS[name]
    file = damaged(fault, root)
    found = [f for f in findings(file) if f.code == fault.code and f.remedy]
    assert found
    offered = list(zip_longest(*(ways(finding.remedy) for finding in found), fillvalue=[]))
    assert bool(offered) or not fault.by_line
    if fault.step is not None:
        fault.step(root, found[0].remedy)
    for lines in [list(chain(*way)) for way in offered] if fault.by_line else [[]]:
        left = findings(file, lines)
        second = [line for f in left if f.severity == "error" for way in ways(f.remedy)[:1]
                  for line in way]  # fmt: skip
        if second:  # what the mended rules bring to light, such as another number of classes
            lines = [*lines, *second]
            left = findings(file, lines)
        told = {f.code for f in left if f.severity != "note" or f.code == fault.code}
        assert told <= set(fault.left), (lines, [f.as_text() for f in left])
        if fault.code in SPOILS_TRAINING:
            train(file, lines, root)


def train(file: Path, lines: Sequence[str], root: Path) -> None:
    """Train two iterations: losses are finite and not 0, and no score is a false 100 %."""
    shutil.rmtree(root / "run", ignore_errors=True)
    config = load_config(file, list(lines))
    config.experiment_name = f"run{abs(hash((str(root), *lines)))}"
    Runner.build(config).train()
    curve = read_scalars(root / "run/scalars.jsonl")
    losses = [line["loss"] for line in curve if "loss" in line]
    assert len(losses) == 2
    assert all(0.05 < loss < 100 for loss in losses), losses
    (score,) = (line["mIoU"] for line in curve if "mIoU" in line)
    assert 0 <= score < 100


def test_every_kind_of_finding_is_in_the_table() -> None:
    told = WITHOUT_REMEDY | {"own-transforms"}  # says where it looked: test_examination.py
    assert {fault.code for fault in FAULTS.values()} | told == set(get_args(Code))


def test_kinds_without_a_remedy_print_none(tmp_path: Path) -> None:
    make_data(tmp_path)
    for i in range(4):
        save(make_image(i)[..., 0], tmp_path / f"train/img/{i}.png")
    config = settings(tmp_path)
    crop = {"type": "RandomCrop", "crop_size": (25, 33)}
    config["train_dataloader"]["dataset"]["pipeline"].insert(2, crop)
    found = {f.code: f for f in findings(write(config, tmp_path))}
    assert found.keys() >= WITHOUT_REMEDY
    assert {found[code].remedy for code in WITHOUT_REMEDY} == {""}


def with_test(config: dict[str, Any]) -> dict[str, Any]:
    """Test on the validation set, as the README's config does."""
    config |= {"test_cfg": {"type": "TestLoop"}, "test_evaluator": {"type": "IoUMetric"}}
    return config | {"test_dataloader": config["val_dataloader"]}


def test_what_mends_a_validation_set_mends_the_test_that_equals_it(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_data(root, binary(255))
    config = settings(root)
    with_classes(2)(config, root)
    file = write(with_test(config), root)

    def tested(lines: Sequence[str]) -> str:
        config = load_config(file, list(lines))
        config.work_dir, config.experiment_name = str(root / f"test{len(lines)}"), f"{root}{lines}"
        Runner.build(config).test()
        (log,) = Path(config.work_dir).glob("*/*.log")
        return log.read_text()

    told = tested(())
    assert "mIoU: 100.0000" in told
    assert "without a score of c1" in next(x for x in told.splitlines() if "mIoU: " in x)
    assert "WARNING - error: test: Binary masks hold 0 and 255" in told
    with pytest.raises(DataError) as refused:
        Runner.build(load_config(file)).train()
    for said in (str(refused.value), "\n".join(f.remedy for f in findings(file))):
        lines = [line.strip(" ->") for line in said.splitlines() if "label_map" in line]
        assert [line.partition("_")[0] for line in lines] == ["train", "val", "test"]
    assert [f.as_text() for f in findings(file, lines) if f.severity != "note"] == []
    told = tested(lines)
    assert "without a score" not in told
    assert "100.0000" not in told
    assert "error: " not in told


def test_a_part_without_the_last_class_has_not_been_shifted_twice(tmp_path: Path) -> None:
    make_data(tmp_path, lambda label: label + 1)
    config = settings(tmp_path)
    of_both(reduce_zero_label=True)(config, tmp_path)
    for i, path in enumerate(pictures(tmp_path, "lab")):
        label = np.asarray(Image.open(path)).copy()
        label[:2] = 0
        if i >= 4:  # of the validation
            label[label == 3] = 0
        save(label, path)
    file = write(config, tmp_path)
    found = [f for f in findings(file) if f.code == "reduce-zero-label-twice"]
    assert [(f.split, f.severity) for f in found] == [("val", "warning")]
    Runner.build(load_config(file)).train()


def test_labels_that_are_shifted_twice_stop_training(tmp_path: Path) -> None:
    make_data(tmp_path)
    config = settings(tmp_path)
    of_both(reduce_zero_label=True)(config, tmp_path)
    with pytest.raises(DataError, match="zero had been reduced already") as refused:
        Runner.build(load_config(write(config, tmp_path))).train()
    for name in ("train", "val"):
        assert f"{name}_dataloader.dataset.reduce_zero_label = False" in str(refused.value)


def test_one_level_stands_for_the_deep_images_of_all_sets(tmp_path: Path) -> None:
    make_data(tmp_path)
    deep(4)(tmp_path)
    for path in pictures(tmp_path)[:4]:
        save(np.asarray(Image.open(path)) // 2, path)
    file = write(settings(tmp_path), tmp_path)
    found = [f for f in findings(file) if f.code == "deep-images"]
    assert [(f.split, "0..1023 to 0..255" in f.remedy) for f in found] == [
        ("train", True),
        ("val", True),
    ]


def test_labels_above_pillows_limit_of_pixels_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path)
    config = settings(tmp_path)
    steps_of_both(1, "Resize", scale=(16, 12), keep_ratio=True)(config, tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert "shrunk-images" in {f.code for f in findings(write(config, tmp_path))}
