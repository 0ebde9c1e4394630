"""Data sets made of data sets: joined, mixed by ratio, repeated."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from math import lcm
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from nlseg.bounds import Count, NotNegative
from nlseg.datasets.stream import global_seeds, partner_number, permutation
from nlseg.datasets.transforms.compose import Compose
from nlseg.datasets.transforms.draws import rng_of, seeded_globals
from nlseg.errors import ConfigError
from nlseg.extension import stands_for
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex

_FINEST_SHARE = 1000
_MIX_LANE = 1


def _build(dataset: Any, lazy_init: bool) -> Any:
    if not isinstance(dataset, Mapping):
        return dataset
    config = dict(dataset)
    if lazy_init:
        config.setdefault("lazy_init", True)
    return DATASETS.build(config)


def _move(index: int | SampleIndex, image: int) -> int | SampleIndex:
    return SampleIndex(image, index.number) if isinstance(index, SampleIndex) else image


@DATASETS.register_module()
class ConcatDataset(Dataset[Any]):
    """Several data sets with the same classes, one after the other.

    Args:
        datasets: Data sets or their configs.
        lazy_init: Let the parts look for their files at first use only.
        ignore_keys: Keys of the meta information in which the parts may differ.
        ratios: Share of each part in the training stream, of any sum. None: as many samples as the
            part has images. Shares are kept exactly within short stretches of the stream.

    Raises:
        ConfigError: The parts' meta information differs, or the ratios do not fit the parts.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        lazy_init: bool = False,
        ignore_keys: str | Sequence[str] | None = None,
        *,
        ratios: Sequence[NotNegative] | None = None,
    ) -> None:
        if len(datasets) == 0:
            raise ConfigError("ConcatDataset.datasets: no data set is given")
        self.datasets = [_build(dataset, lazy_init) for dataset in datasets]
        ignored = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        self._check_same_meta(ignored)
        self._metainfo: dict[str, Any] = self.datasets[0].metainfo
        if any(getattr(dataset, "draws_index", False) for dataset in self.datasets):
            raise ConfigError(
                "ConcatDataset.datasets: a part has ratios of its own, which would have no effect; "
                "list its data sets here and give all the ratios in one place"
            )
        self._ends: list[int] | None = None
        self._counts = None if ratios is None else self._block_counts(ratios)

    def _check_same_meta(self, ignored: Sequence[str]) -> None:
        first: dict[str, Any] = self.datasets[0].metainfo
        for place, dataset in enumerate(self.datasets[1:], start=1):
            other: dict[str, Any] = dataset.metainfo
            for key in sorted({*first, *other} - {*ignored, "label_map", "reduce_zero_label"}):
                if _plain(first.get(key)) != _plain(other.get(key)):
                    raise ConfigError(
                        f"ConcatDataset.datasets[{place}]: its {key!r} differs from that of the "
                        "first data set; make them equal or list the key in ignore_keys"
                    )

    def _block_counts(self, ratios: Sequence[float]) -> list[int]:
        if len(ratios) != len(self.datasets) or min(ratios) < 0 or sum(ratios) <= 0:
            raise ConfigError(
                f"ConcatDataset.ratios: {list(ratios)!r}; give one number, 0 or above, for each of "
                f"the {len(self.datasets)} data sets"
            )
        total = sum(Fraction(ratio) for ratio in ratios)
        shares = [(Fraction(r) / total).limit_denominator(_FINEST_SHARE) for r in ratios]
        size = min(lcm(*(share.denominator for share in shares)), _FINEST_SHARE)
        ends = [round(share * size) for share in accumulate(shares)]
        return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette, those of the first part."""
        return dict(self._metainfo)

    def full_init(self) -> None:
        """Let all parts look for their files."""
        for dataset in self.datasets:
            dataset.full_init()

    def set_seed(self, seed: int) -> None:
        """Set the seed that the parts' random draws depend on."""
        for dataset in self.datasets:
            dataset.set_seed(seed)

    @property
    def ends(self) -> list[int]:
        """For each part the number of images up to its end."""
        if self._ends is None:
            self._ends = list(accumulate(len(dataset) for dataset in self.datasets))
        return self._ends

    def __len__(self) -> int:
        """Count the images of all parts."""
        return self.ends[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """Return the part, and the place in it, of image ``index``.

        Raises:
            IndexError: There is no such image.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        part = bisect.bisect_right(self.ends, index)
        return part, index - (self.ends[part - 1] if part else 0)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the entry of image ``idx`` with its place in the joined set."""
        part, place = self.locate(idx)
        entry: dict[str, Any] = self.datasets[part].get_data_info(place)
        entry["sample_idx"] = idx
        return entry

    def __getitem__(self, index: int | SampleIndex) -> Any:
        """Return the sample of an image, with its number's draws where one is given."""
        image = index.index if isinstance(index, SampleIndex) else int(index)
        part, place = self.locate(image)
        return self.datasets[part][_move(index, place)]

    @property
    def draws_index(self) -> bool:
        """Return whether this set has its own rule for the image of a sample number."""
        return self._counts is not None

    def draw_index(self, seed: int, number: int) -> int:
        """Return the image of sample ``number`` of the training stream: a pure function.

        The stream is cut into short blocks. Every block holds each part as often as its ratio
        says, in an order of its own; each part is walked through in permutations.
        """
        assert self._counts is not None
        block, place = divmod(number, sum(self._counts))
        parts = np.repeat(np.arange(len(self._counts)), self._counts)
        parts = parts[permutation(seed, block, len(parts), _MIX_LANE)]
        part = int(parts[place])
        earlier = block * self._counts[part] + int(np.count_nonzero(parts[:place] == part))
        size = len(self.datasets[part])
        image = permutation(seed, earlier // size, size, _MIX_LANE + 1 + part)[earlier % size]
        return int(image) + (self.ends[part - 1] if part else 0)


def _plain(value: Any) -> Any:
    """Turn tuples and arrays, also inside each other, into lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@DATASETS.register_module()
class RepeatDataset(Dataset[Any]):
    """A data set that counts as several times itself, for longer epochs.

    Args:
        dataset: Data set or its config.
        times: How often it counts.
        lazy_init: Let it look for its files at first use only.
    """

    def __init__(self, dataset: Any, times: Count, lazy_init: bool = False) -> None:
        self.dataset = _build(dataset, lazy_init)
        self.times = times

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette of the data set."""
        return dict(self.dataset.metainfo)

    @property
    def draws_index(self) -> bool:
        """Return whether the data set has its own rule for the image of a sample number."""
        return bool(getattr(self.dataset, "draws_index", False))

    def draw_index(self, seed: int, number: int) -> int:
        """Return the image of sample ``number``, by the data set's rule."""
        return int(self.dataset.draw_index(seed, number))

    def full_init(self) -> None:
        """Let the data set look for its files."""
        self.dataset.full_init()

    def set_seed(self, seed: int) -> None:
        """Set the seed that random draws depend on."""
        self.dataset.set_seed(seed)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the entry of image ``idx``."""
        entry: dict[str, Any] = self.dataset.get_data_info(idx % len(self.dataset))
        return entry

    def __len__(self) -> int:
        """Count every image ``times`` times."""
        return self.times * len(self.dataset)

    def __getitem__(self, index: int | SampleIndex) -> Any:
        """Return the sample of an image, with its number's draws where one is given."""
        image = index.index if isinstance(index, SampleIndex) else int(index)
        return self.dataset[_move(index, image % len(self.dataset))]


@DATASETS.register_module()
class MultiImageMixDataset(Dataset[Any]):
    """A data set whose samples are mixed with others of it, such as by ``RandomMosaic``.

    A transform that mixes has ``draw_indices(rng, dataset)``, or OpenMMLab's
    ``get_indices(dataset)``; the samples of these images are handed to it as ``mix_results``.

    Args:
        dataset: Data set or its config; its pipeline ends before the samples are packed.
        pipeline: Transforms of the loaded sample.
        skip_type_keys: Names of transforms in ``pipeline`` to leave out.
        lazy_init: Let the data set look for its files at first use only.
    """

    def __init__(
        self,
        dataset: Any,
        pipeline: Sequence[Mapping[str, Any] | Callable[[Any], Any]],
        skip_type_keys: Sequence[str] | None = None,
        lazy_init: bool = False,
    ) -> None:
        self.dataset = _build(dataset, lazy_init)
        self.seed = 0
        self.pipeline = Compose(pipeline)
        self._names = [
            str(item["type"]) if isinstance(item, Mapping) else type(item).__name__
            for item in pipeline
        ]
        self._skipped = frozenset(skip_type_keys or ())

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette of the data set."""
        return dict(self.dataset.metainfo)

    @property
    def draws_index(self) -> bool:
        """Return whether the data set has its own rule for the image of a sample number."""
        return bool(getattr(self.dataset, "draws_index", False))

    def draw_index(self, seed: int, number: int) -> int:
        """Return the image of sample ``number``, by the data set's rule."""
        return int(self.dataset.draw_index(seed, number))

    def full_init(self) -> None:
        """Let the data set look for its files."""
        self.dataset.full_init()

    def set_seed(self, seed: int) -> None:
        """Set the seed that random draws depend on."""
        self.seed = seed
        if hasattr(self.dataset, "set_seed"):
            self.dataset.set_seed(seed)

    def update_skip_type_keys(self, skip_type_keys: Sequence[str]) -> None:
        """Set the names of the transforms to leave out; a hook may do so in the run."""
        self._skipped = frozenset(skip_type_keys)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the entry of image ``idx``."""
        entry: dict[str, Any] = self.dataset.get_data_info(idx)
        return entry

    def __len__(self) -> int:
        """Count the images."""
        return len(self.dataset)

    def __getitem__(self, index: int | SampleIndex) -> Any:
        """Return the mixed sample of an image: a function of seed, image and number.

        Raises:
            ConfigError: The data set packs its samples.
        """
        image, number = index if isinstance(index, SampleIndex) else (int(index), int(index))
        sample = self._load(image, number)
        if isinstance(sample, Mapping) and "inputs" in sample:
            raise ConfigError(
                "MultiImageMixDataset.dataset: its pipeline packs the samples; PackSegInputs goes "
                "to the end of MultiImageMixDataset.pipeline"
            )
        with seeded_globals(global_seeds(self.seed, number, "mix")):
            return self._mix(sample, number)

    def _load(self, image: int, number: int) -> Any:
        takes_numbers = hasattr(self.dataset, "set_seed")
        return self.dataset[SampleIndex(image, number) if takes_numbers else image]

    def _mix(self, sample: Any, number: int) -> Any:
        partners = 0
        for name, step in zip(self._names, self.pipeline.transforms, strict=True):
            if sample is None or name in self._skipped:
                continue
            images = self._partners(step, sample)
            if images is not None:
                numbers = range(partners, partners + len(images))
                partners += len(images)
                others = [
                    self._load(other, partner_number(number, place))
                    for other, place in zip(images, numbers, strict=True)
                ]
                if any(other is None for other in others):  # a bad file that is to be skipped
                    return None
                sample["mix_results"] = others
            sample = step(sample)
            if sample is not None:
                sample.pop("mix_results", None)
        return sample

    def _partners(self, step: Any, sample: dict[str, Any]) -> list[int] | None:
        """Return the images that a transform mixes in, None for one that mixes nothing."""
        if stands_for(step, "draw_indices", "get_indices"):
            return list(step.draw_indices(rng_of(sample), self.dataset))
        if not hasattr(step, "get_indices"):
            return None
        drawn = np.atleast_1d(step.get_indices(self.dataset))
        # OpenMMLab's own example may draw one beyond the last image
        return [int(image) % len(self.dataset) for image in drawn]
