"""Where a transform's random numbers come from: the only place that knows."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import RandomState, mtrand
from torch.utils.data import get_worker_info

from nlseg.structures import Sample

_depth = 0
"""How many blocks of ``seeded_globals`` this process is in: a set made of a set opens two."""


def rng_of(sample: Sample) -> RandomState:
    """Return the sample's own generator, or numpy's global one where the sample has none."""
    own = sample.get("rng")
    if own is not None:
        return own  # type: ignore[no-any-return]
    return mtrand._rand


@contextmanager
def seeded_globals(words: Sequence[int]) -> Iterator[None]:
    """Seed the generators of numpy, Python and torch for what knows no ``sample["rng"]``.

    Their states are put back afterwards, so that a network's draws do not depend on where samples
    are loaded. Only a worker process, which does nothing else, does without.

    Args:
        words: A seed for each, 32 bits.
    """
    global _depth
    kept = None
    if _depth or get_worker_info() is None:
        kept = np.random.get_state(), random.getstate(), torch.get_rng_state()
    np.random.seed(words[0])
    random.seed(words[1])
    torch.default_generator.manual_seed(words[2])
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if kept is not None:
            np.random.set_state(kept[0])
            random.setstate(kept[1])
            torch.set_rng_state(kept[2])
