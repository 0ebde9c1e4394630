"""The stream of samples: which image sample n is, which draws it gets, and batches of them.

Everything random in a training run's data follows from (seed, n), the number of a sample, so that
workers, ranks and restarts have no say in it. Training reads the samples n = 0, 1, 2, ...:
iteration t with a global batch of B takes n in [t B, (t + 1) B), and rank r of R the r-th of R
equal slices of that. Evaluation walks through the images once: rank r takes r, r + R, ...
"""

from collections.abc import Iterator, Sequence, Sized
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import FUNCTIONS
from numpy.random import MT19937, RandomState, SeedSequence
from numpy.typing import NDArray
from torch.utils.data import Sampler, default_collate

from nlseg.errors import DataError
from nlseg.registry import DATA_SAMPLERS
from nlseg.structures import SampleIndex

_ORDER, _SAMPLE = 0, 1
_LANES = {"train": 2, "evaluate": 3, "mix": 4}
Lane = Literal["train", "evaluate", "mix"]
_BEYOND = 1 << 48  # more samples than any run sees


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


def global_seeds(seed: int, number: int, lane: Lane = "train") -> list[int]:
    """Return three seeds for the global generators while one sample is loaded.

    Args:
        seed: Seed of the run.
        number: Number of the sample in the training stream, or of the image in an evaluation.
        lane: What happens to the sample: it is loaded for training or for an evaluation, or mixed.
    """
    words = SeedSequence(seed, spawn_key=(_LANES[lane], number)).generate_state(3)
    return [int(word) for word in words]


def partner_number(number: int, place: int) -> int:
    """Return the number of a sample that is mixed into sample ``number``: none of the stream's.

    Args:
        number: Number in the training stream.
        place: Which of its partners, from 0.
    """
    return number + (place + 1) * _BEYOND


class _Shard(Sampler[Any]):
    """What both samplers know: data set, seed, rank, and the batch size of a rank."""

    dataset: Any

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        own_rank, own_world_size = get_dist_info()
        self.rank = own_rank if rank is None else rank
        self.world_size = own_world_size if world_size is None else world_size
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed: int = sync_random_seed() if seed is None else seed
        self.size = len(dataset)
        self.batch_size = 1
        self.start = 0
        if self.size == 0:
            raise DataError(f"{type(dataset).__name__}: 0 images; nothing to sample from")
        self.takes_numbers = hasattr(self.dataset, "set_seed")
        if self.takes_numbers:
            self.dataset.set_seed(self.seed)

    def item(self, index: int, number: int) -> int | SampleIndex:
        """Return what the data set is asked for; foreign data sets know no numbers."""
        return SampleIndex(index, number) if self.takes_numbers else index


@DATA_SAMPLERS.register_module()
class InfiniteSampler(_Shard):
    """Yield the training stream of this rank without end.

    With N images, sample n is image ``permutation(seed, n // N)[n % N]``. Where to begin is a
    number, so that a run resumed at iteration t looks at no earlier sample.

    Args:
        dataset: Data set with at least one image; it is handed the seed.
        shuffle: Walk through permutations instead of 0..N-1.
        seed: Seed of the stream; None lets all ranks agree on a random one.
        rank: Rank of this process; None asks the process group.
        world_size: Number of processes; None asks the process group.

    Raises:
        DataError: The data set is empty.
    """

    def set_batch(self, batch_size: int, start_iteration: int = 0) -> None:
        """Set the batch size of a rank and the iteration that the next walk begins with."""
        self.batch_size = batch_size
        self.start = start_iteration * batch_size * self.world_size

    def image(self, number: int) -> int:
        """Return the image of sample ``number``."""
        if not self.shuffle:
            return number % self.size
        if getattr(self.dataset, "draws_index", False):
            return int(self.dataset.draw_index(self.seed, number))
        return int(permutation(self.seed, number // self.size, self.size)[number % self.size])

    def __iter__(self) -> Iterator[int | SampleIndex]:
        """Yield this rank's slice of every global batch, from sample ``start`` on."""
        first = self.start + self.rank * self.batch_size
        while True:
            for number in range(first, first + self.batch_size):
                yield self.item(self.image(number), number)
            first += self.batch_size * self.world_size

    def __len__(self) -> int:
        """Count the images of one pass over the data set."""
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the stream knows its passes itself."""


@DATA_SAMPLERS.register_module()
class DefaultSampler(_Shard):
    """Yield every image once: all of them for evaluation, shuffled epochs for training.

    Without ``shuffle`` rank r of R takes r, r + R, ...: nothing is repeated or left out, so that
    counts summed over ranks are exact. With ``shuffle`` epoch e is a permutation of the images,
    continued by its own beginning (``round_up``) until every rank gets the same number; sample k
    of it has number e L + k in the training stream, L being that length. Whether a last smaller
    batch is used is the loader's ``drop_last``.

    Args:
        dataset: Data set with at least one image; it is handed the seed.
        shuffle: Training: permute the images, anew in every epoch.
        seed: Seed of the permutations; None lets all ranks agree on a random one.
        round_up: Training: repeat images until all ranks get the same number.
        rank: Rank of this process; None asks the process group.
        world_size: Number of processes; None asks the process group.

    Raises:
        DataError: The data set is empty.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        *,
        round_up: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed, rank=rank, world_size=world_size)
        self.round_up = round_up
        self.epoch = 0
        rest = self.size % self.world_size
        self.total = self.size + (self.world_size - rest if shuffle and round_up and rest else 0)

    def set_batch(self, batch_size: int, start_iteration: int = 0) -> None:
        """Set the batch size of a rank and the iteration of this epoch to begin with."""
        self.batch_size = batch_size
        self.start = start_iteration

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next walk; a new one begins with its first iteration."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[int | SampleIndex]:
        """Yield the images of this rank."""
        if not self.shuffle:
            return iter(range(self.rank, self.size, self.world_size))
        return self._epoch()

    def _epoch(self) -> Iterator[int | SampleIndex]:
        order = permutation(self.seed, self.epoch, self.size)
        batch = self.batch_size * self.world_size
        for first in range(self.start * batch, self.total, batch):
            count = min(batch, self.total - first)
            low = first + count * self.rank // self.world_size
            high = first + count * (self.rank + 1) // self.world_size
            for place in range(low, high):
                number = self.epoch * self.total + place
                yield self.item(int(order[place % self.size]), number)

    def __len__(self) -> int:
        """Count the images of this rank in a whole walk."""
        if not self.shuffle or self.batch_size == 1:
            return len(range(self.rank, self.total, self.world_size))
        whole, rest = divmod(self.total, self.batch_size * self.world_size)
        low = rest * self.rank // self.world_size
        return whole * self.batch_size + rest * (self.rank + 1) // self.world_size - low


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
