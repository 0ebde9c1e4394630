"""Pairs to training and test images: the split that is given, or one that does not leak.

Frames of one sequence show nearly the same; with some of them in training and their neighbours in
the test, the score says little about new images. So neighbours that are alike stay together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.errors import UserError
from nlseg.start.layout import Layout, Pair

ALIKE = 0.35
"""Neighbours are alike below this share of the usual distance between two images."""
SIDE = 16
"""Side of the small grey pictures that are compared, in px."""
_FEWEST = 2


@dataclass
class Parts:
    """Which pairs train, and which test.

    Args:
        train: Pairs for training.
        val: Pairs for a look while it trains; nothing is chosen by them.
        test: Pairs for the test.
        reason: Where the split is from.
    """

    train: list[Pair]
    val: list[Pair]
    test: list[Pair]
    reason: str
    notes: list[str] = field(default_factory=list)


def split_pairs(
    layout: Layout, share: float, present: Mapping[Pair, frozenset[int]],
    small: Mapping[Pair, NDArray[np.float32]] | None,
) -> Parts:  # fmt: skip
    """Take the split that is given, or make one.

    Args:
        layout: The pairs.
        share: Share of the test images where a split is made, in (0, 1).
        present: Classes that each pair holds.
        small: Small grey pictures (SIDE, SIDE) of the images; None where a split is given.

    Raises:
        UserError: There are too few images to train and to test.
    """
    given = layout.splits()
    if given:
        return _given(layout, given, share, present, small)
    return _made(layout.pairs, share, present, small or {})


def _given(
    layout: Layout, given: Mapping[str, list[Pair]], share: float,
    present: Mapping[Pair, frozenset[int]], small: Mapping[Pair, NDArray[np.float32]] | None,
) -> Parts:  # fmt: skip
    counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in given.items())
    if "train" not in given:
        place = layout.pairs[0].image.parent
        raise UserError(
            f"{place}: the folders name {', '.join(given)} and no train; add a folder train, or "
            "rename them for a split that is made"
        )
    others = {split: pairs for split, pairs in given.items() if split != "train"}
    if not others:
        parts = _made(given["train"], share, present, small or {})
        parts.reason = f"only train is given, a part of it is the test; {parts.reason}"
        return parts
    test = others.get("test") or others["val"]
    parts = Parts(given["train"], others.get("val") or test, test, f"given: {counts}")
    if "test" not in others:
        parts.notes.append("val is the test; nothing is chosen by it, the last weights count")
    return parts


def _made(
    pairs: Sequence[Pair], share: float, present: Mapping[Pair, frozenset[int]],
    small: Mapping[Pair, NDArray[np.float32]],
) -> Parts:  # fmt: skip
    if len(pairs) < _FEWEST:
        raise UserError(
            f"{pairs[0].image}: is the only image with a mask; two are needed at least, one to "
            "train and one to test"
        )
    groups = (
        alike_groups([small[pair] for pair in pairs]) if small else [[i] for i in range(len(pairs))]
    )
    wanted = min(max(1, round(share * len(pairs))), len(pairs) - 1)
    if len(groups) == 1:
        train, test = list(pairs[:-wanted]), list(pairs[-wanted:])
        reason = (
            f"made: all {len(pairs)} images are one sequence of similar frames; its end, {wanted} "
            "frames, is the test, whose first frames resemble the last ones of the training"
        )
        return Parts(train, test, test, reason)
    chosen = choose_groups(groups, [present.get(pair, frozenset()) for pair in pairs], wanted)
    test = [pair for i, pair in enumerate(pairs) if i in chosen]
    train = [pair for i, pair in enumerate(pairs) if i not in chosen]
    reason = f"made: {len(train)} train, {len(test)} test ({100 * len(test) / len(pairs):.0f} %)"
    if len(groups) < len(pairs):
        longest = max(map(len, groups))
        reason += f"; similar frames stay together: {len(groups)} groups, the largest of {longest}"
    else:
        reason += "; no neighbours in the order of names are alike"
    return Parts(train, test, test, reason)


def small_picture(path: Path) -> NDArray[np.float32]:
    """Return an image as grey levels (SIDE, SIDE) in units of its own spread.

    Raises:
        UserError: It cannot be read.
    """
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"{path}: cannot be decoded; copy it again, or remove it and its mask")
    grey = image[..., :3].astype(np.float32).mean(2) if image.ndim == 3 else image
    small = cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray((small - small.mean()) / (small.std() + 1e-3), np.float32)


def alike_groups(small: Sequence[NDArray[np.float32]]) -> list[list[int]]:
    """Join neighbours that are far more alike, also mirrored or turned, than images usually are.

    Args:
        small: Small grey pictures (SIDE, SIDE), in the order of their names.

    Returns:
        Runs of places, in their order.
    """
    count = len(small)
    if count < 3:  # two images have no usual distance
        return [[i] for i in range(count)]
    stack = np.stack(small)
    copies = [
        np.rot90(one, turns, (1, 2)) for one in (stack, stack[..., ::-1]) for turns in range(4)
    ]
    near = np.min([np.abs(copy[1:] - stack[:-1]).mean((1, 2)) for copy in copies], 0)
    half = count // 2
    far = np.abs(stack[: count - half] - stack[half:]).mean((1, 2))
    limit = ALIKE * float(np.median(far))
    groups = [[0]]
    for place in range(1, count):
        if near[place - 1] < limit:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def choose_groups(  # noqa: C901 - one rule, whose parts share what is taken
    groups: Sequence[Sequence[int]], present: Sequence[frozenset[int]], wanted: int
) -> set[int]:
    """Choose whole groups for the test, spread over all, every class in both parts where possible.

    Args:
        groups: Places that stay together.
        present: Classes of each place.
        wanted: How many places the test should have; it gets at least one group and never all.

    Returns:
        The chosen places.
    """
    held = [frozenset().union(*(present[i] for i in group)) for group in groups]
    left = {c: sum(c in classes for classes in held) for c in frozenset().union(*held)}
    chosen: set[int] = set()
    taken: set[int] = set()

    def take(number: int) -> bool:
        """Take a group unless training would lose a class, or the test become far too large."""
        large = len(chosen) + len(groups[number]) > 1.5 * wanted and chosen
        if number in taken or large or len(taken) + 1 == len(groups):
            return False
        if any(left[c] == 1 for c in held[number]):
            return False
        taken.add(number)
        chosen.update(groups[number])
        for c in held[number]:
            left[c] -= 1
        return True

    for label in sorted(left, key=lambda c: (left[c], c)):  # the rarest first
        have = frozenset().union(*(held[number] for number in taken))
        if label not in have and len(chosen) < wanted:
            numbers = [n for n in range(len(groups)) if label in held[n]]
            next((n for n in _spread(numbers) if take(n)), None)
    for number in _spread(range(len(groups))):
        if len(chosen) >= wanted:
            break
        take(number)
    if not chosen:  # every group holds a class that no other one has
        smallest = min(range(len(groups)), key=lambda number: len(groups[number]))
        chosen.update(groups[smallest])
    return chosen


def _spread(numbers: Sequence[int]) -> list[int]:
    """Order numbers so that any first few are spread over all: by the golden ratio."""
    step = 0.618034
    return sorted(numbers, key=lambda n: (0.5 + step * n) % 1.0)
