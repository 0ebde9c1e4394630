"""The attention row of one position equals that row of the map of all of them."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nlseg.commands.main import main
from nlseg.ops.global_context import ContextBlock
from nlseg.ops.non_local import MODES, NonLocal2d
from nlseg.predict.attention import Looked, attention_row, global_weights
from nlseg.visualization.painter import Painter
from tests.cases import each_case
from tests.predict.test_predict import NAME, picture, weights

__all__ = ["weights"]


@each_case("mode", MODES)
@each_case("sub_sample", [False, True])
def test_row_is_that_of_the_plain_map(mode: str, sub_sample: bool) -> None:
    torch.manual_seed(0)
    block = NonLocal2d(8, mode=mode, sub_sample=sub_sample, std=0.5)
    x = torch.randn(1, 8, 6, 4)
    rows = []

    def keep(self: NonLocal2d, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        rows.append(NonLocal2d.weigh(self, query, key))
        return rows[-1]

    block.weigh = keep.__get__(block)
    block.attend_plainly(*block.embed(x))
    (whole,) = rows
    for position in (0, 7, 23):
        assert torch.allclose(attention_row(block, x, position), whole[0, position], atol=1e-6)


@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_global_map_pools_to_the_context(pooling: str) -> None:
    torch.manual_seed(0)
    block = ContextBlock(8, 0.5, pooling)
    x = torch.randn(1, 8, 5, 7)
    pooled = (x.flatten(2) * global_weights(block, x)).sum(2)
    assert torch.allclose(pooled, block.spatial_pool(x).flatten(1), atol=1e-6)


def looked_at(label: np.ndarray) -> Looked:
    block = NonLocal2d(4)
    return Looked(np.zeros((*label.shape, 3), np.uint8), label, block, torch.zeros(1, 4, 2, 4))


@each_case("place", [(0, 0), (3, 34), (11, 6), (4, 7), (7, 27), (11, 34), (8, 20)])
def test_clicked_place_asks_for_the_position_that_covers_it(place: tuple[int, int]) -> None:
    """Cells of 4 x 7 px: the weights are a softmax over the products with that cell's query."""
    torch.manual_seed(1)
    block = NonLocal2d(6, reduction=1, std=0.7)
    features = torch.randn(1, 6, 3, 5)
    label = np.zeros((12, 35), np.uint8)
    looked = Looked(np.zeros((12, 35, 3), np.uint8), label, block, features)
    query = block.theta(features)[0, :, place[0] // 4, place[1] // 7].tolist()
    keys = block.phi(features)[0].tolist()
    products = [
        [sum(q * keys[c][i][j] for c, q in enumerate(query)) / math.sqrt(6) for j in range(5)]
        for i in range(3)
    ]
    total = sum(math.exp(product) for row in products for product in row)
    expected = [[math.exp(product) / total for product in row] for row in products]
    np.testing.assert_allclose(looked.weights(place), expected, rtol=1e-4)


def test_weights_of_a_sub_sampled_block_have_half_the_sides() -> None:
    torch.manual_seed(1)
    block = NonLocal2d(6, sub_sample=True, std=0.7)
    image = np.zeros((12, 20, 3), np.uint8)
    looked = Looked(image, image[..., 0], block, torch.randn(1, 6, 6, 10))
    assert looked.weights((11, 19)).shape == (3, 5)


def test_heat_is_blended_by_its_formula_and_the_ring_stands_at_the_place() -> None:
    rng = np.random.RandomState(0)
    image = rng.randint(0, 255, (60, 90, 3)).astype(np.uint8)
    looked = Looked(image, np.zeros((60, 90), np.uint8), NonLocal2d(4), torch.zeros(1, 4, 2, 4))
    weights = -rng.rand(60, 90).astype(np.float32)  # their size counts, not their sign
    drawn = looked.draw(weights, None)
    low, high = np.abs(weights).min(), np.abs(weights).max()
    shades = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO).reshape(
        256, 3
    )[:, ::-1]
    for row, column in ((0, 0), (59, 89), (10, 70), (44, 3)):
        heat = (abs(float(weights[row, column])) - low) / (high - low)
        red, green, blue = map(float, image[row, column])
        grey = round(0.299 * red + 0.587 * green + 0.114 * blue)
        alpha = 0.25 + 0.6 * heat
        expected = grey * (1 - alpha) + shades[int(heat * 255)].astype(float) * alpha
        np.testing.assert_allclose(drawn[row, column], expected, atol=1.01)
    ring = looked.draw(weights, (20, 60)).astype(int) - drawn
    rows, columns = np.nonzero(ring.any(2))
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (40, 120)
    assert not ring[20, 60].any()  # the point itself stays visible


def test_regions_by_hand() -> None:
    label = np.zeros((20, 40), np.uint8)
    label[:, 20:30] = 1
    heavy = np.array([[0.1, 0.0, 0.5, 0.1], [0.0, 0.0, 0.2, 0.1]], np.float32)
    regions = looked_at(label).regions(heavy, Painter(["road", "car"]))
    assert [(r.label, round(r.weight, 3), r.share) for r in regions] == [
        ("car", 0.7, 0.25), ("road", 0.2, 0.25), ("road", 0.1, 0.5),
    ]  # fmt: skip
    assert regions[0].centre == (10, 25)


def test_hottest_pixel_is_where_the_weight_is() -> None:
    looked = looked_at(np.zeros((20, 40), np.uint8))
    heat = np.zeros((2, 4), np.float32)
    heat[1, 3] = 1
    drawn = looked.draw(heat, None).astype(int).sum(2)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert row >= 14
    assert column >= 34
    assert looked.contrast(heat) == "weights from 0.00 to 8.00 times their mean"


def test_command_writes_the_picture_and_names_regions(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    command = ["attend", NAME, str(weights), str(tmp_path / "a.png")]
    assert main([*command, "--at", "10,20", "--out", str(tmp_path / "x/heat.png")]) == 0
    said = capsys.readouterr().out
    assert "from row 10, column 20" in said
    assert "weight in %" in said
    assert cv2.imread(str(tmp_path / "x/heat.png")).shape == (64, 304, 3)
    for point, message in (("1", "give row and column"), ("64,0", "outside the image of 64 x 96")):
        with pytest.raises(SystemExit, match="2"):
            main([*command, "--at", point])
        assert message in capsys.readouterr().err
