"""The stream of samples as pure functions: which image sample n is, and which draws it gets.

Everything random in a training run's data follows from (seed, n), the number of a sample, so that
workers, ranks and restarts have no say in it.
"""

import random
from functools import lru_cache

import numpy as np
from numpy.random import MT19937, RandomState, SeedSequence
from numpy.typing import NDArray

_ORDER, _SAMPLE, _GLOBAL = 0, 1, 2


def _generator(seed: int, *key: int) -> RandomState:
    return RandomState(MT19937(SeedSequence(seed, spawn_key=key)))


def sample_rng(seed: int, number: int, attempt: int = 0) -> RandomState:
    """Make the generator that every draw of sample ``number`` comes from.

    Args:
        seed: Seed of the run.
        number: Number of the sample in the training stream.
        attempt: Above 0 the generator that chooses a replacement for a sample without use.
    """
    return _generator(seed, _SAMPLE, number, *([attempt] if attempt else []))


@lru_cache(maxsize=16)
def permutation(seed: int, epoch: int, size: int, lane: int = 0) -> NDArray[np.int64]:
    """Return the order of ``size`` images in one pass over them.

    Args:
        seed: Seed of the run.
        epoch: Number of the pass, from 0.
        size: Number of images, at least 1.
        lane: Number of the data set among several that are walked through side by side.

    Returns:
        The numbers 0..size-1, each once, shape (size,). Shared between callers: not to be written.
    """
    order = _generator(seed, _ORDER, epoch, lane).permutation(size)
    order.flags.writeable = False
    return order


def seed_global_state(seed: int, number: int) -> None:
    """Seed numpy's and Python's global generators for transforms that know no ``sample['rng']``."""
    words = SeedSequence(seed, spawn_key=(_GLOBAL, number)).generate_state(2)
    np.random.seed(int(words[0]))
    random.seed(int(words[1]))
