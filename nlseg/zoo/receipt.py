"""The receipt of a score: a JSON file of facts, and beside it the counts of each single image.

``receipt.json`` holds the score, what was measured (SHA-256 of config, weights and data) and how;
``receipt.npz`` holds, without pickles, the arrays ``names`` (N,), ``files`` (N,) and ``pairs``
(M, 4) of :class:`nlseg.evaluation.image_counts.CountedImages`. Both are hashed in the JSON, so that
a changed digit is found. That shows slips and damage; who wants to forge can compute a hash.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from nlseg.errors import UserError
from nlseg.evaluation.image_counts import CountedImages
from nlseg.evaluation.scores import Scores, class_scores, summarize
from nlseg.files import replace_file, write_file

FORMAT = "nlseg receipt 1"
NAME = "receipt.json"
_MAX_BYTES = 1 << 30  # of each array of counts: a damaged file must not fill the memory
_KINDS = {"names": "U", "files": "U", "pairs": "i"}


@dataclass(frozen=True)
class Receipt:
    """What a score rests on.

    Args:
        facts: The content of the JSON file.
        images: Counts of each image.
        files: SHA-256 of each image and its label together (N,), by name; empty text where the
            files could not be read.
        path: The JSON file.
    """

    facts: Mapping[str, Any]
    images: CountedImages
    files: tuple[str, ...]
    path: Path

    @property
    def scores(self) -> dict[str, float]:
        """The scores in percent that were printed: mIoU, aAcc, ..."""
        return dict(self.facts["scores"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self.facts["classes"])

    @property
    def is_partial(self) -> bool:
        """Not all images of the data set were tested."""
        return bool(self.facts["partial"])

    def recomputed(self) -> Scores:
        """Score every class from the counts, as fractions."""
        counts = torch.from_numpy(self.images.total(len(self.classes)))
        return score_counts(counts, self.classes, self.facts["metric"])


def score_counts(counts: torch.Tensor, classes: Sequence[str], metric: Mapping[str, Any]) -> Scores:
    """Score counts (K + 1, K + 1) as the metric of a receipt does.

    Args:
        counts: Pixels, rows true, columns predicted.
        classes: Names of the K classes.
        metric: ``names``, ``beta`` and ``nan_to_num`` of the metric.
    """
    return class_scores(
        counts, len(classes), metrics=metric["names"], beta=metric["beta"],
        nan_to_num=metric["nan_to_num"],
    )  # fmt: skip


def write_receipt(
    path: Path, facts: Mapping[str, Any], images: CountedImages, files: Sequence[str]
) -> None:
    """Write a receipt, the counts first, so that a JSON file that is there has its counts.

    Args:
        path: The JSON file.
        facts: All but ``format``, ``counts`` and ``sha256``.
        images: Counts of each image.
        files: SHA-256 of each image and its label (N,).
    """
    arrays = {
        "names": np.array(images.names, dtype=str),
        "files": np.array(files, dtype=str),
        "pairs": images.pairs,
    }
    counts = path.with_suffix(".npz")

    def write(file: BinaryIO) -> None:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    replace_file(counts, write)
    content = {
        "format": FORMAT, **facts,
        "counts": {"file": counts.name, "sha256": digest_of_counts(images, files)},
    }  # fmt: skip
    content["sha256"] = digest_of(content)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_file(path, text)


def read_receipt(path: str | Path) -> Receipt:
    """Read a receipt as it is written; :func:`problems` tells whether it is sound.

    Args:
        path: The JSON file, or the folder of a test that holds one.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        facts = json.loads(path.read_text())
        counts = path.with_name(Path(facts["counts"]["file"]).name)
        if facts["format"] != FORMAT:
            raise UserError(f"{path}: is a {facts['format']!r}; this nlseg reads {FORMAT!r}")
        arrays = _arrays(counts)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: is not there; nlseg test writes {NAME}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is no receipt: {type(error).__name__}: {error}") from None
    images = CountedImages(tuple(arrays["names"].tolist()), arrays["pairs"])
    return Receipt(facts, images, tuple(arrays["files"].tolist()), path)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
    if max(sizes, default=0) > _MAX_BYTES:
        raise ValueError(f"{path.name} unpacks to more than {_MAX_BYTES >> 30} GiB")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: np.asarray(file[name]) for name in _KINDS}
    pairs, names, files = arrays["pairs"], arrays["names"], arrays["files"]
    wrong = [name for name, array in arrays.items() if array.dtype.kind != _KINDS[name]]
    if wrong or pairs.ndim != 2 or pairs.shape[1] != 4 or names.shape != files.shape:
        raise ValueError(f"{path.name} does not hold names (N,), files (N,) and pairs (M, 4)")
    return arrays


def problems(receipt: Receipt) -> list[str]:
    """Recompute everything that a receipt says about itself.

    Returns:
        What does not agree, nothing where all does.
    """
    facts, found = receipt.facts, []
    try:
        if facts["sha256"] != digest_of({k: v for k, v in facts.items() if k != "sha256"}):
            found.append(f"{receipt.path.name}: the text was changed after it was written")
        counts = facts["counts"]
        if counts["sha256"] != digest_of_counts(receipt.images, receipt.files):
            found.append(f"{counts['file']}: the counts were changed after they were written")
        found += _wrong_data(receipt) + _wrong_scores(receipt)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found.append(f"{receipt.path.name}: {type(error).__name__}: {error}")
    return found


def _wrong_data(receipt: Receipt) -> list[str]:
    said, num_classes = receipt.facts["data"], len(receipt.classes)
    computed = {
        "images": len(receipt.images.names),
        "files_sha256": digest_of_files(receipt.images.names, receipt.files),
        "labels_sha256": digest_of_labels(
            receipt.images.names, receipt.images.labelled(num_classes)
        ),
    }
    return [
        f"data.{key}: written is {said[key]}, the counts give {value}"
        for key, value in computed.items()
        if said[key] != value
    ]


def _wrong_scores(receipt: Receipt) -> list[str]:
    scores = receipt.recomputed()
    pairs = [("scores", receipt.facts["scores"], rounded(summarize(scores), 2))]
    per_class = of_classes(scores)
    for key, values in per_class.items():
        named = dict(zip(receipt.classes, values, strict=True))
        said = dict(zip(receipt.classes, receipt.facts["per_class"][key], strict=True))
        pairs.append((f"per_class.{key}", said, named))
    return [
        f"{place}.{name}: written is {said.get(name)}, the counts give {value}"
        for place, said, computed in pairs
        for name, value in computed.items()
        if said.get(name) != value
    ]


def rounded(values: Mapping[str, float], digits: int) -> dict[str, float | None]:
    """Round for JSON, which has no NaN: None stands for it."""
    return {k: None if math.isnan(v) else round(float(v), digits) for k, v in values.items()}


def of_classes(scores: Scores) -> dict[str, list[float | None]]:
    """Return the scores of every class in percent with four decimals; None where it has none."""
    return {
        name: [None if math.isnan(v) else round(float(v) * 100, 4) for v in values]
        for name, values in scores.items()
        if values.ndim
    }


def digest_of(content: Any) -> str:
    """Return the SHA-256 of JSON content, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_counts(images: CountedImages, files: Sequence[str]) -> str:
    """Return the SHA-256 of names, hashes of files, and pairs as little-endian int64."""
    digest = hashlib.sha256(digest_of([list(images.names), list(files)]).encode())
    digest.update(images.pairs.astype("<i8").tobytes())
    return digest.hexdigest()


def digest_of_files(names: Sequence[str], files: Sequence[str]) -> str | None:
    """Return the SHA-256 of names and hashes, in the order of the names; None where some lack."""
    return digest_of(sorted(zip(names, files, strict=True))) if all(files) else None


def digest_of_labels(names: Sequence[str], areas: NDArray[np.int64]) -> str:
    """Return the SHA-256 of how many pixels of each class every image's label has.

    It does not change with the compression of the files or their folder, but with a label map that
    is shifted, reduced, cut or another one.

    Args:
        names: Names of the images.
        areas: Labelled pixels (N, K + 1) of every class, strays last.
    """
    return digest_of(sorted(zip(names, areas.tolist(), strict=True)))
