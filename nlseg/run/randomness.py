"""Seeds: one for the run, one for each iteration, and the determinism mode."""

import os
import random

import numpy as np
import torch

from nlseg.run import distributed


def seed_run(seed: int | None) -> int:
    """Seed every generator of this process; all processes get the same seed.

    Args:
        seed: The run's seed; drawn by process 0 when not given.

    Returns:
        The seed.
    """
    if seed is None:
        drawn = int.from_bytes(os.urandom(4), "little") >> 1
        seed = int(distributed.broadcast(torch.tensor([drawn])).item())
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return seed


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed what the network itself draws (dropout) from (seed, iteration, rank).

    With it no generator's state needs saving: iteration t draws the same after any restart.
    """
    words = np.random.SeedSequence(seed, spawn_key=(iteration, rank)).generate_state(2)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))


def be_deterministic() -> None:
    """Choose operators that give the same bits on every run of the same machine and software.

    An operator that has no deterministic form warns and goes on instead of ending the training;
    the networks of nlseg need none (see docs/reliability.md for what is guaranteed).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
