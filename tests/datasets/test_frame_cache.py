"""The cache of decoded frames: same samples, rebuilt when files change, safe when shared."""

import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from nlseg.datasets import InfiniteSampler, cache, stack_collate
from nlseg.datasets.cache import FrameSource, open_cache
from nlseg.errors import ConfigError, DataError
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex
from tests.cases import each_case
from tests.datasets.folders import LOAD, PIPELINE, config, write_pairs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pairs(tmp_path, list("abcde"))
    return tmp_path


def cached(root: Path, **changes: Any) -> Any:
    return DATASETS.build(config(root, **{"cache": "memmap", **changes}))


def cache_files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".nlseg_cache").iterdir())


@pytest.mark.parametrize("fuse", ["off", "exact", "fast"])
def test_samples_are_the_same_with_and_without(root: Path, fuse: str) -> None:
    plain = DATASETS.build(config(root, fuse=fuse))
    fast = cached(root, fuse=fuse)
    for number in range(30):
        expected, item = (d[SampleIndex(number % 5, number)] for d in (plain, fast))
        assert torch.equal(item["inputs"], expected["inputs"])
        labels = [s["data_samples"].gt_sem_seg.data for s in (item, expected)]
        assert torch.equal(*labels)
        assert item["data_samples"].metainfo == expected["data_samples"].metainfo


def test_one_file_that_is_read_instead_of_the_images(root: Path) -> None:
    dataset = cached(root, pipeline=LOAD)
    names = [name for name in cache_files(root) if not name.endswith(".lock")]
    assert len(names) == 1
    assert names[0].startswith("images-")
    assert names[0].endswith(".frames")
    # the frames, 5 x (24 x 32 x 4) bytes, and the index
    assert (root / ".nlseg_cache" / names[0]).stat().st_size > 5 * 24 * 32 * 4
    image = np.array(Image.open(root / "images/b.png"))[..., ::-1]
    (root / "images/b.png").write_bytes(b"")
    np.testing.assert_array_equal(dataset[1]["img"], image)
    assert not dataset[1]["img"].flags.writeable


def test_a_second_start_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(root)
    monkeypatch.setattr(cache, "_build", lambda *_: pytest.fail("built again"))
    cached(root)


def test_a_changed_file_is_decoded_again(root: Path) -> None:
    cached(root)
    path = root / "images/a.png"
    Image.fromarray(np.full((24, 32, 3), 77, np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    assert (cached(root, pipeline=LOAD)[0]["img"] == 77).all()


def test_a_broken_cache_file_is_built_again(root: Path) -> None:
    cached(root)
    (name,) = (name for name in cache_files(root) if name.endswith(".frames"))
    path = root / ".nlseg_cache" / name
    path.write_bytes(path.read_bytes()[:-5])
    dataset = cached(root, pipeline=LOAD)
    assert dataset[0]["img"].shape == (24, 32, 3)


def frames_file(root: Path) -> Path:
    (name,) = (name for name in cache_files(root) if name.endswith(".frames"))
    return root / ".nlseg_cache" / name


@pytest.mark.parametrize("place", [0, 1000, 24 * 32 * 3 - 1])
def test_a_flipped_bit_is_noticed_and_the_file_decoded(
    root: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(cache, "print_log", lambda text, *_: warned.append(text))
    plain = DATASETS.build(config(root, pipeline=LOAD))[0]
    cached(root)
    path = frames_file(root)
    data = bytearray(path.read_bytes())
    data[place] ^= 8
    path.write_bytes(data)
    dataset = cached(root, pipeline=LOAD)
    for _ in range(2):
        np.testing.assert_array_equal(dataset[0]["img"], plain["img"])
    assert len(warned) == 1
    assert "images/a.png is damaged" in warned[0]
    assert not path.exists()
    np.testing.assert_array_equal(dataset[1]["img"], cached(root, pipeline=LOAD)[1]["img"])
    assert path.exists()


def test_a_damaged_index_is_built_again(root: Path) -> None:
    plain = DATASETS.build(config(root, pipeline=LOAD))[0]
    cached(root)
    path = frames_file(root)
    whole = path.read_bytes()
    start = whole.index(b"[[")
    for place in (start + 1, start + 200, len(whole) - 30, len(whole) - 20, len(whole) - 1):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        np.testing.assert_array_equal(cached(root, pipeline=LOAD)[0]["img"], plain["img"])
        assert path.read_bytes() == whole


@each_case("change", [
    {"offset": 1 << 40}, {"offset": 4}, {"shape": [24, -32, 3]}, {"shape": []}, {"shape": [1] * 9},
    {"offset": "0"}, {"checksum": None},
])  # fmt: skip
def test_an_index_that_does_not_fit_its_file_is_not_believed(change: Any) -> None:
    good = cache.Frame("a.png", 1, 2, [24, 32, 3], 0, 5)
    assert good.fits(24 * 32 * 3)
    assert not good.fits(24 * 32 * 3 - 1)
    assert not good._replace(**change).fits(24 * 32 * 3)


def test_other_settings_have_other_files(root: Path) -> None:
    cached(root)
    pipeline = [{"type": "LoadImageFromFile", "imdecode_backend": "pillow"}, *PIPELINE[1:]]
    cached(root, pipeline=pipeline)
    cached(root, indices=2)
    assert sum(name.endswith(".frames") for name in cache_files(root)) == 3


def test_bad_files_stay_out_and_are_told_when_used(root: Path) -> None:
    (root / "images/c.png").write_text("no image")
    dataset = cached(root)
    dataset[0]
    with pytest.raises(DataError, match=r"c\.png: no readable image"):
        dataset[2]


def test_label_rules_apply_after_the_cache(root: Path) -> None:
    raw = np.array(Image.open(root / "labels/a.png"))
    assert (cached(root, pipeline=LOAD)[0]["gt_seg_map"] == raw).all()
    mapped = cached(root, pipeline=LOAD, label_map={0: 255, 2: 0})
    np.testing.assert_array_equal(mapped[0]["gt_seg_map"], np.choose(raw, [255, 1, 0]))
    assert sum(name.endswith(".frames") for name in cache_files(root)) == 1


def test_workers_open_their_own_mapping(root: Path) -> None:
    dataset = cached(root)
    dataset[0]
    assert pickle.loads(pickle.dumps(dataset)).frames._bytes is None
    plain = DATASETS.build(config(root))
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=InfiniteSampler(dataset, shuffle=False, seed=0),
        num_workers=2,
        collate_fn=stack_collate,
    )
    batch = next(iter(loader))
    assert torch.equal(batch["inputs"][1], plain[SampleIndex(1, 1)]["inputs"])


def test_turned_photographs(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.repeat(np.arange(32, dtype=np.uint8) * 8, 24).reshape(32, 24)
    Image.fromarray(np.stack([pixels.T] * 3, -1)).save(root / "images/a.png", exif=exif)
    Image.fromarray(np.zeros((32, 24), np.uint8)).save(root / "labels/a.png")
    plain = DATASETS.build(config(root, pipeline=LOAD))[0]
    assert plain["img"].shape == (32, 24, 3)
    np.testing.assert_array_equal(cached(root, pipeline=LOAD)[0]["img"], plain["img"])


def test_too_little_room_is_told_before_writing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(root)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 0\.00 GiB and 0\.00 GiB are free; set cache_dir"):
        cached(root)
    assert not any(name.endswith((".frames", ".tmp")) for name in cache_files(root))


def test_a_folder_that_cannot_be_written(root: Path) -> None:
    (root / "file").write_text("")
    with pytest.raises(DataError, match="set cache_dir to a folder that can be written"):
        cached(root, cache_dir=str(root / "file/cache"))


def test_the_pipeline_must_load_plain_images(root: Path) -> None:
    grey = [{"type": "LoadImageFromFile", "color_type": "grayscale"}]
    with pytest.raises(ConfigError, match="needs LoadImageFromFile"):
        cached(root, pipeline=grey)
    with pytest.raises(ConfigError, match="'ram' is not one of 'memmap' or None"):
        cached(root, cache="ram")


def _read(path: str) -> Any:
    with open(f"{path}.reads", "a") as file:
        file.write("x")
    return np.array(Image.open(path))


def _start(folder: str) -> int:
    files = [f"{folder}/images/{name}.png" for name in "abcde"]
    cache = open_cache(f"{folder}/cache", "shared", "", [FrameSource(f, _read, 3) for f in files])
    frame = cache.get(files[3])
    assert frame is not None
    return int(frame.sum())


def test_processes_that_start_together_build_once(root: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        sums = list(pool.map(_start, [str(root)] * 4))
    assert len(set(sums)) == 1
    reads = [(root / f"images/{name}.png.reads").read_text() for name in "abcde"]
    assert reads == ["x"] * 5
