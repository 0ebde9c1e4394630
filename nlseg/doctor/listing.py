"""Pairs of image and label files, and names without a partner."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from nlseg.datasets.pairs import PairSource, walk
from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.errors import DataError, near_words
from nlseg.pictures import IMAGE_SUFFIXES

_SHOWN = 20


def list_pairs(split: Split) -> list[Finding]:
    """Fill ``split.pairs`` with what is there and name what is not.

    A data set that lists its files without an error is trusted; otherwise its folders are searched,
    so that all problems are reported at once.
    """
    if split.trouble:
        return [Finding("data-set", "error", split.name, "The data set cannot be built",
                        split.trouble, f"see {split.key} in {split.where}")]  # fmt: skip
    dataset = split.dataset
    try:
        dataset.full_init()
    except DataError as error:
        complaint = str(error)
    else:
        entries = (dataset.get_data_info(i) for i in range(len(dataset)))
        split.pairs = [(entry["img_path"], entry.get("seg_map_path")) for entry in entries]
        return _orphans(split) if _is_plain(dataset) else []
    if not _is_plain(dataset):
        return [Finding("data-set", "error", split.name, "The data set finds no files", complaint)]
    return _look_through(split, complaint)


def _is_plain(dataset: object) -> bool:
    """Return whether a data set is two local folders and two suffixes."""
    wanted = ("data_prefix", "img_suffix", "seg_map_suffix", "ann_file")
    source_is_local = not getattr(dataset, "backend_args", None)
    return source_is_local and all(hasattr(dataset, name) for name in wanted)


def source_of(split: Split) -> PairSource:
    """Return where a split's files are."""
    dataset = split.dataset
    return PairSource(
        images=dataset.data_prefix.get("img_path", ""),
        labels=dataset.data_prefix.get("seg_map_path"),
        image_suffix=dataset.img_suffix,
        label_suffix=dataset.seg_map_suffix,
        list_file=dataset.ann_file if os.path.isfile(dataset.ann_file) else "",
    )


def _look_through(split: Split, complaint: str) -> list[Finding]:
    source = source_of(split)
    if not os.path.isdir(source.images):
        return [_missing_folder(split, complaint, "img_path")]
    images = _names(source.images)
    stems = _listed(source) or _stems(images, source.image_suffix)
    if not stems:
        return [_no_images(split, source, images)]
    if split.dataset.ann_file and not (os.path.isdir(split.dataset.ann_file) or _listed(source)):
        return [_missing_list(split, complaint)]
    found = [stem for stem in stems if stem + source.image_suffix in images]
    findings = []
    if len(found) < len(stems):
        lacking = sorted(set(stems) - set(found))
        findings.append(_unlisted(split, source, lacking, len(stems), images))
    if source.labels is None:
        split.pairs = [(os.path.join(source.images, s + source.image_suffix), None) for s in found]
        return findings
    if not os.path.isdir(source.labels):
        return [*findings, _missing_folder(split, complaint, "seg_map_path")]
    labels = _names(source.labels)
    paired = [stem for stem in found if stem + source.label_suffix in labels]
    split.pairs = [
        (os.path.join(source.images, stem + source.image_suffix),
         os.path.join(source.labels, stem + source.label_suffix))
        for stem in paired
    ]  # fmt: skip
    if len(paired) < len(found):
        lacking = sorted(set(found) - set(paired))
        findings.append(_no_label(split, source, lacking, len(found), labels))
    return [*findings, *_orphans(split)] or [
        Finding("data-set", "error", split.name, "The data set finds no files", complaint)
    ]


def _names(folder: str) -> frozenset[str]:
    return frozenset(walk(folder))


def _stems(names: Iterable[str], suffix: str) -> list[str]:
    return sorted(name[: len(name) - len(suffix)] for name in names if name.endswith(suffix))


def _listed(source: PairSource) -> list[str]:
    if not source.list_file:
        return []
    with open(source.list_file, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def _missing_list(split: Split, complaint: str) -> Finding:
    return Finding(
        "data-set", "error", split.name, "The data set finds no files", complaint,
        f"write {split.dataset.ann_file}, one name without its suffix a line; or take all images: "
        f"{split.key}.ann_file = ''",
    )  # fmt: skip


def _missing_folder(split: Split, complaint: str, key: str) -> Finding:
    folder, root = str(split.dataset.data_prefix[key]), str(split.dataset.data_root or "")
    where = f"written in {split.where}" if split.where else ""
    remedy = f"correct {split.key}.data_prefix.{key} or {split.key}.data_root, {where}"
    if root and not os.path.isdir(root):
        key, near = "data_root", _near_folder(root)
    else:
        near = _near_folder(folder)
        if near and root and Path(near).is_relative_to(root):
            near = str(Path(near).relative_to(root))
        key = f"data_prefix.{key}"
    if near:
        remedy = f"{split.key}.{key} = {near!r}  # {where}"
    title = f"A folder is not there ({key.rpartition('.')[2]})"
    return Finding("missing-folder", "error", split.name, title, complaint, remedy.rstrip(" ,#"))


def _near_folder(folder: str) -> str | None:
    """Return the folder that was probably meant; None where no name is near."""
    first, *parts = Path(folder).parts
    there = Path(first) if Path(folder).is_absolute() else Path()
    for name in parts if Path(folder).is_absolute() else (first, *parts):
        near = [name]
        if not (there / name).is_dir():
            near = near_words(name, [path.name for path in there.iterdir() if path.is_dir()])
        if not near:
            return None
        there = there / near[0]
    return str(there)


def _no_images(split: Split, source: PairSource, names: frozenset[str]) -> Finding:
    pictures = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    counts = Counter(os.path.splitext(name)[1] for name in pictures)
    held = ", ".join(f"{n} x {suffix}" for suffix, n in counts.most_common(5)) or "no pictures"
    remedy = f"put the images into {source.images}, or name their folder by "
    remedy += f"{split.key}.data_prefix.img_path, written in {split.where}"
    if counts:
        remedy = f"{split.key}.img_suffix = {counts.most_common(1)[0][0]!r}"
    return Finding(
        "image-suffix", "error", split.name,
        f"No image ends in {source.image_suffix!r}", f"{source.images} holds {held}", remedy,
        tuple(os.path.join(source.images, name) for name in sorted(pictures)[:3]), len(pictures),
    )  # fmt: skip


def _unlisted(
    split: Split, source: PairSource, stems: list[str], total: int, names: frozenset[str]
) -> Finding:
    suffix = _suffix_for_most(stems, total, names)
    remedy = f"{split.key}.img_suffix = {suffix!r}" if suffix else f"correct {source.list_file}"
    if all(stem.endswith(source.image_suffix) for stem in stems):
        remedy = f"write the names in {source.list_file} without {source.image_suffix!r}"
    return Finding(
        "missing-image", "error", split.name,
        f"Images of the list that are not there: {len(stems)}",
        f"{source.list_file} names them, {source.images} does not hold them",
        remedy, tuple(stem + source.image_suffix for stem in stems[:_SHOWN]), len(stems),
    )  # fmt: skip


def _no_label(
    split: Split, source: PairSource, stems: list[str], total: int, names: frozenset[str]
) -> Finding:
    suffix = _suffix_for_most(stems, total, names)
    if suffix:
        remedy = f"{split.key}.seg_map_suffix = {suffix!r}"
    else:
        root = getattr(split.dataset, "data_root", None) or "."
        remedy = f"add the labels, or name the images to use, without {source.image_suffix!r}, in "
        remedy += f"{os.path.join(root, f'{split.name}.txt')}: "
        remedy += f"{split.key}.ann_file = '{split.name}.txt'"
    counts = Counter(os.path.splitext(name)[1] for name in names)
    held = ", ".join(f"{n} x {end}" for end, n in counts.most_common(5)) or "no files"
    return Finding(
        "missing-label", "error", split.name,
        f"Images without a label: {len(stems)} of {total}",
        f"looked for <name>{source.label_suffix} in {source.labels}, which holds {held}",
        remedy,
        tuple(os.path.join(source.images, s + source.image_suffix) for s in stems[:_SHOWN]),
        len(stems),
    )  # fmt: skip


def _suffix_for_most(stems: list[str], total: int, names: Iterable[str]) -> str | None:
    """Suggest a suffix unless most of all files are found by the present one, and would be lost."""
    return suggest_suffix(stems, names) if 2 * len(stems) >= total else None


def suggest_suffix(stems: list[str], names: Iterable[str]) -> str | None:
    """Find what follows the stems in a folder's names.

    Args:
        stems: Relative paths without suffix.
        names: Relative paths of the files that are there.

    Returns:
        The most frequent end of a name that begins with a stem, or None if fewer than half of the
        stems have one.
    """
    wanted, ends = set(stems), Counter[str]()
    for name in names:
        folder, base = os.path.split(name)
        # The longest beginning of the name that is a stem.
        for length in range(len(base) - 1, 0, -1):
            if os.path.join(folder, base[:length]) in wanted:
                ends[base[length:]] += 1
                break
    if not ends:
        return None
    suffix, count = ends.most_common(1)[0]
    return suffix if 2 * count >= len(wanted) else None


def _orphans(split: Split) -> list[Finding]:
    """Name labels that no image uses, where a whole folder is taken."""
    source = source_of(split)
    if source.list_file or source.labels is None or not os.path.isdir(source.labels):
        return []
    used = {os.path.normpath(label) for _, label in split.pairs if label}
    ends = source.label_suffix
    there = [os.path.join(source.labels, n) for n in walk(source.labels) if n.endswith(ends)]
    orphans = sorted(path for path in there if os.path.normpath(path) not in used)
    if not orphans:
        return []
    return [Finding(
        "orphan-label", "warning", split.name, f"Labels that belong to no image: {len(orphans)}",
        f"of {len(there)} files ending in {ends!r} in {source.labels}",
        f"add the images to {source.images}, with names that end in {source.image_suffix!r}, or "
        f"take these labels out of {source.labels}",
        tuple(orphans[:_SHOWN]), len(orphans),
    )]  # fmt: skip
