"""From a config to what each split reads, and by which rules."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from mmengine.config import Config

from nlseg.config.load import trace_of
from nlseg.doctor.finding import Finding
from nlseg.errors import DataError
from nlseg.registry import DATASETS
from nlseg.structures import IGNORE_INDEX

STAGES = ("train", "val", "test")


@dataclass(frozen=True)
class Rules:
    """How raw label values become classes.

    Args:
        classes: Names of the K classes.
        palette: RGB colour of each.
        reduce_zero_label: 0 is ignored, k becomes class k - 1.
        label_map: New value for each value after that step.
        raw_map: The part of ``label_map`` that the setting of that name holds; the other part
            drops or moves classes that were not chosen.
        palette_to_index: Colours of the classes, for masks painted in them.
        ignore_index: Value that does not count.
        decoder: ``pillow``, or ``cv2``, which turns palette masks into colours.
        pipeline_reduces: What the pipeline's own ``reduce_zero_label`` says, None for nothing.
        turns: Whether images are turned as their EXIF tags say.
        keeps_depth: Whether images are loaded with the levels of their files.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] | None = None
    raw_map: Mapping[int, int] | None = None
    palette_to_index: Any = None
    ignore_index: int = IGNORE_INDEX
    decoder: str = "pillow"
    pipeline_reduces: bool | None = None
    turns: bool = True
    keeps_depth: bool = False


Steps = Sequence[tuple[str, Mapping[str, Any]]]
"""Transforms, each with its place in the config."""


@dataclass
class Split:
    """One data set of a config.

    Args:
        name: ``train``, ``val`` or ``test``, with a number where several are joined.
        key: Its place in the config, such as ``train_dataloader.dataset``.
        dataset: Built, but not yet looked for files.
        rules: Of its labels.
        where: ``file:line`` that wrote the data set, where known.
        crop: Height and width in px of training crops, where the pipeline has a fixed one.
        pipeline: Its own transforms, as the config gives them.
        steps: All transforms of a sample with their places in the config: its own, then those of
            data sets that mix its samples.
        is_planned: Whether the sizes in the config were chosen by ``nlseg start``.
        pairs: Image and label file of every sample that has them; filled by the listing.
        trouble: Why no dataset could be built.
        heads: Places of the network's heads in the config.
        also: Places of equal data sets, such as that of the test, which are listed with this one.
    """

    name: str
    key: str
    dataset: Any
    rules: Rules
    where: str = ""
    crop: tuple[int, int] | None = None
    pipeline: Any = ()
    steps: "Steps" = ()
    is_planned: bool = False
    pairs: list[tuple[str, str | None]] = field(default_factory=list)
    trouble: str = ""
    heads: Sequence[str] = ("model.decode_head",)
    also: Sequence[str] = ()

    @property
    def stage(self) -> str:
        """``train``, ``val`` or ``test``."""
        return self.name.split("-")[0]

    def set_steps(self, steps: "Steps", config: Mapping[str, Any] | Config) -> None:
        """Set what follows from all transforms of a sample, and from the whole config."""
        self.steps, self.crop = steps, _fixed_crop([step for _, step in steps])
        self.is_planned = "plan" in (config.get("custom") or {})


def find_splits(config: Config) -> list[Split]:
    """List the data sets of a config, those inside joined and repeated ones one by one.

    A validation set that is also the test set is listed once; one that trains, too, is not.
    """
    splits = []
    steps = steps_of(config)
    for name, settings, (key, *also) in _different(config):
        splits.append(_make_split(name, key, settings, config))
        splits[-1].also = also
        splits[-1].set_steps(steps[key], config)
    return splits


def steps_of(config: Mapping[str, Any] | Config) -> dict[str, Steps]:
    """Return the place of each data set of a config -> the transforms that its samples pass."""
    loaders = ((f"{name}_dataloader", config.get(f"{name}_dataloader")) for name in STAGES)
    return {
        key: steps for name, loader in loaders if loader and "dataset" in loader
        for key, steps in _steps_below(loader["dataset"], f"{name}.dataset")
    }  # fmt: skip


def _steps_below(settings: Mapping[str, Any], key: str) -> Iterator[tuple[str, Steps]]:
    left_out = settings.get("skip_type_keys") or ()
    own = [
        (f"{key}.pipeline.{i}", step) for i, step in enumerate(settings.get("pipeline") or ())
        if isinstance(step, Mapping) and step.get("type") not in left_out
    ]  # fmt: skip
    if "datasets" in settings:
        for i, part in enumerate(settings["datasets"]):
            yield from _steps_below(part, f"{key}.datasets.{i}")
    elif isinstance(settings.get("dataset"), Mapping):
        for inner, steps in _steps_below(settings["dataset"], f"{key}.dataset"):
            yield inner, [*steps, *own]
    else:
        yield key, own


def equal_sets(config: Mapping[str, Any] | Config) -> dict[str, list[str]]:
    """Return the place of each data set of a config -> those of later ones that equal it."""
    return {key: also for _, _, (key, *also) in _different(config)}


def _different(config: Mapping[str, Any] | Config) -> list[tuple[str, dict[str, Any], list[str]]]:
    """List name and settings of the data sets of a config, with the places of equal ones."""
    sets: list[tuple[str, dict[str, Any], list[str]]] = []
    for stage in STAGES:
        loader = config.get(f"{stage}_dataloader")
        if not loader or "dataset" not in loader:
            continue
        found = list(_leaves(loader["dataset"], f"{stage}_dataloader.dataset"))
        for i, (key, settings) in enumerate(found):
            plain = Config(dict(settings)).to_dict()
            name = stage if len(found) == 1 else f"{stage}-{i + 1}"
            keys = next(
                (keys for other, one, keys in sets if one == plain
                 and other.startswith("train") == (stage == "train")), None,
            )  # fmt: skip
            if keys is None:
                sets.append((name, plain, [key]))
            else:
                keys.append(key)
    return sets


def for_equal_sets(split: Split, findings: Sequence[Finding]) -> list[Finding]:
    """Write the lines that change a data set for those that equal it, too."""

    def lines(text: str) -> Iterator[str]:
        yield text
        start = text.find(f"{split.key}.")
        if start >= 0 and " = " in text:
            yield from (text[start:].replace(split.key, key) for key in split.also)

    return [
        replace(finding, remedy="\n".join(chain(*map(lines, finding.remedy.splitlines()))))
        for finding in findings
    ]


def _leaves(settings: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "datasets" in settings:
        for i, part in enumerate(settings["datasets"]):
            yield from _leaves(part, f"{key}.datasets.{i}")
    elif isinstance(settings.get("dataset"), Mapping):
        yield from _leaves(settings["dataset"], f"{key}.dataset")
    else:
        yield key, settings


def _make_split(name: str, key: str, settings: dict[str, Any], config: Config) -> Split:
    pipeline = settings.get("pipeline") or ()
    path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    where = trace_of(config).root.find(path).where
    bare = {**settings, "pipeline": [], "lazy_init": True, "test_mode": False}
    if settings.get("cache") == "memmap":  # without steps that load there is nothing to keep
        bare["cache"] = None
    try:
        dataset = DATASETS.build(bare)
    except DataError as error:
        return Split(name, key, None, Rules(()), where, trouble=str(error))
    rules = read_rules(dataset, pipeline)
    return Split(
        name, key, dataset, rules, where, pipeline=tuple(pipeline),
        heads=heads_of(config.get("model") or {}),
    )  # fmt: skip


def heads_of(model: Any) -> list[str]:
    """Return the places of all heads of a model config, several in a list one by one."""
    places = []
    for key in ("decode_head", "auxiliary_head"):
        head = model.get(key)
        several = isinstance(head, list | tuple)
        places += [f"model.{key}.{i}" for i in range(len(head))] if several else []
        places += [f"model.{key}"] if head and not several else []
    return places or ["model.decode_head"]


def read_rules(dataset: Any, pipeline: Any = ()) -> Rules:
    """Read the label rules of a built data set and of the pipeline that is configured for it."""
    meta = dataset.metainfo
    loading = next(_steps(pipeline, "LoadAnnotations"), {})
    images = next(_steps(pipeline, "LoadImageFromFile"), {})
    colours = loading.get("palette_to_index") or getattr(dataset, "palette_to_index", None)
    standard = getattr(dataset, "METAINFO", {}).get("classes")
    is_subset = standard is not None and tuple(standard) != tuple(meta.get("classes") or ())
    return Rules(
        classes=tuple(meta.get("classes") or ()),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in meta.get("palette") or ()),
        reduce_zero_label=bool(meta.get("reduce_zero_label")),
        label_map=meta.get("label_map"),
        raw_map=getattr(dataset, "LABEL_MAP", None) if is_subset else meta.get("label_map"),
        palette_to_index=colours,
        ignore_index=getattr(dataset, "ignore_index", IGNORE_INDEX),
        decoder=loading.get("imdecode_backend", "pillow"),
        pipeline_reduces=loading.get("reduce_zero_label"),
        turns=not str(images.get("color_type")).endswith("_ignore_orientation"),
        keeps_depth=images.get("color_type") == "unchanged",
    )


def _steps(pipeline: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of every transform of a name, also inside test-time augmentation."""
    if isinstance(pipeline, Mapping):
        if str(pipeline.get("type", "")).rsplit(".", 1)[-1] == name:
            yield pipeline
        yield from _steps(pipeline.get("transforms") or (), name)
    elif isinstance(pipeline, list | tuple):
        for step in pipeline:
            yield from _steps(step, name)


def _fixed_crop(pipeline: Any) -> tuple[int, int] | None:
    crop = next(_steps(pipeline, "RandomCrop"), {}).get("crop_size")
    if crop is None:
        return None
    return (int(crop), int(crop)) if isinstance(crop, int) else (int(crop[0]), int(crop[1]))


def step_key(split: Split, name: str) -> str:
    """Return the config's place of a split's first transform of a name, else of its pipeline."""
    for place, step in enumerate(split.pipeline or ()):
        if isinstance(step, Mapping) and str(step.get("type", "")).rsplit(".", 1)[-1] == name:
            return f"{split.key}.pipeline.{place}"
    return f"{split.key}.pipeline"


def unshifted(split: Split) -> list[str]:
    """Return the lines by which label 0 stays 0, in the data set and in the pipeline."""
    lines = [f"{split.key}.reduce_zero_label = False"] if split.rules.reduce_zero_label else []
    if split.rules.pipeline_reduces:
        lines.append(f"{step_key(split, 'LoadAnnotations')}.reduce_zero_label = False")
    return lines


def num_classes_lines(split: Split, count: int) -> list[str]:
    """Return the lines by which all heads have a number of classes."""
    return [f"{head}.num_classes = {count}" for head in split.heads]
