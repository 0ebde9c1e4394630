"""Choices from numbers: each moves as its measurement does, and says so."""

from typing import Any

import pytest

from nlseg.start.choose import (
    ITERATIONS,
    MEAN,
    ON_CPU,
    ON_GPU,
    Choices,
    Measured,
    choose,
    crops_for,
)
from nlseg.start.facts import DataFacts

NAMES = ("background", "thing", "other")
RATES = {"R-18": 16.0, "R-18, half the channels": 4.0, "R-18, a quarter of the channels": 1.0}
MACHINE = Measured("CPU", RATES, frozenset())
PLAIN = DataFacts(
    num_train=32, num_test=8, sizes=(((240, 320), 40),), shares=(0.6, 0.4),
    widths=(90.0, 12.0), channels=3, deep=False, mean=(90.0, 80.0, 70.0),
    std=(20.0, 21.0, 22.0), most=255,
)  # fmt: skip


def plan(
    seconds: float = 600.0, machine: Measured = MACHINE, backbones: Any = ON_CPU, **data: Any
) -> Choices:
    facts = PLAIN.__class__(**{**PLAIN.__dict__, **data})
    return choose(facts, NAMES[: len(facts.shares)], backbones, machine, seconds)


def test_every_choice_has_a_reason() -> None:
    reasons = plan(shares=(0.9, 0.095, 0.005), widths=(9.0, 9.0, 9.0)).reasons
    assert set(reasons) == {"scale", "backbone", "crop", "tta", "normalisation", "weights", "rate",
                            "loss", "rare"}  # fmt: skip
    assert all(reasons.values())


@pytest.mark.parametrize(
    ("width", "scale"),
    # below 8 px images grow to that, at most twice; above 16 px they shrink to that
    [(2.0, 2.0), (5.0, 1.5), (8.0, 1.0), (12.0, 1.0), (16.0, 1.0), (32.0, 0.5), (65.0, 0.5)],
)
def test_scale_follows_the_width_of_the_narrower_classes(width: float, scale: float) -> None:
    found = plan(seconds=6000.0, widths=(90.0, width))
    assert found.scale == scale
    assert f"'thing' is {width:.0f} px wide;" in found.reasons["scale"]
    two = plan(shares=(0.5, 0.3, 0.2), widths=(90.0, width, width + 1), seconds=6000.0)
    told = f"'thing' is {width:.0f} px wide (a quarter of the classes are narrower);"
    assert two.reasons["scale"].startswith(told)


def test_the_largest_class_does_not_count_for_the_scale() -> None:
    assert plan(seconds=6000.0, widths=(3.0, 12.0)).scale == 1.0  # 0 is what lies between things


def test_images_do_not_shrink_below_a_crop_and_large_ones_do() -> None:
    sizes = (((3000, 3000), 40),)
    assert plan(seconds=6000.0, widths=(900.0, 128.0), sizes=sizes).scale == 0.125
    assert plan(seconds=6000.0, widths=(900.0, 128.0)).scale == 0.5  # 240 x 320 px: 120 are left
    sizes = (((192, 256), 40),)  # 96 are left
    assert plan(seconds=6000.0, widths=(900.0, 128.0), sizes=sizes).scale == 0.5


def test_scale_gives_way_to_the_time_of_the_test() -> None:
    # 100 images of 9 Mpx at 1 s a Mpx and 0.4 for forward alone take 360 s, a fifth of 600 is 120
    found = plan(sizes=(((3000, 3000), 40),), num_test=100)
    assert found.scale == 0.5
    assert "takes more than 20% of the time" in found.reasons["scale"]
    assert plan(sizes=(((20000, 20000), 40),), num_test=400).scale == 0.125  # the least


def test_the_strongest_network_with_enough_steps() -> None:
    # 500 steps in 0.8 of the time; a step is 4 crops at 1, 4 or 16 s a Mpx:
    # 0.096 s hold 0.0655 of a quarter at 128 px; 0.48 s hold 0.41 of a half at 160 px; 9.6 s all
    for seconds, place, crop in (
        (60.0, 2, (128, 128)), (300.0, 1, (160, 160)), (6000.0, 0, (240, 256)),
    ):  # fmt: skip
        found = plan(seconds=seconds)
        assert (found.backbone, found.crop) == (ON_CPU[place], crop)
        assert f"{RATES[ON_CPU[place].name]:.2f} s for each million px" in (
            found.reasons["backbone"].replace("pixels", "px")
        )
        assert found.reasons["backbone"].startswith("the strongest with 500 steps or more: ")
    found = plan(seconds=1.0)  # never enough: the smallest of both
    assert (found.backbone, found.crop) == (ON_CPU[2], (96, 96))
    assert found.reasons["backbone"].startswith("the smallest, as none has 500 steps: ")
    # 0.8 s over 4 * 96 * 96 / 10^6 s
    assert found.reasons["crop"].startswith("about 22 steps fit into 1 s of 4 images")
    assert ITERATIONS == 500


def test_crops_fit_into_the_image() -> None:
    assert crops_for((240, 320), 256) == [
        (240, 256), (192, 192), (160, 160), (128, 128), (96, 96),
    ]  # fmt: skip
    assert crops_for((50, 70)) == [(56, 72), (56, 64)]
    assert crops_for((600, 700))[0] == (512, 512)


def test_published_weights_bring_their_normalisation_and_rate() -> None:
    machine = Measured("a GPU", {"R-101": 0.1, "R-50": 0.05, "R-18": 0.02}, frozenset({"R-101"}))
    found = plan(machine=machine, backbones=ON_GPU)
    assert found.backbone.name == "R-101"
    assert (found.pretrained, found.mean, found.rate) == (ON_GPU[0].weights, MEAN, 0.01)
    without = plan(
        machine=machine._replace(weights=frozenset(), why_not="no network"), backbones=ON_GPU
    )
    assert (without.pretrained, without.mean, without.rate) == (None, (90.0, 80.0, 70.0), 0.05)
    assert without.reasons["weights"] == "no network"
    deep = plan(machine=machine, backbones=ON_GPU, deep=True, most=4000)
    assert deep.pretrained is None
    assert "levels up to 4000 of 16 bits" in deep.reasons["normalisation"]


def test_rare_classes_get_dice_and_crops_of_their_own() -> None:
    assert plan().loss == "ce"
    assert plan(shares=(0.9, 0.1)).loss == "ce+dice"
    three = {"widths": (9.0, 9.0, 9.0)}
    found = plan(shares=(0.9, 0.095, 0.005), **three)
    assert (found.loss, found.rare) == ("ce+dice", (2,))
    assert "'other' has 0.50 %" in found.reasons["loss"]
    found = plan(shares=(0.5, 0.49, 0.01), **three)  # 1 % is not below it
    assert (found.loss, found.rare) == ("ce", ())
    found = plan(shares=(0.5, 0.3, 0.2), **three)
    assert (found.loss, found.rare) == ("ce", ())
    found = plan(shares=(0.5, 0.5, 0.0), **three)  # a class that never occurs is not rare
    assert (found.loss, found.rare) == ("ce", ())


def test_flipped_images_are_tested_where_that_is_cheap() -> None:
    # 8 images of 0.0768 Mpx, 0.4 of 1 s: 0.25 s
    cheap = plan(seconds=60.0)
    assert cheap.tta
    assert cheap.test_s == pytest.approx(0.49, abs=0.01)
    assert cheap.train_s == pytest.approx(60 - cheap.test_s)
    for number, flipped in ((90, True), (120, False)):  # 2.8 s and 3.7 s; 3 s are half of a tenth
        assert plan(seconds=60.0, num_test=number).tta == flipped
    dear = plan(seconds=60.0, num_test=300)
    assert not dear.tta
    assert "twice that is more" in dear.reasons["tta"]
