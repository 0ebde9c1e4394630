"""Data sets whose pipeline holds transforms of the user's: what counts is what comes out of it."""

from collections.abc import Iterable
from typing import Any

from nlseg.datasets.transforms.compose import Compose
from nlseg.doctor.finding import Finding
from nlseg.doctor.splits import Split
from nlseg.errors import DataError

MOST_SAMPLES = 50
OF_VALUES = frozenset({"all-ignored", "absent-classes", "one-class", "rare-classes"})
"""Findings about classes that follow from the values in the files."""


def with_own_steps(split: Split) -> Any:
    """Return the data set with its pipeline where that holds a transform of the user's."""
    try:
        pipeline = Compose(list(split.pipeline))
    except Exception:  # building it for a run says why, with file and line
        return None
    if not pipeline.has_foreign_steps:
        return None
    split.dataset.pipeline = pipeline
    return split.dataset


def run_through(dataset: Any, split: Split) -> list[Finding]:
    """Load samples over the whole data set as training will, and say where labels were looked at.

    Args:
        dataset: With its pipeline.
        split: It belongs to.
    """
    size = len(dataset)
    number = min(MOST_SAMPLES, size)
    refused = first_refused(dataset, split, [i * size // number for i in range(number)])
    if refused is not None:
        return [refused]
    return [
        Finding(
            "own-transforms", "note", split.name,
            "Labels pass transforms of your own, so values in the files are no classes yet",
            f"the whole pipeline was run on {number} of {size} samples: what comes out is valid",
        )
    ]  # fmt: skip


def first_refused(dataset: Any, split: Split, indices: Iterable[int]) -> Finding | None:
    """Load samples; the end of the pipeline shows what a user's transforms make of labels."""
    for index in indices:
        try:
            dataset[index]
        except DataError as error:
            file = str(dataset.get_data_info(index).get("seg_map_path", ""))
            title = "The pipeline, with transforms of your own, refuses a sample"
            return Finding("stray-labels", "error", split.name, title, str(error), "", (file,), 1)
    return None
