"""The stream of samples: the same for any number of workers, ranks and restarts."""

import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nlseg.datasets import (
    ConcatDataset,
    DefaultSampler,
    InfiniteSampler,
    RepeatDataset,
    list_collate,
    permutation,
    sample_rng,
    stack_collate,
)
from nlseg.errors import ConfigError, DataError
from nlseg.registry import DATA_SAMPLERS, DATASETS
from nlseg.structures import SampleIndex
from tests.cases import each_case
from tests.datasets.folders import config, write_pairs

NUM_IMAGES = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("stream")
    write_pairs(root, [f"{number:02d}" for number in range(NUM_IMAGES)])
    return DATASETS.build(config(root))


def sampler_of(dataset: Any, rank: int, world: int, batch: int, start: int = 0) -> Any:
    sampler = InfiniteSampler(dataset, seed=3, rank=rank, world_size=world)
    sampler.set_batch(batch, start)
    return sampler


def batches(dataset: Any, rank: int, world: int, *, workers: int, start: int = 0) -> list[Any]:
    """Load 4 iterations of a global batch of 4 on one of several ranks."""
    loader = DataLoader(
        dataset,
        batch_size=4 // world,
        sampler=sampler_of(dataset, rank, world, 4 // world, start),
        num_workers=workers,
        collate_fn=stack_collate,
    )
    return list(islice(loader, 4 - start))


def prints_of(batch: Any) -> list[tuple[str, bytes, bytes]]:
    return [
        (
            Path(sample.img_path).name,
            image.numpy().tobytes(),
            sample.gt_sem_seg.data.numpy().tobytes(),
        )
        for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True)
    ]


def test_the_stream_by_hand(dataset: Any) -> None:
    # sample n is image permutation(seed, n // N)[n % N], iteration t has samples 4t..4t+3
    numbers = list(islice(iter(sampler_of(dataset, 0, 1, 4)), 16))
    order = [int(permutation(3, n // NUM_IMAGES, NUM_IMAGES)[n % NUM_IMAGES]) for n in range(16)]
    assert numbers == [SampleIndex(order[n], n) for n in range(16)]
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order[:7] != order[7:14]
    # rank 1 of 2: the second half of every global batch
    numbers = [item.number for item in islice(iter(sampler_of(dataset, 1, 2, 2)), 6)]
    assert numbers == [2, 3, 6, 7, 10, 11]
    # resumed at iteration 2
    numbers = [item.number for item in islice(iter(sampler_of(dataset, 1, 2, 2, start=2)), 4)]
    assert numbers == [10, 11, 14, 15]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_ranks_do_not_change_the_stream(dataset: Any) -> None:
    expected = [prints_of(batch) for batch in batches(dataset, 0, 1, workers=0)]
    flat = [item for batch in expected for item in batch]
    assert len({image for _, image, _ in flat}) == 16  # the same image never comes twice alike
    for workers in (1, 4):
        assert [prints_of(b) for b in batches(dataset, 0, 1, workers=workers)] == expected
    for world, workers in ((2, 0), (4, 1)):
        ranks = [batches(dataset, rank, world, workers=workers) for rank in range(world)]
        for number, whole in enumerate(expected):
            joined = [item for rank in ranks for item in prints_of(rank[number])]
            assert joined == whole


def test_a_resumed_run_gets_the_rest_of_the_stream(dataset: Any) -> None:
    whole = [prints_of(batch) for batch in batches(dataset, 0, 1, workers=0)]
    rest = [prints_of(batch) for batch in batches(dataset, 0, 1, workers=2, start=2)]
    assert rest == whole[2:]


def test_draws_depend_on_seed_and_number_alone(dataset: Any) -> None:
    first = dataset[SampleIndex(2, 40)]["inputs"]
    dataset[SampleIndex(5, 1)]
    np.random.seed(1)
    assert torch.equal(dataset[SampleIndex(2, 40)]["inputs"], first)
    assert not torch.equal(dataset[SampleIndex(2, 41)]["inputs"], first)
    assert torch.equal(dataset[2]["inputs"], dataset[SampleIndex(2, 2)]["inputs"])
    try:
        dataset.set_seed(4)
        assert not torch.equal(dataset[SampleIndex(2, 40)]["inputs"], first)
    finally:
        dataset.set_seed(3)


def test_the_generators_stay_what_they_are() -> None:
    # numbers of the past: a change would change every seeded run
    assert sample_rng(0, 0).randint(0, 1 << 30) == 447290880
    assert sample_rng(1, 7).randint(0, 1 << 30) == 122137356
    assert permutation(0, 0, 6).tolist() == [3, 0, 5, 4, 2, 1]
    assert permutation(0, 1, 6).tolist() == [0, 3, 1, 4, 5, 2]


def test_users_transforms_get_seeded_global_generators(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a", "b"])
    drawn: list[Any] = []

    def note(sample: dict[str, Any]) -> dict[str, Any]:
        drawn.append((np.random.rand(), random.random(), torch.rand(1).item()))
        return sample

    dataset = DATASETS.build(config(tmp_path, pipeline=[note]))
    for number in (4, 5, 4):
        dataset[SampleIndex(0, number)]
    assert drawn[0] == drawn[2]
    assert all(first != second for first, second in zip(drawn[0], drawn[1], strict=True))
    # in an evaluation the image decides, whatever was drawn before
    drawn.clear()
    evaluation = DATASETS.build(config(tmp_path, pipeline=[note], test_mode=True))
    for image in (0, 1, 0):
        evaluation[image]
    assert drawn[0] == drawn[2]
    assert all(first != second for first, second in zip(drawn[0], drawn[1], strict=True))


def test_loading_a_sample_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a", "b"])

    def draw(sample: dict[str, Any]) -> dict[str, Any]:
        np.random.rand(), random.random(), torch.rand(1)
        return sample

    def next_numbers() -> tuple[float, float, float]:
        np.random.seed(1)
        random.seed(1)
        torch.manual_seed(1)
        dataset[0]
        return np.random.rand(), random.random(), torch.rand(1).item()

    numbers = []
    for test_mode in (False, True):
        dataset = DATASETS.build(config(tmp_path, pipeline=[draw], test_mode=test_mode))
        numbers.append(next_numbers())
    dataset = {0: None}
    assert numbers == [next_numbers()] * 2


@each_case("world", [1, 2, 3, 4])
def test_evaluation_takes_every_image_once(world: int) -> None:
    images = list(range(NUM_IMAGES))
    parts = [
        list(DefaultSampler(images, shuffle=False, seed=0, rank=r, world_size=world))
        for r in range(world)
    ]
    assert sorted(index for part in parts for index in part) == images
    assert parts[0] == images[::world]
    for rank, part in enumerate(parts):
        sampler = DefaultSampler(images, shuffle=False, seed=0, rank=rank, world_size=world)
        assert len(sampler) == len(part)


def test_epochs_are_permutations(dataset: Any) -> None:
    def epoch(number: int, rank: int, world: int, batch: int = 1) -> list[SampleIndex]:
        sampler = DefaultSampler(dataset, seed=3, rank=rank, world_size=world)
        sampler.set_batch(batch)
        sampler.set_epoch(number)
        items = list(sampler)
        assert len(sampler) == len(items)
        return items

    whole = epoch(0, 0, 1)
    assert sorted(item.index for item in whole) == list(range(NUM_IMAGES))
    assert [item.number for item in whole] == list(range(NUM_IMAGES))
    assert [item.number for item in epoch(2, 0, 1)] == list(range(14, 21))
    assert [item.index for item in epoch(1, 0, 1)] != [item.index for item in whole]
    # three ranks: 7 images become 9, the first two of the epoch come again
    parts = [epoch(0, rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    joined = sorted(item for part in parts for item in part)
    order = permutation(3, 0, NUM_IMAGES)
    assert {item.number: item.index for item in joined} == {
        place: int(order[place % NUM_IMAGES]) for place in range(9)
    }
    # batches of 2 on 2 ranks: iteration 0 is samples 0..3, iteration 1 samples 4..7
    assert [item.number for item in epoch(0, 0, 2, batch=2)] == [0, 1, 4, 5]
    assert [item.number for item in epoch(0, 1, 2, batch=2)] == [2, 3, 6, 7]


def test_an_epoch_can_be_resumed_in_the_middle(dataset: Any) -> None:
    sampler = DefaultSampler(dataset, seed=3, rank=1, world_size=2)
    sampler.set_batch(2)
    sampler.set_epoch(5)
    whole = list(sampler)
    sampler.set_batch(2, 1)
    sampler.set_epoch(5)
    assert list(sampler) == whole[2:]
    sampler.set_epoch(6)
    assert len(list(sampler)) == len(whole)


def test_samplers_build_from_configs(dataset: Any) -> None:
    built = DATA_SAMPLERS.build({"type": "InfiniteSampler", "shuffle": False, "dataset": dataset})
    assert [item.index for item in islice(built, 9)] == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    built = DATA_SAMPLERS.build(
        {"type": "DefaultSampler", "shuffle": False, "dataset": dataset, "seed": 1}
    )
    assert list(built) == list(range(NUM_IMAGES))
    with pytest.raises(DataError, match="0 images"):
        InfiniteSampler([], seed=0)


def test_repeated_and_joined_sets(dataset: Any) -> None:
    repeated = RepeatDataset(dataset, times=3)
    assert len(repeated) == 21
    assert torch.equal(repeated[SampleIndex(15, 9)]["inputs"], dataset[SampleIndex(1, 9)]["inputs"])
    joined = ConcatDataset([dataset, repeated])
    assert len(joined) == 28
    assert joined.locate(6) == (0, 6)
    assert joined.locate(7) == (1, 0)
    assert joined.locate(-1) == (1, 20)
    assert torch.equal(joined[SampleIndex(9, 4)]["inputs"], dataset[SampleIndex(2, 4)]["inputs"])
    assert joined.get_data_info(9)["sample_idx"] == 9
    assert joined.metainfo["classes"] == ("ground", "tree", "house")
    with pytest.raises(IndexError):
        joined.locate(28)
    joined.set_seed(9)
    assert dataset.seed == 9
    joined.set_seed(3)


def test_ratios_are_kept_exactly(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a", [f"{n}" for n in range(5)])
    write_pairs(tmp_path / "b", [f"{n}" for n in range(3)])
    parts = [config(tmp_path / name) for name in "ab"]
    joined = DATASETS.build({"type": "ConcatDataset", "datasets": parts, "ratios": (1, 3)})
    sampler = InfiniteSampler(joined, seed=0)
    images = [item.index for item in islice(sampler, 400)]
    for block in range(100):
        assert sum(image < 5 for image in images[4 * block : 4 * block + 4]) == 1
    # each part is walked through in permutations
    first = [image for image in images if image < 5]
    second = [image - 5 for image in images if image >= 5]
    for part, size in ((first, 5), (second, 3)):
        passes = [part[k * size : (k + 1) * size] for k in range(len(part) // size)]
        assert all(sorted(one) == list(range(size)) for one in passes)
        assert len({tuple(one) for one in passes}) > 1
    assert len({tuple(images[4 * b : 4 * b + 4]) for b in range(100)}) > 10
    # a pure function of seed and number: ranks and restarts agree
    late = InfiniteSampler(joined, seed=0, rank=1, world_size=2)
    late.set_batch(2, 50)
    assert [item.index for item in islice(late, 2)] == images[202:204]
    repeated = InfiniteSampler(RepeatDataset(joined, times=2), seed=0)
    assert [item.index for item in islice(repeated, 400)] == images
    with pytest.raises(ConfigError, match="ratios of its own"):
        ConcatDataset([joined, joined])
    third = DATASETS.build({"type": "ConcatDataset", "datasets": parts, "ratios": (0.3, 0.7)})
    drawn = [item.index for item in islice(InfiniteSampler(third, seed=1), 1000)]
    assert sum(image < 5 for image in drawn) == 300


def test_joined_sets_need_the_same_classes(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a"])
    other = config(tmp_path, metainfo={"classes": ("ground", "tree", "road")})
    with pytest.raises(ConfigError, match=r"datasets\[1\]: its 'classes' differs"):
        ConcatDataset([config(tmp_path), other])
    ConcatDataset([config(tmp_path), other], ignore_keys="classes")
    with pytest.raises(ConfigError, match="one number"):
        ConcatDataset([config(tmp_path)], ratios=(1, 2))


def test_batches_stay_uint8_and_keep_sizes() -> None:
    small, large = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.ones(3, 2, 4, dtype=torch.uint8)
    samples = [{"inputs": small, "data_samples": 1}, {"inputs": small + 1, "data_samples": 2}]
    stacked = stack_collate(samples)
    assert (stacked["inputs"].shape, stacked["inputs"].dtype) == ((2, 3, 2, 2), torch.uint8)
    assert stacked["data_samples"] == [1, 2]
    assert isinstance(list_collate(samples)["inputs"], list)
    mixed = stack_collate([*samples, {"inputs": large, "data_samples": 3}])
    assert isinstance(mixed["inputs"], list)
    skipped = stack_collate([None, samples[0]])
    assert skipped["inputs"].shape == (1, 3, 2, 2)
    with pytest.raises(DataError, match="all 2 samples"):
        list_collate([None, None])


def test_views_of_one_image_are_collated_view_by_view() -> None:
    two = [{"inputs": [f"{image}{view}" for view in "xyz"]} for image in "ab"]
    assert list_collate(two)["inputs"] == [["ax", "bx"], ["ay", "by"], ["az", "bz"]]
    assert stack_collate(two)["inputs"] == [["ax", "bx"], ["ay", "by"], ["az", "bz"]]
