"""What a pipeline makes of the images' sizes: how far it shrinks them, and what is lost by that."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median, median_low
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.datasets.transforms.compose import is_foreign
from nlseg.datasets.transforms.mosaic import RandomMosaic
from nlseg.doctor.finding import Finding, Severity
from nlseg.doctor.splits import Split, Steps
from nlseg.doctor.tally import Tally
from nlseg.ops.resize import Size
from nlseg.pictures import open_picture
from nlseg.registry import TRANSFORMS

RESIZING = (
    "Resize", "RandomResize", "RandomChoiceResize", "ResizeShortestEdge", "ResizeToMultiple",
    "RandomMosaic",
)  # fmt: skip
SHRUNK = 0.75
"""Factor of height and width below which shrinking is a finding."""
SMALL_PX = 16
"""Area in px from which on a region is taken for an object that can be learnt."""
_DRAWS = 9
_SIZES = 5
_LABELS, _VALUES = 8, 12


class Scale(NamedTuple):
    """What the resizing steps of a pipeline do, medians over sizes and draws.

    Args:
        before: Most frequent size of the images, (height, width) in px.
        after: What becomes of it.
        factor: Of height and width.
        lost: Share of the labelled regions of at least ``SMALL_PX`` that are smaller afterwards;
            None where no label was looked at.
        worst: Place among the split's steps of the one that shrinks the most.
        meets: Size in px of what that step is given.
        mosaic: Size in px of what is cropped, where most samples are mosaics.
    """

    before: Size
    after: Size
    factor: float
    lost: float | None
    worst: int
    meets: Size
    mosaic: Size | None

    @property
    def pixels_kept(self) -> float:
        """Share of the pixels that are left, 1 where images grow."""
        return min(1.0, self.factor**2)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        fields = {"before": list(self.before), "after": list(self.after), "factor": self.factor}
        return {**fields, "pixels_kept": self.pixels_kept, "lost": self.lost}


class _Walk(NamedTuple):
    """An image on its way through the resizing steps.

    Args:
        size: (height, width) in px that became of it.
        steps: What each step was given in px, and its factor of height and width.
        mosaic: Size in px of the mosaic that it lies in at the end, if it does.
    """

    size: Size
    steps: list[tuple[Size, float]]
    mosaic: Size | None


def measure_scale(split: Split, tally: Tally, *, looks_at_labels: bool = True) -> Scale | None:
    """Resize blank images of the split's sizes as its steps do.

    None without such a step, and with a user's class of such a name, which may need a whole sample.

    Args:
        split: With its steps.
        tally: Of its files.
        looks_at_labels: Whether to count what is lost, for which a few labels are read.
    """
    steps = _resizing_steps(split.steps)
    if not steps or not tally.sizes:
        return None
    built = [TRANSFORMS.build(dict(split.steps[place][1])) for place in steps]
    if any(map(is_foreign, built)):
        return None
    common = tally.sizes.most_common(_SIZES)
    results: Counter[float] = Counter()
    middles = []
    for size, count in common:
        walks = sorted((_walk(built, size, draw) for draw in range(_DRAWS)), key=lambda w: w.size)
        middles.append(walks[_DRAWS // 2])
        results[median(_ratio(walk.size, size) for walk in walks)] += count
    factor = round(median(results.elements()), 4)
    first = middles[0]
    lost = _lost(tally, factor) if looks_at_labels else None
    worst = min(range(len(steps)), key=lambda i: first.steps[i][1])
    return Scale(
        common[0][0], first.size, factor, lost, steps[worst], first.steps[worst][0], first.mosaic
    )


def _ratio(after: Size, before: Size) -> float:
    return float((after[0] * after[1] / (before[0] * before[1])) ** 0.5)


def _resizing_steps(steps: Steps) -> list[int]:
    """List the places of the resizing steps in front of the first crop."""
    names = [_name(step) for _, step in steps]
    end = names.index("RandomCrop") if "RandomCrop" in names else len(names)
    return [place for place, name in enumerate(names[:end]) if name in RESIZING]


def _name(step: Mapping[str, Any]) -> str:
    return str(step.get("type", "")).rsplit(".", 1)[-1]


def _walk(steps: Sequence[Any], size: Size, draw: int) -> _Walk:
    rng = np.random.RandomState(draw)
    sample: Any = {"img": np.zeros((*size, 1), np.uint8), "img_shape": size, "rng": rng}
    tall, wide = map(float, size)
    passed: list[tuple[Size, float]] = []
    mosaic = None
    for step in steps:
        height, width = given = sample["img"].shape[:2]
        if not isinstance(step, RandomMosaic):
            sample = step(sample)
            down, across = (a / b for a, b in zip(sample["img"].shape, given, strict=False))
            mosaic = mosaic and sample["img"].shape[:2]
        elif rng.rand() < step.prob:  # each image is resized to fit into a quarter
            down = across = min(step.img_scale[0] / height, step.img_scale[1] / width)
            mosaic = (2 * step.img_scale[0], 2 * step.img_scale[1])
            sample["img"] = np.zeros((*mosaic, 1), np.uint8)
        else:
            down = across = 1.0
        tall, wide = tall * down, wide * across
        passed.append((given, (down * across) ** 0.5))
    return _Walk((round(tall), round(wide)), passed, mosaic)


def _lost(tally: Tally, factor: float) -> float | None:
    """Return the share of regions that fall below ``SMALL_PX``, of a few labels."""
    files = [path for path, facts in sorted(tally.labels.items()) if "values" in facts]
    areas = [a for path in files[:: max(1, len(files) // _LABELS)][:_LABELS] for a in _areas(path)]
    large = [area for area in areas if area >= SMALL_PX]
    if not large:
        return None
    return sum(area * factor**2 < SMALL_PX for area in large) / len(large)


def _areas(path: str) -> list[int]:
    """Return the areas in px of the regions of one value in a label file; 255 is left out."""
    with open(path, "rb") as file, open_picture(file) as picture:
        label: NDArray[Any] = np.asarray(picture)
    if label.ndim != 2:
        return []
    areas: list[int] = []
    for value in np.unique(label)[:_VALUES]:
        if value != 255:
            _, _, stats, _ = cv2.connectedComponentsWithStats((label == value).astype(np.uint8))
            areas += stats[1:, cv2.CC_STAT_AREA].tolist()
    return areas


def scale_causes(split: Split, tally: Tally, scale: Scale | None) -> list[Finding]:
    """Name what a pipeline's sizes lose."""
    return [f for f in (_shrunk(split, tally, scale), _large_crop(split, tally, scale)) if f]


def _shrunk(split: Split, tally: Tally, scale: Scale | None) -> Finding | None:
    if scale is None or scale.factor >= SHRUNK:
        return None
    (before, after), kept = (f"{h} x {w} px" for h, w in (scale.before, scale.after)), ""
    if scale.lost is not None:
        kept = f"; of regions of at least {SMALL_PX} px {scale.lost:.0%} become smaller than that"
    severity: Severity = "note" if split.is_planned else "warning"
    return Finding(
        "shrunk-images", severity, split.name,
        f"The pipeline shrinks images to {scale.factor:.0%} of their height and width",
        f"{before} become {after}, {scale.pixels_kept:.0%} of the pixels are left{kept}",
        _whole_size(split, scale),
    )  # fmt: skip


def _whole_size(split: Split, scale: Scale) -> str:
    """Return the lines with which the worst step leaves images about as large as it gets them.

    A range of ratios is kept, and lies around the whole size then.
    """
    key, step = split.steps[scale.worst]
    name = _name(step)
    if name == "RandomMosaic":
        return f"{key}.img_scale = {scale.meets}"
    ratios = step.get("ratio_range") or (1.0, 1.0)
    grown = max(1.0, 2 / (ratios[0] + ratios[1]))
    height, width = (round(side * grown) for side in scale.meets)
    keeps = step.get("keep_ratio") or "max_size" in step
    size = (max(height, width), min(height, width)) if keeps else (width, height)
    lines = [f"{key}.scale = {size}"]
    if name == "RandomChoiceResize":
        lines = [f"{key}.scales = [{size}]"]
    elif name == "RandomResize" and not isinstance(step["scale"][0], int):
        lines = [f"{key}.scale = [{size}, {size}]"]
    elif name == "Resize" and step.get("scale") is None:
        lines = [f"{key}.scale_factor = 1.0"]
    if "max_size" in step:
        lines.append(f"{key}.max_size = {max(*size, step['max_size'])}")
    return "\n".join(lines)


def _large_crop(split: Split, tally: Tally, scale: Scale | None) -> Finding | None:
    """Find crops that are larger than most images as they are cropped."""
    if split.crop is None or not tally.sizes:
        return None
    factor = 1.0 if scale is None else scale.factor
    sizes = tally.sizes
    if scale is not None and scale.mosaic is not None:
        factor, sizes = 1.0, Counter({scale.mosaic: tally.sizes.total()})
    small = sum(
        count for (h, w), count in sizes.items()
        if h * factor < split.crop[0] and w * factor < split.crop[1]
    )  # fmt: skip
    if 2 * small <= sizes.total():
        return None
    middle = (median_low([size[axis] for size in sizes.elements()]) for axis in (0, 1))
    height, width = (max(8, int(side * factor) // 8 * 8) for side in middle)
    return Finding(
        "large-crop", "warning", split.name,
        f"Crops of {split.crop[0]} x {split.crop[1]} px are larger than most images",
        f"{small} of {sizes.total()} images are smaller when they are cropped; the rest of "
        "each crop is padding, which does not train",
        f"--set crop_size='({height}, {width})'",
    )  # fmt: skip
