"""Facts and rules -> counts: classes, stray values, sizes, channel statistics of one split."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nlseg.datasets.transforms.labels import label_table
from nlseg.doctor.probe import Facts
from nlseg.doctor.splits import Rules, Split
from nlseg.ops.resize import Size


@dataclass
class Spread:
    """One raw label value over a split: its pixels, and the files that hold it."""

    pixels: int = 0
    num_files: int = 0
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Say both numbers."""
        return f"{self.pixels} px in {self.num_files} file{'' if self.num_files == 1 else 's'}"

    def add(self, pixels: int, file: str) -> None:
        """Count a file that holds the value."""
        self.pixels += pixels
        self.num_files += 1
        if len(self.files) < 8:
            self.files.append(file)


@dataclass
class Tally:
    """Counts of one split.

    Args:
        pixels: Pixels of every class (K,).
        frames: Label files that hold the class (K,).
        area: Labelled pixels of those files, together (K,).
        ignored: Pixels that do not count.
        values: Raw value -> where it occurs; one-channel files only.
        strays: Raw value -> where it occurs, of those that are neither class nor ignored.
        painted: Label files of several channels -> their most frequent colours.
        lost_colours: RGB colour that ``palette_to_index`` does not know -> where it occurs.
        all_ignored: Label files without a single labelled pixel.
        unreadable: File -> why.
        mismatched: Image, label and their sizes where these differ.
        sizes: Size of the images as the pipeline sees them -> their number.
        scale: What the pipeline's resizing steps do, see ``scale_causes``.
        images: Image file -> its facts.
        labels: Label file -> its facts.
    """

    pixels: NDArray[np.int64]
    frames: NDArray[np.int64]
    area: NDArray[np.int64]
    ignored: int = 0
    values: dict[str, Spread] = field(default_factory=dict)
    strays: dict[str, Spread] = field(default_factory=dict)
    painted: dict[str, list[list[int]]] = field(default_factory=dict)
    lost_colours: dict[tuple[int, int, int], Spread] = field(default_factory=dict)
    all_ignored: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    mismatched: list[tuple[str, str, Size, Size]] = field(default_factory=list)
    sizes: Counter[Size] = field(default_factory=Counter)
    scale: Any = None
    images: dict[str, Facts] = field(default_factory=dict)
    labels: dict[str, Facts] = field(default_factory=dict)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of every class in all labelled pixels (K,)."""
        return np.asarray(self.pixels / max(1, self.pixels.sum()))

    def channel_statistics(self) -> tuple[list[float], list[float]] | None:
        """Return mean and std (3,) in RGB order over all pixels of all images, or None."""
        facts = [f for f in self.images.values() if f["error"] is None]
        if not facts:
            return None
        weight = np.array([f["height"] * f["width"] for f in facts], np.float64)[:, None]
        mean = np.array([f["mean"] for f in facts])
        square = np.array([f["std"] for f in facts]) ** 2 + mean**2
        total = (mean * weight).sum(0) / weight.sum()
        variance = (square * weight).sum(0) / weight.sum() - total**2
        return total.round(3).tolist(), np.sqrt(np.maximum(variance, 0)).round(3).tolist()


def seen_size(facts: Facts) -> Size:
    """Return the size that the pipeline sees, after turning a picture as its EXIF tag says."""
    height, width = facts["height"], facts["width"]
    return (width, height) if facts.get("turned") else (height, width)


def make_tally(split: Split, facts: Mapping[tuple[str, str], Facts]) -> Tally:
    """Add up the facts of a split's pairs."""
    zeros = np.zeros(len(split.rules.classes), np.int64)
    tally = Tally(zeros, zeros.copy(), zeros.copy())
    counter = ValueCounter(split.rules)
    for image, label in split.pairs:
        seen = facts["image", image]
        if not (seen["error"] or split.rules.turns):
            seen = {**seen, "turned": False, "orientation": 1}
        tally.images[image] = seen
        if seen["error"]:
            tally.unreadable[image] = seen["error"]
        else:
            tally.sizes[seen_size(seen)] += 1
        if label is None:
            continue
        labelled = tally.labels[label] = facts["label", label]
        if labelled["error"]:
            tally.unreadable[label] = labelled["error"]
            continue
        size = (labelled["height"], labelled["width"])
        if not seen["error"] and size != seen_size(seen):
            tally.mismatched.append((image, label, seen_size(seen), size))
        counter.add(tally, label, labelled)
    return tally


class ValueCounter:
    """Turns what a label file holds into counts of classes, by the split's rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.num_classes = len(rules.classes)
        table = label_table(rules.reduce_zero_label, rules.label_map)
        self.table = np.arange(256) if table is None else table.astype(np.int64)
        self.colours = colour_classes(rules.palette_to_index)

    def add(self, tally: Tally, path: str, facts: Facts) -> None:
        """Add one readable label file."""
        for raw, pixels in facts.get("values", {}).items():
            tally.values.setdefault(raw, Spread()).add(pixels, path)
        if "colours" in facts and not self.colours:
            tally.painted[path] = facts["colours"]
            return
        if self.colours:
            classes = self._sort_colours(tally, path, facts)
        else:
            classes = self._sort_values(tally, path, facts)
        ignored = classes.pop(self.rules.ignore_index, 0)
        tally.ignored += ignored
        if ignored == facts["height"] * facts["width"]:
            tally.all_ignored.append(path)
        for new, pixels in classes.items():
            tally.pixels[new] += pixels
            tally.frames[new] += 1
            tally.area[new] += classes.total()

    def becomes(self, raw: str) -> int | None:
        """Return the class, or the ignore index, of a raw value; None for a stray."""
        new = int(self.table[int(raw)]) if raw.isdigit() and int(raw) < 256 else None
        return new if self._counts(new) else None

    def _counts(self, new: int | None) -> bool:
        is_class = new is not None and 0 <= new < self.num_classes
        return is_class or new == self.rules.ignore_index

    def _sort_values(self, tally: Tally, path: str, facts: Facts) -> Counter[int]:
        """Count the pixels of every class and of the ignore index; note strays in the tally."""
        classes: Counter[int] = Counter()
        for raw, pixels in facts["values"].items():
            new = self.becomes(raw)
            if new is not None:
                classes[new] += pixels
            else:
                tally.strays.setdefault(raw, Spread()).add(pixels, path)
        return classes

    def _sort_colours(self, tally: Tally, path: str, facts: Facts) -> Counter[int]:
        """The same for files whose colours are the classes."""
        classes: Counter[int] = Counter()
        for red, green, blue, pixels in facts.get("colours") or _painted_values(facts):
            colour = (red, green, blue)
            new = self.colours.get(colour)
            if new is not None and self._counts(new):
                classes[new] += pixels
            else:
                tally.lost_colours.setdefault(colour, Spread()).add(pixels, path)
        return classes


def _painted_values(facts: Facts) -> list[list[int]]:
    """List the colours that the values of a one-channel file are shown in."""
    palette = facts.get("palette") or {raw: [int(float(raw))] * 3 for raw in facts["values"]}
    return [[*palette[raw], pixels] for raw, pixels in facts["values"].items()]


def colour_classes(colours: Any) -> dict[tuple[int, int, int], int]:
    """Return the class of each RGB colour, as ``palette_to_index`` gives them.

    Args:
        colours: A mapping, colours in the order of the classes, or None.
    """
    if colours is None:
        return {}
    pairs = colours.items() if isinstance(colours, Mapping) else zip(colours, range(256))  # noqa: B905
    return {(int(c[0]), int(c[1]), int(c[2])): int(index) for c, index in pairs}
