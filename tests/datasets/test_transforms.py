"""Each transform by itself: numbers worked out by hand, and parity with mmcv's."""

from typing import Any

import cv2
import mmcv.transforms
import numpy as np
import pytest
import torch
from numpy.random import RandomState

from nlseg.datasets import transforms as T
from nlseg.datasets.transforms.labels import check_range
from nlseg.datasets.transforms.resize import fit_size
from nlseg.errors import ConfigError, DataError
from nlseg.registry import TRANSFORMS
from tests.cases import each_case


def sample_of(label: Any, image: Any = None) -> dict[str, Any]:
    label = np.asarray(label, np.uint8)
    if image is None:
        image = np.arange(label.size * 3, dtype=np.uint8).reshape(*label.shape, 3)
    return {
        "img": image,
        "gt_seg_map": label,
        "seg_fields": ["gt_seg_map"],
        "rng": RandomState(0),
    }


def noise(height: int, width: int, seed: int = 0) -> Any:
    return RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def test_sizes_by_hand() -> None:
    # 2048 x 512 limits: long side 2048 / 500 = 4.1, short side 512 / 375 = 1.365 -> 683 x 512
    assert fit_size((500, 375), (2048, 512)) == (683, 512)
    # the order of the two numbers does not matter, the image's orientation does
    assert fit_size((375, 500), (512, 2048)) == (512, 683)
    # half a pixel rounds up: 97 * 0.5 + 0.5 = 49
    resize = T.Resize(scale_factor=0.5, keep_ratio=True)
    out = resize.transform(sample_of(np.zeros((66, 97))))
    assert out["img"].shape == (33, 49, 3)
    assert out["scale_factor"] == (49 / 97, 0.5)


@each_case("arguments", [
    {"scale": (50, 20), "keep_ratio": True},
    {"scale": (50, 20)},
    {"scale": 31, "keep_ratio": True},
    {"scale_factor": 1.37, "keep_ratio": True},
    {"scale_factor": (0.7, 1.9)},
    {"scale": (50, 20), "interpolation": "bicubic"},
    {"scale": (50, 20), "backend": "pillow"},
])  # fmt: skip
def test_resize_equals_mmcv(arguments: dict[str, Any]) -> None:
    label = RandomState(1).randint(0, 9, (37, 53)).astype(np.uint8)
    mine = T.Resize(**arguments).transform(sample_of(label, noise(37, 53)))
    theirs = mmcv.transforms.Resize(**arguments)(sample_of(label, noise(37, 53)))
    np.testing.assert_array_equal(mine["img"], theirs["img"])
    np.testing.assert_array_equal(mine["gt_seg_map"], theirs["gt_seg_map"])
    for key in ("scale", "scale_factor", "img_shape", "keep_ratio"):
        assert mine[key] == theirs[key]


@each_case("arguments", [
    {"scale": (40, 20), "ratio_range": (0.5, 2.0), "keep_ratio": True},
    {"scale": [(40, 20), (80, 60)], "keep_ratio": True},
    {"scale": [(80, 20), (40, 60)], "keep_ratio": False},
])  # fmt: skip
def test_random_resize_draws_as_mmcv_does(arguments: dict[str, Any]) -> None:
    mine, theirs = T.RandomResize(**arguments), mmcv.transforms.RandomResize(**arguments)
    for seed in range(20):
        label = np.zeros((37, 53))
        np.random.seed(seed)
        expected = theirs(sample_of(label, noise(37, 53)))
        mine_in = {**sample_of(label, noise(37, 53)), "rng": RandomState(seed)}
        result = mine.transform(mine_in)
        assert result["scale"] == expected["scale"]
        np.testing.assert_array_equal(result["img"], expected["img"])


def test_a_drawn_scale_goes_to_any_transform_that_resizes() -> None:
    label = np.zeros((100, 300))
    edges = T.RandomChoiceResize([50, (40, 60)], resize_type="ResizeShortestEdge", max_size=90)
    seen = set()
    for seed in range(8):
        out = edges.transform({**sample_of(label), "rng": RandomState(seed)})
        # 50 px at the short side would be 150 at the long one: 90 / 300 = 0.3; so would 40
        assert out["img_shape"] == (30, 90)
        seen.add(out["scale_idx"])
    assert seen == {0, 1}
    wide = T.RandomResize((10, 10), (3.0, 3.0), "ResizeShortestEdge", max_size=999)
    assert wide.transform(sample_of(label))["img_shape"] == (30, 90)
    # the largest 3 : 1 picture within 60 x 20 is 60 x 20; its next multiples of 16 are 64 and 32
    multiple = T.RandomResize(
        (30, 10), (2.0, 2.0), resize_type="ResizeToMultiple", size_divisor=16, keep_ratio=True
    )
    assert multiple.transform(sample_of(label))["img_shape"] == (32, 64)


def test_a_drawn_scale_goes_to_a_users_transform() -> None:
    class Halve:
        def __init__(self, scale: Any, shrink: int) -> None:
            self.scale, self.shrink = scale, shrink

        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            return {**sample, "got": (self.scale, self.shrink)}

    class Fixed:
        def __init__(self, shrink: int = 1) -> None: ...

    for kind in (Halve, Fixed):
        TRANSFORMS.register_module(module=kind)
    try:
        own: Any = T.RandomChoiceResize([7], resize_type="Halve", shrink=3)
        assert own.transform(sample_of([[0]]))["got"] == (7, 3)
        with pytest.raises(ConfigError, match=r"resize_type: Fixed cannot .* take 'scale'"):
            T.RandomChoiceResize([7], resize_type="Fixed")
    finally:
        for kind in (Halve, Fixed):
            TRANSFORMS.module_dict.pop(kind.__name__)


def test_random_choice_resize_notes_its_choice() -> None:
    scales = [(20, 10), (40, 20)]
    transform = T.RandomChoiceResize(scales, keep_ratio=True)
    seen = set()
    for seed in range(10):
        sample = {**sample_of(np.zeros((10, 20))), "rng": RandomState(seed)}
        out = transform.transform(sample)
        assert out["img_shape"] == scales[out["scale_idx"]][::-1]
        seen.add(out["scale_idx"])
    assert seen == {0, 1}


@each_case("prob", [0.3, 1.0, [0.2, 0.5]])
def test_flip_draws_as_mmcv_does(prob: Any) -> None:
    direction = ["horizontal", "diagonal"] if isinstance(prob, list) else "vertical"
    mine = T.RandomFlip(prob=prob, direction=direction)
    theirs = mmcv.transforms.RandomFlip(prob=prob, direction=direction)
    for seed in range(15):
        label = np.arange(12).reshape(3, 4)
        np.random.seed(seed)
        expected = theirs(sample_of(label))
        result = mine.transform({**sample_of(label), "rng": RandomState(seed)})
        assert result["flip_direction"] == expected["flip_direction"]
        np.testing.assert_array_equal(result["img"], expected["img"])
        np.testing.assert_array_equal(result["gt_seg_map"], expected["gt_seg_map"])


def test_flip_by_hand_with_left_and_right_classes() -> None:
    flip = T.RandomFlip(prob=1, swap_seg_labels=[(1, 2)])
    out = flip.transform(sample_of([[0, 1, 2], [3, 2, 2]]))
    # mirrored: 2 1 0 / 2 2 3, then 1 and 2 change places
    assert out["gt_seg_map"].tolist() == [[1, 2, 0], [1, 1, 3]]
    assert out["img"][0, 0].tolist() == [6, 7, 8]
    assert (out["flip"], out["flip_direction"]) == (True, "horizontal")


def test_pad_by_hand() -> None:
    out = T.Pad(size=(4, 3)).transform(sample_of([[1, 2], [3, 4]]))
    assert out["gt_seg_map"].tolist() == [[1, 2, 255, 255], [3, 4, 255, 255], [255] * 4]
    assert out["img"][2].sum() == 0
    assert out["img"][0, :2].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (out["pad_shape"], out["img_shape"]) == ((3, 4, 3), (3, 4))


@each_case("arguments", [
    {"size": (60, 50)},
    {"size": (30, 50), "pad_val": {"img": 7, "seg": 9}},
    {"size_divisor": 16, "pad_val": 3},
    {"pad_to_square": True},
    {"pad_to_square": True, "size_divisor": 32},
    {"size_divisor": 32, "padding_mode": "reflect"},
    {"size_divisor": 32, "padding_mode": "edge"},
    {"size_divisor": 32, "padding_mode": "symmetric"},
])  # fmt: skip
def test_pad_equals_mmcv(arguments: dict[str, Any]) -> None:
    label = RandomState(2).randint(0, 9, (37, 53)).astype(np.uint8)
    mine = T.Pad(**arguments).transform(sample_of(label, noise(37, 53)))
    theirs = mmcv.transforms.Pad(**arguments)(sample_of(label, noise(37, 53)))
    np.testing.assert_array_equal(mine["img"], theirs["img"])
    np.testing.assert_array_equal(mine["gt_seg_map"], theirs["gt_seg_map"])
    assert mine["pad_shape"] == theirs["pad_shape"]


def test_image_and_label_are_cut_by_the_same_box() -> None:
    rows, columns = np.mgrid[:20, :30]
    image = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    label = (rows + columns).astype(np.uint8)
    for seed in range(20):
        sample = {**sample_of(label, image), "rng": RandomState(seed)}
        out = T.RandomCrop((7, 11)).transform(sample)
        assert out["img_shape"] == (7, 11)
        cut = out["img"].astype(int)
        np.testing.assert_array_equal(out["gt_seg_map"], cut[..., 0] + cut[..., 1])


def test_crop_share_of_one_class_by_hand() -> None:
    crop = T.RandomCrop(2, cat_max_ratio=0.75)
    assert not crop.accepts(np.array([[1, 1], [1, 1]], np.uint8))  # one class only
    assert not crop.accepts(np.array([[1, 1], [1, 2]], np.uint8))  # 3/4 is not below 3/4
    assert crop.accepts(np.array([[1, 1], [2, 2]], np.uint8))
    assert not crop.accepts(np.array([[1, 255], [255, 255]], np.uint8))  # 255 does not count
    assert crop.accepts(np.array([[1, 2], [255, 255]], np.uint8))
    assert not crop.accepts(np.full((2, 2), 255, np.uint8))


def test_crops_hold_a_rare_class_as_often_as_asked() -> None:
    label = np.zeros((60, 80), np.uint8)
    label[3, 77] = 5
    crop = T.RandomCrop((10, 10), rare_classes=[5, 9], rare_prob=0.8)
    found = 0
    for seed in range(200):
        sample = {**sample_of(label, noise(60, 80)), "rng": RandomState(seed)}
        out = crop.transform(sample)
        assert out["gt_seg_map"].shape == (10, 10)
        found += (out["gt_seg_map"] == 5).any()
    assert 140 <= found <= 180  # 160 expected, and hardly any by chance
    bare = crop.transform(sample_of(np.zeros((60, 80)), noise(60, 80)))
    assert bare["img_shape"] == (10, 10)  # an image without the class is cut as usual


def slow_distortion(image: Any, rng: RandomState) -> Any:
    """The published order of the steps, each in floating point."""

    def levels(values: Any, alpha: float = 1, beta: float = 0) -> Any:
        return np.clip(values.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    if rng.randint(2):
        image = levels(image, beta=rng.uniform(-32, 32))
    early = rng.randint(2)
    if early and rng.randint(2):
        image = levels(image, alpha=rng.uniform(0.5, 1.5))
    if rng.randint(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = levels(hsv[..., 1], alpha=rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng.randint(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.randint(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not early and rng.randint(2):
        image = levels(image, alpha=rng.uniform(0.5, 1.5))
    return image


def test_distortion_by_tables_equals_floating_point() -> None:
    transform = T.PhotoMetricDistortion()
    for seed in range(120):
        image = noise(23 + seed % 7, 31, seed)
        rng = RandomState(seed)
        expected = slow_distortion(image, rng)
        sample = {"img": image.copy(), "rng": RandomState(seed)}
        np.testing.assert_array_equal(transform.transform(sample)["img"], expected)
        assert sample["rng"].rand() == rng.rand()


def test_distortion_of_levels_with_fractions() -> None:
    transform = T.PhotoMetricDistortion()
    kinds = set()
    for seed in range(80):
        fractions = RandomState(seed).uniform(0, 255, (9, 11, 3)).astype(np.float32)
        levels_first = bool(transform.draw_steps(RandomState(seed))[:1]) and (
            transform.draw_steps(RandomState(seed))[0].hsv_channel is None
        )
        drawn = bool(transform.draw_steps(RandomState(seed)))
        start = fractions if levels_first or not drawn else np.rint(fractions).astype(np.uint8)
        expected = slow_distortion(start, RandomState(seed))
        out = transform.transform({"img": fractions.copy(), "rng": RandomState(seed)})["img"]
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, expected)
        kinds.add((levels_first, drawn))
    assert kinds == {(True, True), (False, True), (False, False)}


def test_loading_as_float_changes_no_pixel_of_a_distorted_image() -> None:
    transform = T.PhotoMetricDistortion()
    for seed in range(40):
        image = noise(9, 11, seed)
        as_levels = transform.transform({"img": image, "rng": RandomState(seed)})["img"]
        floating = {"img": image.astype(np.float32), "rng": RandomState(seed)}
        np.testing.assert_array_equal(transform.transform(floating)["img"], as_levels)


@each_case("transform", [T.PhotoMetricDistortion(), T.AdjustGamma(2.0), T.CLAHE()])
def test_sixteen_bits_are_not_cut(transform: Any) -> None:
    sample = {"img": np.full((8, 8, 3), 700, np.uint16), "img_path": "a.png"}
    name = type(transform).__name__
    with pytest.raises(DataError, match=rf"a.png: {name} works on .* uint16; load it by"):
        transform.transform(sample)
    packed = T.PackSegInputs().transform(sample)["inputs"]
    assert (packed.dtype, int(packed.max())) == (torch.int32, 700)


def test_transforms_leave_their_input_alone() -> None:
    # frames from a cache are shared and read-only
    image, label = noise(40, 50), RandomState(3).randint(0, 5, (40, 50)).astype(np.uint8)
    for array in (image, label):
        array.flags.writeable = False
    steps = [
        T.RandomFlip(prob=1.0, swap_seg_labels=[(0, 1)]),
        T.PhotoMetricDistortion(),
        T.RandomCutOut(prob=1.0, n_holes=3, cutout_shape=(5, 5), seg_fill_in=255),
        T.RandomRotate(prob=1.0, degree=20),
        T.Pad(size=(64, 64)),
        T.PackSegInputs(),
    ]
    for seed in range(10):
        sample: Any = {**sample_of(label, image), "rng": RandomState(seed)}
        for step in steps:
            sample = step(sample)
        assert sample["inputs"].shape == (3, 64, 64)


def test_packing_by_hand() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    sample = {**sample_of([[0, 255], [1, 2]], image), "ori_shape": (2, 2), "other": 1}
    packed = T.PackSegInputs().transform(sample)
    assert packed["inputs"].tolist() == [
        [[0, 3], [6, 9]], [[1, 4], [7, 10]], [[2, 5], [8, 11]],
    ]  # fmt: skip
    label = packed["data_samples"].gt_sem_seg.data
    assert (label.tolist(), label.dtype) == ([[[0, 255], [1, 2]]], torch.int64)
    assert packed["data_samples"].metainfo == {"ori_shape": (2, 2)}
    small = T.PackSegInputs(label_dtype="uint8").transform(sample)
    assert small["data_samples"].gt_sem_seg.data.dtype == torch.uint8
    grey = T.PackSegInputs().transform({"img": image[..., 0]})
    assert grey["inputs"].shape == (1, 2, 2)
    with pytest.raises(DataError, match="one value per pixel"):
        T.PackSegInputs().transform({"gt_seg_map": image})


def test_test_time_augmentation_shares_what_views_have_in_common() -> None:
    calls = []

    def resize(sample: dict[str, Any]) -> dict[str, Any]:
        calls.append("resize")
        return {**sample, "trail": ["a"]}

    def tag(name: str) -> Any:
        def add(sample: dict[str, Any]) -> dict[str, Any]:
            sample["trail"].append(name)  # in place: views must not see each other's
            return sample

        return add

    views = T.TestTimeAug([[resize, resize], [tag("x"), tag("y")]])
    assert views.transform({})["trail"] == [["a", "x"], ["a", "y"], ["a", "x"], ["a", "y"]]
    assert calls == ["resize", "resize"]


def test_turn_by_a_right_angle() -> None:
    label = np.array([[1, 2], [3, 4]], np.uint8)
    turned = T.RandomRotate(prob=1.0, degree=(90, 90)).transform(sample_of(label))
    assert turned["gt_seg_map"].tolist() == [[3, 1], [4, 2]]  # clockwise
    whole = T.RandomRotate(prob=1.0, degree=(90, 90), auto_bound=True)
    assert whole.transform(sample_of(np.zeros((4, 6))))["img_shape"] == (6, 4)


def test_levels_by_hand() -> None:
    image = np.full((2, 2, 3), 64, np.uint8)
    gamma = T.AdjustGamma(2.0).transform({"img": image})["img"]
    assert gamma[0, 0].tolist() == [127, 127, 127]  # 255 * sqrt(64 / 255) = 127.7
    image = np.array([[[10, 20, 30]]], np.uint8)
    grey = T.RGB2Gray(out_channels=1, weights=(0.5, 0.25, 0.25)).transform({"img": image})
    assert grey["img"].tolist() == [[[17.5]]]
    stretched = T.Rerange(0, 100).transform({"img": image})["img"]
    assert stretched.tolist() == [[[0.0, 50.0, 100.0]]]
    flat = T.Rerange(5, 100).transform({"img": np.full((1, 1, 3), 9, np.uint8)})["img"]
    assert flat.tolist() == [[[5.0, 5.0, 5.0]]]
    clahe = T.CLAHE().transform({"img": noise(32, 32)})["img"]
    expected = cv2.createCLAHE(40.0, (8, 8)).apply(noise(32, 32)[..., 1].copy())
    np.testing.assert_array_equal(clahe[..., 1], expected)


def test_other_size_rules_by_hand() -> None:
    out = T.ResizeToMultiple(32).transform(sample_of(np.zeros((33, 64))))
    assert out["img_shape"] == (64, 64)
    edge = T.ResizeShortestEdge(scale=50, max_size=90)
    assert edge.transform(sample_of(np.zeros((100, 120))))["img_shape"] == (50, 60)
    # 50 / 100 would make the long side 150; 90 / 300 = 0.3 instead
    assert edge.transform(sample_of(np.zeros((100, 300))))["img_shape"] == (30, 90)


def test_cut_out_holes() -> None:
    hole = T.RandomCutOut(prob=1.0, n_holes=1, cutout_ratio=(0.5, 0.5), fill_in=(9, 9, 9))
    out = hole.transform(sample_of(np.zeros((20, 20)), np.zeros((20, 20, 3), np.uint8)))
    filled = (out["img"] == 9).all(axis=-1)
    assert 0 < filled.sum() <= 100
    assert not out["gt_seg_map"].any()
    image = noise(8, 8)
    sample = sample_of(np.zeros((8, 8)), image)
    assert (
        T.RandomCutOut(prob=0.0, n_holes=1, cutout_shape=(2, 2)).transform(sample)["img"] is image
    )


@each_case("build, part", [
    (lambda: T.Resize(), "neither scale nor scale_factor"),
    (lambda: T.Resize(scale="big"), "Resize.scale: 'big'"),
    (lambda: T.Resize(scale=8, interpolation="cubic"), "bicubic"),
    (lambda: T.Resize(scale=8, backend="cv"), "'cv2', 'pillow'"),
    (lambda: T.RandomResize(scale=(8, 8)), "ratio_range"),
    (lambda: T.RandomCrop((0, 4)), "crop_size"),
    (lambda: T.RandomCrop(4, cat_max_ratio=75), "cat_max_ratio: 75"),
    (lambda: T.RandomFlip(), "prob: not given"),
    (lambda: T.RandomFlip(prob=2.0), "in [0, 1]"),
    (lambda: T.RandomFlip(prob=0.5, direction="left"), "horizontal"),
    (lambda: T.Pad(), "none of size"),
    (lambda: T.Pad(size=(1, 1), size_divisor=2), "size goes with neither"),
    (lambda: T.Pad(size=(1, 1), padding_mode="zero"), "constant"),
    (lambda: T.LoadImageFromFile(color_type="rgb"), "'color', 'grayscale'"),
    (lambda: T.LoadAnnotations(imdecode_backend="pil"), "pillow"),
    (lambda: T.PackSegInputs(label_dtype="int8"), "not one of 'int64', 'uint8'"),
    (lambda: T.Compose([3]), "3 is neither"),
    (lambda: T.Compose([], fuse="quick"), "exact, fast, off"),
    (lambda: T.TestTimeAug([[]]), "alternative"),
    (lambda: T.AdjustGamma(0), "not above 0"),
    (lambda: T.RandomRotate(prob=2, degree=1), "outside [0, 1]"),
    (lambda: T.RandomCutOut(prob=1, n_holes=1), "either cutout_shape or cutout_ratio"),
])  # fmt: skip
def test_mistakes_in_a_config_are_refused(build: Any, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert part in str(caught.value)


@each_case("dtype", [np.int16, np.uint16, np.int64])
def test_labels_above_a_byte_are_named_with_their_number(dtype):
    label = np.array([[0, 1, 256], [257, 257, 1]], dtype)  # 0, 1, 0, 1, 1, 1 if cut to a byte
    with pytest.raises(DataError, match=r"a.png: .*256 \(1 px\), 257 \(2 px\)"):
        check_range(label, "a.png", num_classes=2, ignore_index=255)
    if dtype != np.uint16:
        with pytest.raises(DataError, match=r"-2 \(1 px\)"):
            check_range(np.array([-2, 255, 0], dtype), "a.png", num_classes=2, ignore_index=255)
    check_range(np.array([1, 255, 0], dtype), "a.png", num_classes=2, ignore_index=255)
