"""Reading data samples: mmengine hands them to a metric as dicts, other callers as they are."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def sample_value(sample: Any, key: str, default: Any = None) -> Any:
    """Read a field or meta key of a data sample or of the dict of one."""
    return sample.get(key, default) if hasattr(sample, "get") else getattr(sample, key, default)


def sample_data(sample: Any, key: str) -> Tensor:
    """Read the label map (H, W) of ``pred_sem_seg`` or ``gt_sem_seg``, kept as (1, H, W)."""
    field = sample_value(sample, key)
    data: Tensor = field["data"] if isinstance(field, Mapping) else field.data
    return data.flatten(0, -2) if data.ndim == 3 else data
