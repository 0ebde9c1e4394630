"""Samples to a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import FUNCTIONS
from torch.utils.data import default_collate

from nlseg.errors import DataError


def _present(samples: Sequence[Any]) -> list[Any]:
    present = [sample for sample in samples if sample is not None]
    if not present:
        raise DataError(
            f"all {len(samples)} samples of a batch are bad; see the bad_samples log. In training "
            'bad_samples=dict(policy="replace") takes others; an evaluation needs whole files: '
            "tools/check_data.py names the broken ones"
        )
    return present


@FUNCTIONS.register_module()
def list_collate(samples: Sequence[Any]) -> dict[str, Any]:
    """Turn sample dicts into one dict of lists; skipped samples (None) are left out.

    A sample that holds several views of one image, each key a list, becomes a list of views.

    Raises:
        DataError: All samples were skipped.
    """
    present = _present(samples)
    return {key: _gather([sample[key] for sample in present]) for key in present[0]}


def _gather(values: list[Any]) -> list[Any]:
    if isinstance(values[0], list):
        return [list(view) for view in zip(*values, strict=True)]
    return values


@FUNCTIONS.register_module()
def stack_collate(samples: Sequence[Any]) -> dict[str, Any]:
    """Collate like ``list_collate``, with images of one size as one tensor (N, 3, H, W).

    In a worker process the images are copied straight into shared memory. Images of different
    sizes stay a list.

    Raises:
        DataError: All samples were skipped.
    """
    batch: dict[str, Any] = list_collate(samples)
    images = batch["inputs"]
    same = all(
        isinstance(image, torch.Tensor) and image.shape == images[0].shape for image in images
    )
    if same:
        batch["inputs"] = default_collate(images)
    return batch
