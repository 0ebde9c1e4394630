"""What is wrong with files: unreadable, of another size, turned, too deep, twice there."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from nlseg.doctor.finding import Finding
from nlseg.doctor.probe import Facts
from nlseg.doctor.splits import Split, step_key
from nlseg.doctor.tally import Tally, seen_size

_SHOWN = 8
_HEAD = 1 << 16


def file_causes(split: Split, tally: Tally, level: int = 0) -> list[Finding]:
    """Name what is wrong with the files of a split.

    Args:
        split: The split.
        tally: Its counts.
        level: What :func:`deep_level` says of all files; 0 where only some were looked at.
    """
    found = [check(split, tally) for check in (_unreadable, _turned, _mismatched)]
    found.append(_deep(split, tally, level))
    found += [check(split, tally) for check in (_not_rgb, _small, _twice_inside)]
    return [finding for finding in found if finding is not None]


def _unreadable(split: Split, tally: Tally) -> Finding | None:
    if not tally.unreadable:
        return None
    listed = sorted(tally.unreadable.items())
    detail = "\n".join(f"{path}: {why}" for path, why in listed[:_SHOWN])
    policy = getattr(split.dataset, "bad_samples", None)
    if policy is not None and policy.policy != "raise" and policy.limit >= len(listed):
        return Finding(
            "unreadable", "note", split.name, f"Files that cannot be read: {len(listed)}",
            f"{detail}\n{split.key}.bad_samples passes them over",
            files=tuple(path for path, _ in listed[:_SHOWN]), count=len(listed),
        )  # fmt: skip
    if set(tally.unreadable) >= set(tally.images):
        rest = "convert them, as there is no other one"
    elif split.stage == "train":
        rest = f"skip them: {split.key}.bad_samples = dict(policy='skip', limit={len(listed)})"
    else:  # a score needs every image
        rest = f"name the others in a text file, {split.key}.ann_file"
    return Finding(
        "unreadable", "error", split.name, f"Files that cannot be read: {len(listed)}", detail,
        f"copy or download them again; or {rest}",
        tuple(path for path, _ in listed[:_SHOWN]), len(listed),
    )  # fmt: skip


def _turned(split: Split, tally: Tally) -> Finding | None:
    """Find EXIF tags: images are rotated by them, labels have none."""
    turned = {p for p, f in tally.images.items() if not f["error"] and f["orientation"] != 1}
    if not turned:
        return None
    files = tuple(sorted(turned)[:_SHOWN])
    place = step_key(split, "LoadImageFromFile")
    as_stored = f"{place}.color_type = 'color_ignore_orientation'"
    unturned_fit = [
        image for image, _, seen, label in tally.mismatched
        if image in turned and label == seen[::-1]
    ]  # fmt: skip
    if unturned_fit:
        return Finding(
            "exif", "error", split.name,
            f"Images turned by an EXIF tag, their labels not: {len(turned)}",
            f"labels that fit the image as it is stored, not as it is shown: {len(unturned_fit)}",
            f"{as_stored}\nthat is, in {split.key}.pipeline: dict(type='LoadImageFromFile', "
            "color_type='color_ignore_orientation')",
            files, len(turned),
        )  # fmt: skip
    doubtful = [path for path in turned if not _shows_how_it_is_turned(tally.images[path])]
    if not doubtful or not tally.labels:
        return Finding(
            "exif", "note", split.name, f"Images turned by an EXIF tag: {len(turned)}",
            "they are turned as the tag says while loading, and so are their labels"
            if tally.labels else "they are turned as the tag says while loading",
            files=files, count=len(turned),
        )  # fmt: skip
    return Finding(
        "exif", "warning", split.name, f"Images turned by an EXIF tag: {len(turned)}",
        "they are turned as the tag says while loading; sizes do not tell whether the labels are, "
        f"too: {len(doubtful)}",
        f"look at them by nlseg browse; if their labels are not turned: {as_stored}",
        files, len(turned),
    )  # fmt: skip


def _shows_how_it_is_turned(facts: Facts) -> bool:
    """Return whether a picture turned sideways has another size than as it is stored."""
    return bool(facts["turned"]) and facts["height"] != facts["width"]


def _mismatched(split: Split, tally: Tally) -> Finding | None:
    found = [m for m in tally.mismatched if not _only_turned(tally, m[0], m[2], m[3])]
    if not found:
        return None
    detail = "\n".join(
        f"{label}: {h} x {w} px, its image {height} x {width} px (height x width)"
        for _, label, (height, width), (h, w) in found[:_SHOWN]
    )
    return Finding(
        "size-mismatch", "error", split.name,
        f"Labels of another size than their images: {len(found)}", detail,
        "resize the labels with nearest neighbour, or check that names pair the right files",
        tuple(label for _, label, _, _ in found[:_SHOWN]), len(found),
    )  # fmt: skip


def _only_turned(tally: Tally, image: str, seen: tuple[int, int], label: tuple[int, int]) -> bool:
    return tally.images[image]["orientation"] != 1 and label == seen[::-1]


def _deep_images(split: Split, tally: Tally) -> list[str]:
    """Return the images of more than 8 bits that are loaded as 8 bits."""
    if split.rules.keeps_depth:
        return []
    return sorted(p for p, f in tally.images.items() if not f["error"] and f["dtype"] != "uint8")


def deep_level(tallies: Iterable[tuple[Split, Tally]]) -> int:
    """Return the highest level of as many bits as the images of all splits use together.

    One level for all: images of training and validation that are scaled by their own would differ
    in brightness. 0 where none has more than 8 bits.
    """
    deep = [(tally, path) for split, tally in tallies for path in _deep_images(split, tally)]
    highest = max((tally.images[path].get("highest", 0) for tally, path in deep), default=0)
    return int((1 << int(highest).bit_length()) - 1)


def _deep(split: Split, tally: Tally, level: int) -> Finding | None:
    deep = _deep_images(split, tally)
    if not deep:
        return None
    kinds = sorted({str(tally.images[path]["dtype"]) for path in deep})
    means = [sum(tally.images[path]["mean"]) / 3 for path in deep]
    dark = sum(means) / len(means) < 16
    detail = f"{', '.join(kinds)}; loading turns them into 8 bits by the highest value of the type"
    if dark:
        detail += ", which leaves these nearly black: they use only the lower part of the range"
    return Finding(
        "deep-images", "error" if dark else "warning", split.name,
        f"Images with more than 8 bits a channel: {len(deep)}", detail,
        "convert them to 8 bits once, scaled by the range that all data sets use together: "
        + (f"0..{level} to 0..255" if level else "nlseg check-data names it"),
        tuple(deep[:_SHOWN]), len(deep),
    )  # fmt: skip


def _not_rgb(split: Split, tally: Tally) -> Finding | None:
    odd: dict[str, list[str]] = defaultdict(list)
    for path, facts in tally.images.items():
        if not facts["error"] and facts["mode"] not in ("RGB", "unknown"):
            odd[facts["mode"]].append(path)
    if not odd:
        return None
    meaning = {"L": "grey", "LA": "grey with alpha", "RGBA": "alpha, which is dropped",
               "P": "palette", "CMYK": "print colours", "1": "black and white"}  # fmt: skip
    detail = ", ".join(
        f"{len(files)} x {mode} ({meaning.get(mode, 'other')})" for mode, files in odd.items()
    )
    files = [path for listed in odd.values() for path in listed]
    return Finding(
        "not-rgb", "note", split.name, f"Images not stored as RGB: {len(files)}",
        f"{detail}; they are loaded as three channels",
        files=tuple(sorted(files)[:_SHOWN]), count=len(files),
    )  # fmt: skip


def _small(split: Split, tally: Tally) -> Finding | None:
    """Find images that are smaller than a training crop in both directions."""
    if split.crop is None:
        return None
    height, width = split.crop
    small = sorted(
        path for path, facts in tally.images.items()
        if not facts["error"] and seen_size(facts)[0] < height and seen_size(facts)[1] < width
    )  # fmt: skip
    if not small:
        return None
    return Finding(
        "small-images", "note", split.name,
        f"Images smaller than the crop of {height} x {width} px: {len(small)}",
        "unless they are resized first, crops are padded and the padding is ignored",
        files=tuple(small[:_SHOWN]), count=len(small),
    )  # fmt: skip


def _twice_inside(split: Split, tally: Tally) -> Finding | None:
    groups = [sorted(paths) for paths in _by_content(tally).values() if len(paths) > 1]
    if not groups:
        return None
    detail = "\n".join(" = ".join(group[:3]) for group in groups[:_SHOWN])
    return Finding(
        "same-image-twice", "warning", split.name,
        f"Images that are there more than once: {len(groups)}", detail,
        "drop the copies, unless they are meant to weigh more",
        tuple(group[0] for group in groups[:_SHOWN]), sum(map(len, groups)),
    )  # fmt: skip


def _by_content(tally: Tally) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path, facts in tally.images.items():
        if not facts["error"]:
            found[facts["sha"]].append(path)
    return found


def shared_between(first: tuple[Split, Tally], second: tuple[Split, Tally]) -> Finding | None:
    """Name images that two splits share, by the content of their pixels."""
    (one, ours), (two, theirs) = first, second
    here, there = _by_content(ours), _by_content(theirs)
    both = sorted(here.keys() & there.keys(), key=lambda sha: here[sha][0])
    within = here.keys() <= there.keys() or there.keys() <= here.keys()
    tests_alone = "train" not in (one.stage, two.stage) and within
    if not both or tests_alone:  # the validation set is the test set, or a part, as many have it
        return None
    return shared_finding(one, two, [(here[sha][0], there[sha][0]) for sha in both])


def shared_finding(one: Split, two: Split, pairs: Sequence[tuple[str, str]]) -> Finding:
    """Name images of one split, and those of another that hold the same."""
    detail = "\n".join(f"{first} = {second}" for first, second in pairs[:_SHOWN])
    stages = {one.stage, two.stage}
    leaks = "train" in stages and len(stages) > 1
    folder = os.path.dirname(pairs[0][1])
    step = f"take them out of one of the two (such as those in {folder})"
    step += "; scores on images that were trained on mean nothing" if leaks else ""
    if all(first == second for first, second in pairs):  # one folder for both
        step = _divided(one, two)
    return Finding(
        "shared-images", "error" if leaks else "warning", f"{one.name} and {two.name}",
        f"Images both in {one.name} and in {two.name}: {len(pairs)}", detail, step,
        tuple(second for _, second in pairs[:_SHOWN]), len(pairs),
    )  # fmt: skip


def _divided(one: Split, two: Split) -> str:
    """Return the step and the lines by which two splits of one folder have lists of their own."""
    files, lines = [], []
    for split in (one, two):
        root = os.path.abspath(getattr(split.dataset, "data_root", None) or ".")
        given = getattr(split.dataset, "ann_file", None)
        files.append(str(given or os.path.join(root, f"{split.name}.txt")))
        keys = () if given else (split.key, *split.also)
        lines += [f"{key}.ann_file = {files[-1]!r}" for key in keys]
    suffix = getattr(one.dataset, "img_suffix", "")
    lists = " and ".join(files)
    step = f"list the names of their images, without {suffix!r}, in {lists}, each in one of the two"
    return "\n".join([f"{step}{':' * bool(lines)}", *lines])


def same_files(ours: Iterable[str], theirs: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of files that hold the same bytes, without decoding one.

    Only files of equal size are read, first their heads, then their wholes. A file that is gone is
    passed over: whoever loads it says so.
    """
    there = _by_size(theirs)
    sizes = there.keys()
    here = _by_size(ours, sizes)
    pairs: list[tuple[str, str]] = []
    for size in here:
        for limit in (_HEAD, None):
            known = {_digest(path, limit): path for path in reversed(here[size])}
            found = [(known.get(_digest(path, limit)), path) for path in there[size]]
            same = [(one, other) for one, other in found if one is not None]
            if not same or size <= _HEAD:
                break
        pairs += same
    return sorted(pairs)


def _by_size(paths: Iterable[str], among: Collection[int] | None = None) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        with suppress(OSError):
            size = os.stat(path).st_size
            if size and (among is None or size in among):
                found[size].append(path)
    return found


def _digest(path: str, limit: int | None) -> str:
    """Return a hash of a file's head or whole, and of its path where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha1(file.read(limit), usedforsecurity=False).hexdigest()
    except OSError:
        return path
