"""What is wrong with files: unreadable, of another size, turned, too deep, twice there."""

import os
from collections import defaultdict

from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.doctor.tally import Tally, seen_size

_SHOWN = 8


def file_causes(split: Split, tally: Tally) -> list[Finding]:
    """Name what is wrong with the files of a split."""
    checks = (_unreadable, _turned, _mismatched, _deep, _not_rgb, _small, _twice_inside)
    return [finding for check in checks if (finding := check(split, tally)) is not None]


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
    return Finding(
        "unreadable", "error", split.name, f"Files that cannot be read: {len(listed)}", detail,
        "copy or download them again; or skip them: "
        f"{split.key}.bad_samples = dict(policy='skip', limit={len(listed)})",
        tuple(path for path, _ in listed[:_SHOWN]), len(listed),
    )  # fmt: skip


def _turned(split: Split, tally: Tally) -> Finding | None:
    """Find EXIF tags: images are rotated by them, labels have none."""
    turned = {p for p, f in tally.images.items() if not f["error"] and f["orientation"] != 1}
    if not turned:
        return None
    files = tuple(sorted(turned)[:_SHOWN])
    unturned_fit = [
        image for image, _, seen, label in tally.mismatched
        if image in turned and label == seen[::-1]
    ]  # fmt: skip
    if unturned_fit:
        return Finding(
            "exif", "error", split.name,
            f"Images turned by an EXIF tag, their labels not: {len(turned)}",
            f"labels that fit the image as it is stored, not as it is shown: {len(unturned_fit)}",
            f"in {split.key}.pipeline: dict(type='LoadImageFromFile', "
            "color_type='color_ignore_orientation')",
            files, len(turned),
        )  # fmt: skip
    return Finding(
        "exif", "warning", split.name, f"Images turned by an EXIF tag: {len(turned)}",
        "they are turned as the tag says while loading; see that the labels are, too",
        "color_type='color_ignore_orientation' in LoadImageFromFile leaves them as stored",
        files, len(turned),
    )  # fmt: skip


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


def _deep(split: Split, tally: Tally) -> Finding | None:
    deep = sorted(p for p, f in tally.images.items() if not f["error"] and f["dtype"] != "uint8")
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
        "convert them to 8 bits once, scaled by the range that they use",
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
    if not both:
        return None
    detail = "\n".join(f"{here[sha][0]} = {there[sha][0]}" for sha in both[:_SHOWN])
    stages = {one.stage, two.stage}
    leaks = "train" in stages and len(stages) > 1
    folder = os.path.dirname(there[both[0]][0])
    return Finding(
        "shared-images", "error" if leaks else "warning", f"{one.name} and {two.name}",
        f"Images both in {one.name} and in {two.name}: {len(both)}", detail,
        f"take them out of one of the two (such as those in {folder})"
        + ("; scores on images that were trained on mean nothing" if leaks else ""),
        tuple(there[sha][0] for sha in both[:_SHOWN]), len(both),
    )  # fmt: skip
