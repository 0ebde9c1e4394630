"""Samples made of several, pipelines that are drawn, and transforms of other libraries."""

import random
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import mmcv.transforms
import numpy as np
import pytest
import torch
from numpy.random import RandomState
from torch.utils.data import DataLoader

from nlseg.config.load import load_config
from nlseg.datasets import InfiniteSampler, MultiImageMixDataset, list_collate
from nlseg.datasets import transforms as T
from nlseg.errors import ConfigError
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex
from tests.cases import each_case
from tests.datasets.folders import LOAD, config, write_pairs

MOSAIC = {"type": "RandomMosaic", "prob": 1.0, "img_scale": (24, 32)}
PACK = {"type": "PackSegInputs"}


def picture(height: int, width: int, seed: int) -> dict[str, Any]:
    rng = RandomState(seed)
    return {
        "img": rng.randint(0, 256, (height, width, 3)).astype(np.uint8),
        "gt_seg_map": rng.randint(0, 5, (height, width)).astype(np.uint8),
        "seg_fields": ["gt_seg_map"],
    }


def test_mosaic_by_hand() -> None:
    # quarters of 2 x 3 px, so the mosaic is 4 x 6; all images fill a quarter, and meet at (2, 1)
    four = [
        {**picture(2, 3, 0), "gt_seg_map": np.full((2, 3), k, np.uint8), "rng": RandomState(0)}
        for k in (1, 2, 3, 4)
    ]
    share = (0.7, 0.7)  # of 3 and of 2, cut to whole px: x = 2, y = 1
    mosaic = T.RandomMosaic(1.0, (2, 3), share, seg_pad_val=255)
    out = mosaic.transform({**four[0], "mix_results": four[1:]})
    assert out["gt_seg_map"].tolist() == [
        [1, 1, 2, 2, 2, 255],
        [3, 3, 4, 4, 4, 255],
        [3, 3, 4, 4, 4, 255],
        [255] * 6,
    ]
    assert (out["img_shape"], out["ori_shape"], out["img"].shape) == ((4, 6), (4, 6), (4, 6, 3))
    # the images keep the side that lies at the point
    assert (out["img"][0, :2] == four[0]["img"][1, 1:]).all()
    assert (out["img"][1:3, 2:5] == four[3]["img"]).all()
    assert (out["img"][3] == 0).all()


def slow_mosaic(arrays: list[Any], scale: Any, center: Any, value: int, rule: int) -> Any:
    """Each pixel by itself: which of the four it belongs to, and where it lies in it."""
    height, width = scale
    resized = []
    for array in arrays:
        factor = min(height / array.shape[0], width / array.shape[1])
        size = (int(array.shape[1] * factor), int(array.shape[0] * factor))
        resized.append(cv2.resize(array, size, interpolation=rule))
    out = np.full((2 * height, 2 * width, *arrays[0].shape[2:]), value, arrays[0].dtype)
    for y in range(2 * height):
        for x in range(2 * width):
            down, right = y >= center[1], x >= center[0]
            part = resized[2 * down + right]
            row = y - center[1] + (0 if down else part.shape[0])
            column = x - center[0] + (0 if right else part.shape[1])
            if 0 <= row < part.shape[0] and 0 <= column < part.shape[1]:
                out[y, x] = part[row, column]
    return out


@each_case("seed", range(6))
def test_mosaic_equals_a_slow_one(seed: int) -> None:
    rng = RandomState(seed)
    four = [picture(*rng.randint(9, 40, 2), seed=k) for k in range(4)]
    mosaic = T.RandomMosaic(1.0, (17, 23), (0.1, 1.9), pad_val=7)
    own = RandomState(seed)
    own.rand()
    center = int(own.uniform(0.1, 1.9) * 23), int(own.uniform(0.1, 1.9) * 17)
    out = mosaic.transform({**four[0], "mix_results": four[1:], "rng": RandomState(seed)})
    for key, value, rule in (
        ("img", 7, cv2.INTER_LINEAR),
        ("gt_seg_map", 255, cv2.INTER_NEAREST),
    ):
        expected = slow_mosaic([one[key] for one in four], (17, 23), center, value, rule)
        np.testing.assert_array_equal(out[key], expected)


def test_mosaic_needs_partners() -> None:
    with pytest.raises(ConfigError, match="MultiImageMixDataset"):
        T.RandomMosaic(1.0).transform(picture(4, 4, 0))
    same = picture(4, 4, 0)
    assert T.RandomMosaic(0.0).transform(same)["img"].shape == (4, 4, 3)


def jitter(sample: dict[str, Any]) -> dict[str, Any]:
    """A user's transform that knows the global generators only."""
    level = int(10 * np.random.rand() + 10 * random.random() + 10 * torch.rand(1).item())
    sample["img"] = cv2.add(sample["img"], (level,) * 3)
    return sample


class Blend:
    """A user's transform in OpenMMLab's style that mixes one other image in."""

    def get_indices(self, dataset: Any) -> int:
        return random.randint(0, len(dataset))  # its last value is one too many

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        (other,) = sample["mix_results"]
        height, width = sample["img"].shape[:2]
        sample["img"] = sample["img"] // 2 + cv2.resize(other["img"], (width, height)) // 2
        return sample


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("mixed")
    write_pairs(root, list("abcdef"))
    inner = config(root, pipeline=[*LOAD, {"type": "RandomFlip", "prob": 0.5}, jitter])
    crop = {"type": "RandomCrop", "crop_size": (20, 20)}
    return DATASETS.build(
        {
            "type": "MultiImageMixDataset", "dataset": inner,
            "pipeline": [MOSAIC, Blend(), jitter, crop, PACK],
        }
    )  # fmt: skip


def loaded(dataset: Any, workers: int, start: int = 0) -> list[tuple[bytes, bytes]]:
    sampler = InfiniteSampler(dataset, seed=3, rank=0, world_size=1)
    sampler.set_batch(4, start)
    loader = DataLoader(
        dataset, batch_size=4, sampler=sampler, num_workers=workers, collate_fn=list_collate
    )
    return [
        (image.numpy().tobytes(), sample.gt_sem_seg.data.numpy().tobytes())
        for batch in islice(loader, 3 - start)
        for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True)
    ]


def test_a_mixed_sample_is_a_function_of_seed_and_number(mixed: Any) -> None:
    expected = loaded(mixed, 0)
    assert len(set(expected)) == 12
    assert loaded(mixed, 2) == expected  # forked workers: other states of the global generators
    assert loaded(mixed, 0, start=2) == expected[8:]
    np.random.seed(9)
    random.seed(9)
    torch.manual_seed(9)
    assert loaded(mixed, 0) == expected
    mixed.set_seed(4)
    assert torch.equal(mixed[SampleIndex(1, 7)]["inputs"], mixed[SampleIndex(1, 7)]["inputs"])
    other = mixed[SampleIndex(1, 7)]["inputs"]
    mixed.set_seed(3)
    assert not torch.equal(mixed[SampleIndex(1, 7)]["inputs"], other)


def test_partners_get_draws_of_their_own(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a"])
    seen: list[Any] = []

    def note(sample: dict[str, Any]) -> dict[str, Any]:
        seen.append((sample["rng"].rand(), np.random.rand()))
        return sample

    dataset = MultiImageMixDataset(config(tmp_path, pipeline=[*LOAD, note]), [MOSAIC, note])
    dataset[SampleIndex(0, 5)]
    assert len(seen) == 5  # the image, three partners, the mosaic
    assert len({draw for pair in seen for draw in pair}) == 10


def test_steps_of_a_mixing_set_can_be_left_out(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a", "b"])
    dataset = MultiImageMixDataset(
        config(tmp_path, pipeline=LOAD), [MOSAIC, PACK], skip_type_keys=["RandomMosaic"]
    )
    assert dataset[0]["inputs"].shape == (3, 24, 32)
    dataset.update_skip_type_keys([])
    assert dataset[0]["inputs"].shape == (3, 48, 64)
    assert (len(dataset), dataset.metainfo["classes"]) == (2, ("ground", "tree", "house"))
    packed = MultiImageMixDataset(config(tmp_path, pipeline=[*LOAD, PACK]), [MOSAIC])
    with pytest.raises(ConfigError, match=r"PackSegInputs goes to the end of MultiImageMixDataset"):
        packed[0]


@pytest.mark.parametrize("prob", [None, [0.2, 0.5, 0.3]])
def test_drawn_pipelines_draw_as_mmcv_does(prob: Any) -> None:
    def add(number: int) -> Any:
        return lambda sample: {**sample, "trail": [*sample.get("trail", ()), number]}

    steps: list[Any] = [add(1), [add(2), add(3)], add(4)]
    mine = T.RandomChoice(steps, prob)
    theirs = mmcv.transforms.RandomChoice(steps, prob)
    apply, their_apply = T.RandomApply([add(7)], 0.4), mmcv.transforms.RandomApply([add(7)], 0.4)
    trails = set()
    for seed in range(30):
        np.random.seed(seed)
        expected = theirs({})["trail"], their_apply({}).get("trail")
        rng = RandomState(seed)
        got = mine.transform({"rng": rng})["trail"], apply.transform({"rng": rng}).get("trail")
        assert got == expected
        trails.add(str(got))
    assert len(trails) == 6


def test_nested_transforms_are_ours() -> None:
    flip = {"type": "RandomFlip", "prob": 1.0}
    chosen = T.RandomChoice([[flip]])
    assert type(chosen.transforms[0].transforms[0]) is T.RandomFlip
    assert type(T.RandomApply(flip).transforms.transforms[0]) is T.RandomFlip
    with pytest.raises(ConfigError, match="for each of the 1 pipelines"):
        T.RandomChoice([flip], [0.5, 0.5])
    with pytest.raises(ConfigError, match="no pipeline"):
        T.RandomChoice([])


def test_labels_alone_are_rescaled() -> None:
    sample = picture(5, 7, 0)
    image = sample["img"]
    out = T.SegRescale(2).transform(sample)
    # mmcv's rule: int(5 * 2 + 0.5) x int(7 * 2 + 0.5)
    assert out["gt_seg_map"].shape == (10, 14)
    assert (out["gt_seg_map"][::2, ::2] == picture(5, 7, 0)["gt_seg_map"]).all()
    assert out["img"] is image
    half = T.SegRescale(0.5).transform(picture(5, 7, 0))["gt_seg_map"]
    np.testing.assert_array_equal(
        half, mmcv.imrescale(picture(5, 7, 0)["gt_seg_map"], 0.5, False, "nearest")
    )


def test_right_angles_and_flips() -> None:
    transform = T.RandomRotFlip(rotate_prob=0, flip_prob=1)
    start = picture(3, 4, 0)
    seen = set()
    for seed in range(40):
        rng = RandomState(seed)
        rng.rand(), rng.rand()
        quarters, axis = rng.randint(4), rng.randint(2)
        out = transform.transform({**picture(3, 4, 0), "rng": RandomState(seed)})
        for key in ("img", "gt_seg_map"):
            expected = np.flip(np.rot90(start[key], quarters), axis)
            np.testing.assert_array_equal(out[key], expected)
        assert out["img_shape"] == out["img"].shape[:2]
        seen.add((quarters, axis))
    assert len(seen) == 8


def test_turns_keep_label_values() -> None:
    transform = T.RandomRotFlip(rotate_prob=1, degree=30, seg_pad_val=9)
    sample = picture(20, 30, 0)
    sample["gt_seg_map"] = np.where(np.arange(30) < 15, 2, 4)[None].repeat(20, 0).astype(np.uint8)
    out = transform.transform({**sample, "rng": RandomState(1)})
    assert set(np.unique(out["gt_seg_map"])) == {2, 4, 9}
    again = transform.transform({**sample, "rng": RandomState(1)})
    assert (again["img"] == out["img"]).all()
    kept = T.RandomRotFlip(rotate_prob=0, flip_prob=0).transform({**sample, "rng": RandomState(1)})
    assert kept["img"] is sample["img"]


ALBU = [
    {"type": "RandomBrightnessContrast", "p": 0.8},
    {"type": "OneOf", "transforms": [{"type": "HorizontalFlip", "p": 1.0},
                                     {"type": "VerticalFlip", "p": 1.0}], "p": 0.7},
]  # fmt: skip


def test_albumentations_draws_from_the_sample() -> None:
    pytest.importorskip("albumentations")
    transform = T.Albu(ALBU)
    results = set()
    for seed in range(12):
        outs = []
        for noise in range(2):
            np.random.seed(noise)
            random.seed(noise)
            out = transform.transform({**picture(16, 16, 3), "rng": RandomState(seed)})
            assert out["seg_fields"] == ["gt_seg_map"]
            outs.append((out["img"].tobytes(), out["gt_seg_map"].tobytes()))
        assert outs[0] == outs[1]
        results.add(outs[0])
    assert len(results) > 6
    flip = T.Albu([{"type": "HorizontalFlip", "p": 1.0}]).transform(picture(8, 8, 0))
    assert (flip["img"] == picture(8, 8, 0)["img"][:, ::-1]).all()  # BGR in, BGR out
    assert (flip["gt_seg_map"] == picture(8, 8, 0)["gt_seg_map"][:, ::-1]).all()
    with pytest.raises(ConfigError, match=r"no 'HorizontalFlp'; did you mean 'HorizontalFlip'"):
        T.Albu([{"type": "HorizontalFlp"}])


def test_albumentations_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ConfigError, match=r"Albu: albumentations .* pip install albumentations"):
        T.Albu(ALBU)


def test_configs_with_these_are_checked(tmp_path: Path) -> None:
    root = Path(__file__).parents[2] / "configs/nonlocal_net"
    base = root / "nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py"
    text = f"""
_base_ = {str(base)!r}
inner = dict(type='CityscapesDataset', data_root='x',
             data_prefix=dict(img_path='a', seg_map_path='b'),
             pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')])
train_dataloader = dict(dataset=dict(_delete_=True, type='MultiImageMixDataset', dataset=inner,
    pipeline=[dict(type='RandomMosaic', prob=0.5, img_scale=(256, 512)),
              dict(type='Albu', transforms={ALBU!r}),
              dict(type='RandomChoice', transforms=[[dict(type='RandomFlip', prob=0.5)]]),
              dict(type='PackSegInputs')]))
"""
    path = tmp_path / "mine.py"
    path.write_text(text)
    load_config(path, check=True)
    path.write_text(text.replace("prob=0.5, img_scale", "prob=1.5, img_scale"))
    with pytest.raises(ConfigError, match=r"RandomMosaic wants values in \[0, 1\], given 1.5"):
        load_config(path, check=True)
    path.write_text(text.replace("[dict(type='RandomFlip'", "[dict(type='RandomFlp'"))
    with pytest.raises(ConfigError, match="did you mean 'RandomFlip'"):
        load_config(path, check=True)
