"""What a pipeline makes of the images' sizes: how far it shrinks them, and what is lost by that."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.doctor.tally import Tally
from nlseg.ops.resize import Size
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
    with PillowImage.open(path) as file:
        label: NDArray[Any] = np.asarray(file)
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
    height, width = scale.before
    place = _resizing_steps(split.pipeline)[0][0]
    return Finding(
        "shrunk-images", "warning", split.name,
        f"The pipeline shrinks images to {scale.factor:.0%} of their height and width",
        f"{before} become {after}, {scale.pixels_kept:.0%} of the pixels are left{kept}",
        f"{split.key}.pipeline.{place}.scale = ({max(height, width)}, {min(height, width)})",
    )  # fmt: skip


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
    height, width = (max(8, int(s * factor) // 8 * 8) for s in tally.sizes.most_common(1)[0][0])
    return Finding(
        "large-crop", "warning", split.name,
        f"Crops of {split.crop[0]} x {split.crop[1]} px are larger than most images",
        f"{small} of {tally.sizes.total()} images are smaller when they are cropped; the rest of "
        "each crop is padding, which does not train",
        f"--set crop_size='({height}, {width})'",
    )  # fmt: skip
