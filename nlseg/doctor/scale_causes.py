"""What a pipeline makes of the images' sizes: how far it shrinks them, and what is lost by that."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median, median_low
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.doctor.tally import Tally
from nlseg.ops.resize import Size
from nlseg.pictures import open_picture
from nlseg.registry import TRANSFORMS

RESIZING = (
    "Resize", "RandomResize", "RandomChoiceResize", "ResizeShortestEdge", "ResizeToMultiple",
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
            None where no label can be looked at.
    """

    before: Size
    after: Size
    factor: float
    lost: float | None

    @property
    def pixels_kept(self) -> float:
        """Share of the pixels that are left, 1 where images grow."""
        return min(1.0, self.factor**2)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        fields = {"before": list(self.before), "after": list(self.after), "factor": self.factor}
        return {**fields, "pixels_kept": self.pixels_kept, "lost": self.lost}


def measure_scale(split: Split, tally: Tally) -> Scale | None:
    """Resize blank images of the split's sizes as its pipeline does; None without such a step."""
    steps = _resizing_steps(split.pipeline)
    if not steps or not tally.sizes:
        return None
    built = [TRANSFORMS.build(dict(step)) for _, step in steps]
    common = tally.sizes.most_common(_SIZES)
    results: Counter[float] = Counter()
    after: Size = (0, 0)
    for place, (size, count) in enumerate(common):
        sizes = [_resized(built, size, draw) for draw in range(_DRAWS)]
        middle = sorted(sizes)[_DRAWS // 2]
        after = middle if place == 0 else after
        results[median((h * w / (size[0] * size[1])) ** 0.5 for h, w in sizes)] += count
    factor = round(median(results.elements()), 4)
    return Scale(common[0][0], after, factor, _lost(tally, factor))


def _resizing_steps(pipeline: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """List the resizing steps in front of the first crop, each with its place."""
    found = []
    for place, step in enumerate(pipeline or ()):
        name = str(step.get("type", "")).rsplit(".", 1)[-1] if isinstance(step, Mapping) else ""
        if name == "RandomCrop":
            break
        if name in RESIZING:
            found.append((place, step))
    return found


def _resized(steps: Sequence[Any], size: Size, draw: int) -> Size:
    image = np.zeros((*size, 1), np.uint8)
    sample: Any = {"img": image, "img_shape": size, "rng": np.random.RandomState(draw)}
    for step in steps:
        sample = step(sample)
    height, width = sample["img"].shape[:2]
    return height, width


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
    return Finding(
        "shrunk-images", "warning", split.name,
        f"The pipeline shrinks images to {scale.factor:.0%} of their height and width",
        f"{before} become {after}, {scale.pixels_kept:.0%} of the pixels are left{kept}",
        _whole_size(split, scale),
    )  # fmt: skip


def _whole_size(split: Split, scale: Scale) -> str:
    """Return the lines with which the first resizing step leaves images about as large as they are.

    A range of ratios is kept, and lies around the whole size then.
    """
    place, step = _resizing_steps(split.pipeline)[0]
    name, key = str(step["type"]).rsplit(".", 1)[-1], f"{split.key}.pipeline.{place}"
    ratios = step.get("ratio_range") or (1.0, 1.0)
    grown = max(1.0, 2 / (ratios[0] + ratios[1]))
    height, width = (round(side * grown) for side in scale.before)
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
    small = sum(
        count for (h, w), count in tally.sizes.items()
        if h * factor < split.crop[0] and w * factor < split.crop[1]
    )  # fmt: skip
    if 2 * small <= tally.sizes.total():
        return None
    middle = (median_low([size[axis] for size in tally.sizes.elements()]) for axis in (0, 1))
    height, width = (max(8, int(side * factor) // 8 * 8) for side in middle)
    return Finding(
        "large-crop", "warning", split.name,
        f"Crops of {split.crop[0]} x {split.crop[1]} px are larger than most images",
        f"{small} of {tally.sizes.total()} images are smaller when they are cropped; the rest of "
        "each crop is padding, which does not train",
        f"--set crop_size='({height}, {width})'",
    )  # fmt: skip
