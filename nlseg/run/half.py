"""Half precision by the names that configs use."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from nlseg.errors import ConfigError
from nlseg.run import distributed

HalfName = Literal["float16", "bfloat16"]
_NAMES = ("float16", "bfloat16")


def check_half(name: HalfName | None) -> HalfName | None:
    """Return the name if there is such a type.

    Raises:
        ConfigError: There is none.
    """
    if name is not None and name not in _NAMES:
        raise ConfigError(f"dtype: {name!r} is not one of {', '.join(_NAMES)}")
    return name


def half_precision(enabled: bool, name: HalfName | None) -> AbstractContextManager[object]:
    """Return a context in which networks compute in half precision; one inside it keeps the type.

    Args:
        enabled: Whether they do.
        name: Which type; PyTorch's choice for the device where None.
    """
    dtype = None if name is None else getattr(torch, name)
    return torch.autocast(distributed.device().type, dtype, enabled=enabled)
