"""Measured numbers to choices, each with its reason. Nothing is read, measured or drawn here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nlseg.ops.resize import Size
from nlseg.start.facts import DataFacts

CELL = 8
"""Pixels between two positions of the network's output."""
SCALES = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
CROPS = (512, 384, 320, 256, 192, 160, 128, 96, 64)
ITERATIONS = 500
"""Training steps below which a smaller network or crop is taken."""
RARE = 0.01
"""Share of the labelled pixels below which a class is rare."""
SMALL = 0.15
"""The same for the smaller one of two classes."""
TEST_SHARE, TTA_SHARE = 0.2, 0.1
"""Shares of the time that the test may take, and that it may take with flipped images too."""
FORWARD = 0.4
"""Time of labelling an image over that of a training step on it; a step is forward and backward."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MEGA = 1e6


class Backbone(NamedTuple):
    """A backbone that may be chosen.

    Args:
        name: What the plan calls it.
        base: Published config that has it.
        weights: Published weights that it can begin with; None for none.
        channels: Of its first stage.
        batch: Images a step.
    """

    name: str
    base: str
    weights: str | None
    channels: int
    batch: int


_R18 = "nonlocal_r18-d8_1xb4-20k_camvid-360x480"
_R50 = "nonlocal_r50-d8_1xb4-20k_camvid-360x480"
_R101 = "nonlocal_r101-d8_1xb4-20k_camvid-360x480"
WEIGHTS = {depth: f"open-mmlab://resnet{depth}_v1c" for depth in (18, 50, 101)}
ON_GPU = (
    Backbone("R-101", _R101, WEIGHTS[101], 64, 8),
    Backbone("R-50", _R50, WEIGHTS[50], 64, 8),
    Backbone("R-18", _R18, WEIGHTS[18], 64, 8),
)
ON_CPU = (
    Backbone("R-18", _R18, WEIGHTS[18], 64, 4),
    Backbone("R-18, half the channels", _R18, None, 32, 4),
    Backbone("R-18, a quarter of the channels", _R18, None, 16, 4),
)
"""The strongest first."""


class Measured(NamedTuple):
    """What the machine takes.

    Args:
        device: Its name.
        rates: Seconds of a training step for each million pixels, by the name of the backbone.
        weights: Backbones whose published weights can be read here.
        why_not: Why others cannot.
    """

    device: str
    rates: Mapping[str, float]
    weights: frozenset[str]
    why_not: str = ""


@dataclass
class Choices:
    """The values of a plan.

    Args:
        backbone: The network's.
        pretrained: Published weights that it begins with; None for random ones.
        scale: Factor of height and width of the images.
        image_size: (height, width) of a median image after it.
        crop: (height, width) that trains.
        batch: Images a step.
        rate: Learning rate at the start.
        loss: ``ce``, ``ce+dice`` or ``weighted``.
        rare: Classes that half of the crops are drawn around.
        mean: Of each channel.
        std: Of each channel.
        tta: Whether the test averages over flipped images too.
        test_s: Seconds that the test is expected to take.
        train_s: Seconds left for training.
        reasons: Name of a choice -> why, with the measurement behind it.
    """

    backbone: Backbone
    pretrained: str | None = None
    scale: float = 1.0
    image_size: Size = (0, 0)
    crop: Size = (0, 0)
    batch: int = 4
    rate: float = 0.01
    loss: str = "ce"
    rare: tuple[int, ...] = ()
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    tta: bool = False
    test_s: float = 0.0
    train_s: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)


def choose(
    data: DataFacts, classes: Sequence[str], candidates: Sequence[Backbone], measured: Measured,
    seconds: float,
) -> Choices:  # fmt: skip
    """Choose scale, network, crop, batch, loss and test from what was measured.

    Args:
        data: Of the data set.
        classes: Names of the classes.
        candidates: Backbones, the strongest first.
        measured: Of the machine.
        seconds: That are left for training and test together.
    """
    weakest = measured.rates[candidates[-1].name]
    scale, why_scale = choose_scale(data, classes, weakest, seconds)
    height, width = scaled(data.size, scale)
    test_mpx = data.num_test * height * width / MEGA
    cap = CROPS[0] if measured.device != "CPU" else 256
    backbone, crop, why_backbone, why_crop = choose_network(
        candidates,
        measured.rates,
        (height, width),
        seconds * (1 - TEST_SHARE),
        test_mpx,
        seconds,
        cap,
    )
    rate = measured.rates[backbone.name]
    test_s = test_mpx * rate * FORWARD
    choices = Choices(backbone, scale=scale, image_size=(height, width), crop=crop)
    choices.batch = backbone.batch
    choices.tta = 2 * test_s <= TTA_SHARE * seconds
    choices.test_s = test_s * (2 if choices.tta else 1)
    choices.train_s = max(1.0, seconds - choices.test_s)
    choices.reasons = {"scale": why_scale, "backbone": why_backbone, "crop": why_crop}
    choices.reasons["tta"] = (
        f"{data.num_test} test images take about {test_s:.0f} s, "
        f"{'twice that is less' if choices.tta else 'twice that is more'} than "
        f"{TTA_SHARE:.0%} of the time"
    )
    _choose_weights(choices, data, measured)
    _choose_loss(choices, data, classes)
    return choices


def scaled(size: Size, scale: float) -> Size:
    """Return a size after a scale, at least a cell."""
    return max(CELL, round(size[0] * scale)), max(CELL, round(size[1] * scale))


def choose_scale(
    data: DataFacts, classes: Sequence[str], rate: float, seconds: float
) -> tuple[float, str]:
    """Choose a scale at which the narrower classes are one to two cells of the output wide.

    Args:
        data: Of the data set.
        classes: Names of the classes.
        rate: Seconds of a training step for each million pixels, with the smallest network.
        seconds: For training and test.

    Returns:
        The scale, and why.
    """
    found = [(w, i) for i, w in enumerate(data.widths) if w > 0]
    large = max(range(len(data.shares)), key=lambda i: data.shares[i])
    things = sorted((w, i) for w, i in found if i != large) or sorted(found)
    narrow, place = things[len(things) // 4]
    told = f"{classes[place]!r} is {narrow:.0f} px wide (a quarter of the classes are narrower)"
    if len(things) == 1:
        told = f"{classes[place]!r} is {narrow:.0f} px wide"
    if narrow < CELL:
        wanted = CELL / narrow
    elif narrow > 2 * CELL:
        wanted = 2 * CELL / narrow
    else:
        wanted = 1.0
    fitting = [s for s in SCALES if s <= max(wanted, SCALES[0]) + 1e-9]
    scale = fitting[-1]
    while scale < 1 and min(scaled(data.size, scale)) < min(96, *data.size):
        scale = SCALES[SCALES.index(scale) + 1]
    why = f"{told}; the output has a position every {CELL} px"
    longest = TEST_SHARE * seconds
    while scale > SCALES[0]:
        height, width = scaled(data.size, scale)
        test_s = data.num_test * height * width / MEGA * rate * FORWARD
        if test_s <= longest or min(height, width) <= 128:
            break
        scale = SCALES[SCALES.index(scale) - 1]
        why = (
            f"{told}, but labelling larger test images takes more than {TEST_SHARE:.0%} of the time"
        )
    return scale, why


def choose_network(
    candidates: Sequence[Backbone], rates: Mapping[str, float], size: Size, train_s: float,
    test_mpx: float, seconds: float, cap: int = CROPS[0],
) -> tuple[Backbone, Size, str, str]:  # fmt: skip
    """Take the strongest network, and the largest crop, that leave enough training steps.

    Args:
        candidates: The strongest first.
        rates: Seconds of a training step for each million pixels, by name.
        size: Of the images as they are trained on.
        train_s: Seconds for training.
        test_mpx: Million pixels of the test images together.
        seconds: For training and test.
        cap: Longest side of a crop in px.

    Returns:
        Backbone and crop, and why each.
    """
    crops = crops_for(size, cap)
    for backbone in candidates:
        rate = rates[backbone.name]
        if backbone is not candidates[-1] and test_mpx * rate * FORWARD > TEST_SHARE * seconds:
            continue
        for crop in crops:
            step = backbone.batch * crop[0] * crop[1] / MEGA * rate
            if train_s / step >= ITERATIONS:
                return backbone, crop, *_why(backbone, crop, crops, rate, step, train_s)
    backbone, crop = candidates[-1], crops[-1]
    rate = rates[backbone.name]
    step = backbone.batch * crop[0] * crop[1] / MEGA * rate
    return backbone, crop, *_why(backbone, crop, crops, rate, step, train_s)


def _why(
    backbone: Backbone, crop: Size, crops: Sequence[Size], rate: float, step: float, train_s: float
) -> tuple[str, str]:
    steps = f"about {train_s / step:,.0f} steps fit into {train_s:.0f} s"
    chosen = f"the strongest with {ITERATIONS} steps or more"
    if train_s / step < ITERATIONS:
        chosen = f"the smallest, as none has {ITERATIONS} steps"
    whole = "the whole image" if crop == crops[0] else f"larger ones leave fewer than {ITERATIONS}"
    return (
        f"{chosen}: {rate:.2f} s for each million pixels, measured on drawn images",
        f"{steps} of {backbone.batch} images, at the rate of the network; {whole}",
    )


def crops_for(size: Size, cap: int = CROPS[0]) -> list[Size]:
    """List crops (height, width) for images of a size, the largest first, in steps of a cell."""
    height, width = (-(-side // CELL) * CELL for side in size)
    found = [(min(side, height), min(side, width)) for side in CROPS if side <= cap]
    fitting = [crop for crop in dict.fromkeys(found) if min(crop) >= min(96, height, width)]
    return fitting or found[-1:]


def _choose_weights(choices: Choices, data: DataFacts, measured: Measured) -> None:
    """Choose weights to begin with, the normalisation that they expect, and the learning rate."""
    backbone = choices.backbone
    usable = backbone.name in measured.weights and not data.deep
    choices.pretrained = backbone.weights if usable else None
    if choices.pretrained:
        choices.rate = 0.01
        choices.reasons["normalisation"] = "what the published weights were trained with"
        choices.reasons["weights"] = "published weights learn faster than random ones"
        choices.reasons["rate"] = "the published rate, for weights that are trained already"
        return
    choices.mean, choices.std = data.mean, data.std
    deep = f", levels up to {data.most} of 16 bits" if data.deep else ""
    choices.reasons["normalisation"] = f"measured over {data.num_train} training images{deep}"
    if backbone.weights is None:
        why = "there are no published weights for so few channels"
    elif data.deep:
        why = "published weights expect 8-bit colours"
    else:
        why = measured.why_not or "published weights cannot be read"
    choices.reasons["weights"] = why
    choices.rate = 0.05
    choices.reasons["rate"] = "random weights take larger steps than trained ones"


def _choose_loss(choices: Choices, data: DataFacts, classes: Sequence[str]) -> None:
    there = [(share, i) for i, share in enumerate(data.shares) if share > 0]
    share, place = min(there)
    told = f"{classes[place]!r} has {100 * share:.2f} % of the labelled pixels"
    if len(there) == 2:
        choices.loss = "ce+dice" if share < SMALL else "ce"
    else:
        choices.loss = "ce+dice" if share < RARE else "ce"
        choices.rare = tuple(i for s, i in sorted(there, key=lambda x: x[1]) if s < RARE)
    if choices.loss == "ce":
        choices.reasons["loss"] = f"no class is rare: {told}"
    else:
        choices.reasons["loss"] = f"{told}; Dice counts a class by its overlap, whatever its size"
    if choices.rare:
        rare = ", ".join(classes[i] for i in choices.rare[:4])
        more = f" and {len(choices.rare) - 4} more" if len(choices.rare) > 4 else ""
        choices.reasons["rare"] = f"half of the crops hold one of {rare}{more}: below {RARE:.0%}"
