"""The fused step against the separate transforms, over hundreds of seeds."""

from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.random import RandomState
from PIL import Image

from nlseg.datasets.transforms import Compose
from nlseg.datasets.transforms.crop import Box
from nlseg.datasets.transforms.decode import read_header
from nlseg.datasets.transforms.fused import (
    ONE_LEVEL,
    FusedCrop,
    FusedLoadCrop,
    nearest_is_exact,
    nearest_window,
    resize_window,
    rows_needed,
    window_is_exact,
)
from nlseg.datasets.transforms.resize import resize_array
from tests.cases import each_case

KEYS = ("scale", "scale_factor", "img_shape", "ori_shape", "flip", "flip_direction", "keep_ratio")


def steps(crop: tuple[int, int], **changes: Any) -> list[dict[str, Any]]:
    resize = {
        "type": "RandomResize",
        "scale": (96, 64),
        "ratio_range": (0.5, 2.0),
        "keep_ratio": True,
        **changes,
    }
    return [
        resize,
        {"type": "RandomCrop", "crop_size": crop, "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.6, "direction": ["horizontal", "vertical"]},
        {"type": "PhotoMetricDistortion"},
    ]


def random_sample(seed: int) -> dict[str, Any]:
    """A picture of noise of odd size with a label map of blocks, most of them one class."""
    rng = RandomState(seed)
    height, width = rng.randint(9, 160, 2)
    blocks = rng.choice([0, 0, 0, 0, 1, 2, 255], size=(4, 5)).astype(np.uint8)
    label = cv2.resize(blocks, (int(width), int(height)), interpolation=cv2.INTER_NEAREST)
    image = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
    return {
        "img": image,
        "ori_shape": image.shape[:2],
        "gt_seg_map": label,
        "seg_fields": ["gt_seg_map"],
        "rng": RandomState(seed),
    }


def run_both(pipeline: list[dict[str, Any]], seed: int, mode: str) -> tuple[Any, Any]:
    fused = Compose(pipeline, fuse=mode)
    assert any(isinstance(step, FusedCrop | FusedLoadCrop) for step in fused.steps)
    return Compose(pipeline)(random_sample(seed)), fused(random_sample(seed))


@each_case("interpolation", ["bilinear", "nearest"])
@each_case("keep_ratio", [True, False])
def test_exact_mode_gives_the_same_sample(interpolation: str, keep_ratio: bool) -> None:
    retried = small = 0
    for seed in range(150):
        pipeline = steps((40, 56), interpolation=interpolation, keep_ratio=keep_ratio)
        plain, fused = run_both(pipeline, seed, "exact")
        np.testing.assert_array_equal(fused["img"], plain["img"])
        np.testing.assert_array_equal(fused["gt_seg_map"], plain["gt_seg_map"])
        assert {key: fused[key] for key in KEYS} == {key: plain[key] for key in KEYS}
        assert fused["rng"].rand() == plain["rng"].rand()
        small += plain["img_shape"] != (40, 56)
        counts = np.bincount(plain["gt_seg_map"].ravel(), minlength=256)[:255]
        retried += counts.max() >= 0.75 * counts.sum()
    assert small >= 5  # images smaller than the crop were among them
    assert retried >= 10  # and crops that cat_max_ratio refused to the last


def test_fast_mode_is_at_most_one_level_off() -> None:
    pipeline = steps((40, 56))[:3]
    largest = 0
    for seed in range(300):
        plain, fused = run_both(pipeline, seed, "fast")
        np.testing.assert_array_equal(fused["gt_seg_map"], plain["gt_seg_map"])
        difference = np.abs(fused["img"].astype(int) - plain["img"].astype(int)).max(initial=0)
        largest = max(largest, int(difference))
        assert fused["rng"].rand() == plain["rng"].rand()
    assert largest == 1


@pytest.mark.parametrize("slack", [0.0, ONE_LEVEL])
def test_window_of_a_large_picture(slack: float) -> None:
    rng = RandomState(5)
    image = rng.randint(0, 256, (512, 1024, 3)).astype(np.uint8)
    for scale in (0.5, 0.613, 0.871, 1.0, 1.137, 1.5, 1.907, 2.0):
        size = (int(1024 * scale + 0.5), int(512 * scale + 0.5))
        top, left = rng.randint(0, size[1] - 255), rng.randint(0, size[0] - 511)
        box = Box(top, top + 256, left, left + 512)
        whole = box.cut(resize_array(image, size, "bilinear")).astype(int)
        window = resize_window(image, size, box, "bilinear", slack=slack)
        assert np.abs(window - whole).max() <= (1 if slack else 0)
        label = np.ascontiguousarray(image[..., 0])
        expected = box.cut(resize_array(label, size, "nearest"))
        np.testing.assert_array_equal(nearest_window(label, size, box), expected)


@pytest.mark.parametrize("slack", [0.0, ONE_LEVEL])
def test_window_needs_no_more_rows_than_it_says(slack: float) -> None:
    rng = RandomState(6)
    image = rng.randint(0, 256, (97, 61, 3)).astype(np.uint8)
    for _ in range(200):
        size = (int(rng.randint(20, 150)), int(rng.randint(30, 220)))
        top = int(rng.randint(size[1]))
        box = Box(top, int(rng.randint(top + 1, size[1] + 1)), 0, size[0])
        rows = rows_needed(97, size[1], box)
        whole = resize_window(image, size, box, "bilinear", slack=slack)
        part = resize_window(image[:rows], size, box, "bilinear", slack=slack, height=97)
        np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("slack", [0.0, ONE_LEVEL])
def test_scales_close_to_one(slack: float) -> None:
    # a window of 97 px stays 97 px at a scale of 1.004, and OpenCV would copy it
    rng = RandomState(7)
    image = rng.randint(0, 256, (120, 251, 3)).astype(np.uint8)
    for size in ((252, 120), (250, 120), (252, 121), (250, 119), (251, 121)):
        for _ in range(30):
            top, left = int(rng.randint(size[1])), int(rng.randint(size[0]))
            bottom = int(rng.randint(top + 1, size[1] + 1))
            box = Box(top, bottom, left, int(rng.randint(left + 1, size[0] + 1)))
            whole = box.cut(resize_array(image, size, "bilinear")).astype(int)
            rows = rows_needed(120, size[1], box)
            window = resize_window(image[:rows], size, box, "bilinear", slack=slack, height=120)
            assert np.abs(window - whole).max() <= (1 if slack else 0)


def test_this_opencv_allows_windows() -> None:
    # without it everything still works, by resizing whole pictures
    assert window_is_exact()
    assert nearest_is_exact()


def test_whole_pictures_are_resized_where_windows_are_not_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("window_is_exact", "nearest_is_exact"):
        monkeypatch.setattr(f"nlseg.datasets.transforms.fused.{name}", lambda: False)
    plain, fused = run_both(steps((40, 56)), 3, "fast")
    np.testing.assert_array_equal(fused["img"], plain["img"])
    np.testing.assert_array_equal(fused["gt_seg_map"], plain["gt_seg_map"])


def test_subclasses_and_other_resizers_are_not_fused() -> None:
    pillow = Compose(steps((8, 8), backend="pillow"), fuse="exact")
    area = Compose(steps((8, 8), interpolation="area"), fuse="exact")
    lonely = Compose(steps((8, 8))[:1], fuse="exact")
    for pipeline in (pillow, area, lonely):
        assert pipeline.steps == pipeline.transforms


def test_float_images_take_the_separate_transforms() -> None:
    sample, other = random_sample(1), random_sample(1)
    for each in (sample, other):
        each["img"] = each["img"].astype(np.float32)
    pipeline = steps((40, 56))[:3]
    fused = Compose(pipeline, fuse="exact")(sample)
    np.testing.assert_array_equal(fused["img"], Compose(pipeline)(other)["img"])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_loading_is_part_of_the_step(tmp_path: Any, suffix: str) -> None:
    rng = RandomState(2)
    blocks = rng.randint(0, 256, (6, 9, 3)).astype(np.uint8)
    image = cv2.resize(blocks, (131, 77), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), image)
    label = cv2.resize(blocks[..., 0] % 5, (131, 77), interpolation=cv2.INTER_NEAREST)
    Image.fromarray(label).save(tmp_path / "a_label.png")
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        *steps((40, 56)),
        {"type": "PackSegInputs"},
    ]
    fused = Compose(pipeline, fuse="exact")
    assert isinstance(fused.steps[0], FusedLoadCrop)
    for seed in range(40):
        results = []
        for run in (Compose(pipeline), fused):
            files = {
                "img_path": str(tmp_path / f"a{suffix}"),
                "seg_map_path": str(tmp_path / "a_label.png"),
            }
            results.append(run({**files, "rng": RandomState(seed)}))
        plain, other = results
        assert bool((plain["inputs"] == other["inputs"]).all())
        assert bool((_label(plain) == _label(other)).all())
        assert plain["data_samples"].metainfo == other["data_samples"].metainfo


def _label(packed: dict[str, Any]) -> Any:
    return packed["data_samples"].gt_sem_seg.data


@pytest.mark.parametrize("package", ["kornia_rs", "imagecodecs"])
def test_fast_decoders_give_the_pixels_of_opencv(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    from nlseg.datasets.transforms import decode

    only = {package: decode._CANDIDATES[package]}
    monkeypatch.setattr(decode, "_CANDIDATES", only)
    decode.fast_decoder.cache_clear()
    try:
        found = decode.fast_decoder()
        assert found is not None
        assert found[0] == package
        rng = RandomState(3)
        for shape in ((50, 67, 3), (50, 67)):
            image = rng.randint(0, 256, shape).astype(np.uint8)
            data = cv2.imencode(".png", image)[1].tobytes()
            header = decode.read_header(data)
            assert header is not None
            for rows in (1, 20, 50, 99):
                top = decode.decode_fast(data, header, rows)
                np.testing.assert_array_equal(top, image[:rows])
    finally:
        decode.fast_decoder.cache_clear()


def test_header_of_a_png():
    for shape, is_rgb in (((50, 67, 3), True), ((50, 67), False)):
        data = cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes()
        assert read_header(data) == (50, 67, True, is_rgb, not is_rgb)
        assert read_header(data[:-1]) == (50, 67, False, is_rgb, not is_rgb)
    deep = cv2.imencode(".png", np.zeros((4, 5), np.uint16))[1].tobytes()
    assert read_header(deep) == (4, 5, False, False, True)
    assert read_header(data[:44]) is None
    assert read_header(data.replace(b"IHDR", b"JHDR")) is None
    assert read_header(b"P5" + data[2:]) is None
