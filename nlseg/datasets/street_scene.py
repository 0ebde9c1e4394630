"""Draw one street scene: image and label map, with shapes that carry the meaning."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from nlseg.datasets.canvas import Canvas, Points
from nlseg.structures import IGNORE_INDEX

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)

# BGR; each is used by several classes
_GREYS = ((90, 90, 90), (120, 118, 116), (150, 150, 152), (70, 72, 76))
_PAINTS = (
    (60, 60, 170), (150, 90, 50), (60, 130, 90), (200, 200, 205), (50, 140, 190), (110, 60, 110),
    *_GREYS,
)  # fmt: skip
_GREENS = ((50, 110, 60), (60, 130, 90), (60, 100, 110))


def _ground(canvas: Canvas, horizon: float) -> tuple[float, float]:
    """Paint sky, terrain, sidewalks and road; return the vanishing point's x and the slope."""
    rng, height, width = canvas.rng, canvas.height, canvas.width
    sky = canvas.pick(((220, 190, 150), (205, 205, 205), (150, 150, 152), (200, 160, 110)))
    canvas.paint(np.ones_like(canvas.label, bool), SKY, sky, 8 * canvas.clouds - canvas.ys / 8)
    below = canvas.ys >= horizon
    terrain = canvas.stripes(height / 22, False, 7) + 9 * canvas.grain
    canvas.paint(below, TERRAIN, canvas.pick(_GREENS), terrain)
    middle = width * rng.uniform(0.35, 0.65)
    half = width * rng.uniform(0.28, 0.42)
    walk = half + width * rng.uniform(0.12, 0.25)
    for reach, label in ((walk, SIDEWALK), (half, ROAD)):
        points = [(middle, horizon), (middle + reach, height), (middle - reach, height)]
        shade = canvas.grid(height / 16, 16) if label == SIDEWALK else 3 * canvas.grain
        canvas.paint(canvas.polygon(points), label, canvas.pick(_GREYS), shade)
    for start in np.linspace(0.15, 0.9, 4):
        top = horizon + start * (height - horizon)
        half_mark = half * start * 0.02 + 0.5
        mark = canvas.box(middle - half_mark, top, middle + half_mark, top + height * 0.05 * start)
        canvas.paint(mark, ROAD, (225, 225, 225))
    return middle, half / (height - horizon)


def _row_of_houses(canvas: Canvas, horizon: float, middle: float) -> None:
    rng, height, width = canvas.rng, canvas.height, canvas.width
    for side in (-1, 1):
        x = middle + side * width * rng.uniform(0.05, 0.12)
        while 0 < x < width:
            reach = width * rng.uniform(0.1, 0.25)
            far = x + side * reach
            tall = height * rng.uniform(0.18, 0.45)
            base = horizon + abs((x + far) / 2 - middle) / width * height * 0.12
            if rng.random_sample() < 0.8:
                shade = canvas.grid(height / rng.uniform(9, 14), 26)
                mask = canvas.box(min(x, far), horizon - tall, max(x, far), base)
                canvas.paint(mask, BUILDING, canvas.pick(_PAINTS), shade)
            x = far + side * width * rng.uniform(0, 0.08)
    for label in (WALL, FENCE):
        if rng.random_sample() < 0.75:
            left = rng.uniform(0, width * 0.75)
            low = horizon + height * rng.uniform(0.03, 0.1)
            right = left + width * rng.uniform(0.2, 0.45)
            mask = canvas.box(left, low - height * 0.13, right, low)
            wall = label == WALL
            shade = canvas.stripes(height / 26 if wall else height / 20, not wall, 22)
            canvas.paint(mask, label, canvas.pick(_PAINTS), shade)


def _tree(canvas: Canvas, x: float, base: float, size: float) -> None:
    rng = canvas.rng
    trunk = canvas.box(x - size * 0.04, base - size * 0.6, x + size * 0.04, base)
    canvas.paint(trunk, VEGETATION, (45, 60, 80))
    colour = canvas.pick(_GREENS)
    for _ in range(6):
        crown = canvas.ellipse(
            x + size * rng.uniform(-0.25, 0.25),
            base - size * rng.uniform(0.55, 0.95),
            size * rng.uniform(0.15, 0.28),
            size * rng.uniform(0.12, 0.25),
        )
        canvas.paint(crown, VEGETATION, colour, 26 * canvas.clouds + 14 * canvas.grain)


def _post(canvas: Canvas, x: float, base: float, size: float) -> None:
    rng = canvas.rng
    half = max(size * 0.035, 0.8)
    canvas.paint(canvas.box(x - half, base - size, x + half, base), POLE, canvas.pick(_GREYS))
    if rng.random_sample() < 0.5:
        head = canvas.box(x - size * 0.09, base - size * 1.1, x + size * 0.09, base - size * 0.7)
        canvas.paint(head, LIGHT, (40, 40, 42))
        for place, lamp in ((1.02, (60, 60, 220)), (0.9, (60, 190, 220)), (0.78, (90, 200, 90))):
            spot = canvas.ellipse(x, base - size * place, size * 0.055, size * 0.055)
            canvas.paint(spot, LIGHT, lamp)
    else:
        radius = size * 0.15
        disc = canvas.ellipse(x, base - size, radius, radius)
        canvas.paint(disc, SIGN, canvas.pick(_PAINTS))
        canvas.paint(canvas.ellipse(x, base - size, radius * 0.5, radius * 0.5), SIGN, (235,) * 3)


def _figure(canvas: Canvas, x: float, base: float, size: float, label: int) -> None:
    """Draw a standing person, or the upper part of one who rides."""
    legs = 0.45 if label == PERSON else 0.1
    coat, skin = canvas.pick(_PAINTS), (130, 160, 200)
    body = canvas.ellipse(x, base - size * 0.6, size * 0.15, size * 0.27)
    canvas.paint(body, label, coat, 6 * canvas.grain)
    for side in (-1, 1):
        near, far = x + side * size * 0.02, x + side * size * 0.12
        box = canvas.box(min(near, far), base - size * 0.45, max(near, far), base - size * 0.45
                         + size * legs)  # fmt: skip
        canvas.paint(box, label, coat * 0.6)
    canvas.paint(canvas.ellipse(x, base - size * 0.92, size * 0.09, size * 0.1), label, skin)


def _cycle(canvas: Canvas, x: float, base: float, size: float, label: int) -> None:
    """Draw a bicycle, thin rings and a frame, or a motorcycle, solid wheels and a tank."""
    radius = size * (0.24 if label == BICYCLE else 0.2)
    colour = canvas.pick(_PAINTS)
    for side in (-1, 1):
        centre = x + side * size * 0.36
        wheel = canvas.ellipse(centre, base - radius, radius, radius)
        canvas.paint(wheel, label, (35, 35, 38))
        if label == BICYCLE:
            inner = canvas.ellipse(centre, base - radius, radius * 0.65, radius * 0.65)
            canvas.paint(inner, label, (150, 150, 150))
    thick = 0.06 if label == BICYCLE else 0.2
    tank = canvas.box(x - size * 0.36, base - size * (0.33 + thick), x + size * 0.36,
                      base - size * 0.33 + size * thick * 0.5)  # fmt: skip
    canvas.paint(tank, label, colour)
    if canvas.rng.random_sample() < 0.7:
        _figure(canvas, x, base - size * 0.2, size * 0.95, RIDER)


def _vehicle(canvas: Canvas, x: float, base: float, size: float, label: int) -> None:
    """Draw a car, truck, bus or train of height ``size`` standing at (x, base)."""
    length = {CAR: 2.1, TRUCK: 2.2, BUS: 2.6, TRAIN: 4.5}[label] * size
    left, right = x - length / 2, x + length / 2
    colour, glass = canvas.pick(_PAINTS), (95, 85, 75)
    top, floor = base - size, base - size * 0.12
    if label == CAR:
        cabin: Points = [(left + length * 0.2, base - size * 0.5), (left + length * 0.32, top)]
        cabin += [(right - length * 0.28, top), (right - length * 0.12, base - size * 0.5)]
        canvas.paint(canvas.polygon(cabin), CAR, glass)
        canvas.paint(canvas.box(left, base - size * 0.55, right, floor), CAR, colour)
    elif label == TRUCK:
        canvas.paint(canvas.box(left, top, right - length * 0.27, floor), TRUCK, colour)
        cab = canvas.box(right - length * 0.24, base - size * 0.75, right, floor)
        canvas.paint(cab, TRUCK, canvas.pick(_PAINTS))
        pane = canvas.box(right - length * 0.15, base - size * 0.7, right, base - size * 0.45)
        canvas.paint(pane, TRUCK, glass)
    else:
        canvas.paint(canvas.box(left, top, right, floor), label, colour)
        band = canvas.box(left, base - size * 0.85, right, base - size * 0.5)
        period = size * (0.45 if label == BUS else 0.22)
        canvas.paint(band & ((canvas.xs - left) % period < period * 0.75), label, glass)
        if label == TRAIN:
            canvas.paint(canvas.box(left, base - size * 0.35, right, base - size * 0.25), TRAIN,
                         (225, 225, 225))  # fmt: skip
    for place in (0.2, 0.8) if label != TRAIN else ():
        wheel = canvas.ellipse(left + place * length, base - size * 0.12, size * 0.14, size * 0.14)
        canvas.paint(wheel, label, (30, 30, 32))


# class: height as a share of the depth, chance, how to draw it
_TRAFFIC: dict[int, tuple[float, float, Callable[..., None]]] = {
    PERSON: (0.75, 0.22, _figure),
    CAR: (0.45, 0.24, _vehicle),
    TRUCK: (0.65, 0.1, _vehicle),
    BUS: (0.65, 0.1, _vehicle),
    TRAIN: (0.6, 0.06, _vehicle),
    MOTORCYCLE: (0.65, 0.14, _cycle),
    BICYCLE: (0.65, 0.14, _cycle),
}


def _things(canvas: Canvas, horizon: float, middle: float, slope: float) -> None:
    """Draw traffic and furniture from far to near; size grows towards the bottom."""
    rng, height = canvas.rng, canvas.height
    depths = np.sort(rng.uniform(0.18, 0.85, rng.randint(7, 12)))
    for depth in depths:
        base = horizon + depth * (height - horizon)
        reach = slope * (base - horizon)
        scale = (base - horizon) * rng.uniform(0.85, 1.25)
        if rng.random_sample() < 0.35:
            side = -1 if rng.random_sample() < 0.5 else 1
            x = middle + side * reach * rng.uniform(1.1, 1.9)
            draw = (_tree, _post, _post)[rng.randint(3)]
            draw(canvas, x, base, max(scale * 1.3, height * 0.22))
            continue
        label = int(rng.choice(list(_TRAFFIC), p=[chance for _, chance, _ in _TRAFFIC.values()]))
        size, _, thing = _TRAFFIC[label]
        spread = 1.5 if label in (PERSON, BICYCLE) else 0.8
        x = middle + reach * rng.uniform(-spread, spread)
        thing(canvas, x, base, max(scale * size, height * 0.09), label)


def draw_scene(
    rng: RandomState, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene.

    Args:
        rng: Where all random draws come from.
        height: Height in px, at least 32.
        width: Width in px, at least 32.

    Returns:
        Image (H, W, 3) in BGR and its train ids (H, W), 255 on the bonnet of the camera's car.
    """
    canvas = Canvas(rng, height, width)
    horizon = height * rng.uniform(0.32, 0.5)
    middle, slope = _ground(canvas, horizon)
    _row_of_houses(canvas, horizon, middle)
    _things(canvas, horizon, middle, slope)
    bonnet = canvas.ellipse(width / 2, height * 1.05, width * 0.4, height * 0.12)
    canvas.paint(bonnet, IGNORE_INDEX, canvas.pick(_PAINTS))
    return _light(canvas), canvas.label


def _light(canvas: Canvas) -> NDArray[np.uint8]:
    """Give the picture the light of an hour, a side that is darker, and a camera's noise."""
    rng = canvas.rng
    cast = rng.uniform(0.65, 1.15) * rng.uniform(0.93, 1.07, 3)
    side = 1 + rng.uniform(-0.2, 0.2) * (canvas.xs / canvas.width - 0.5)
    noise = rng.standard_normal(canvas.image.shape) * rng.uniform(2, 6)
    lit = cv2.GaussianBlur(canvas.image, (0, 0), 0.6) * cast * side[..., None] + noise
    levels: NDArray[np.uint8] = np.clip(np.round(lit), 0, 255).astype(np.uint8)
    return levels
