"""Data sets made of data sets: joined, mixed by ratio, repeated."""

import bisect
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from math import lcm
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from nlseg.bounds import Count, NotNegative
from nlseg.datasets.stream import permutation
from nlseg.errors import ConfigError
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
