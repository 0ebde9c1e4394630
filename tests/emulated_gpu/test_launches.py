"""The number of launches of a step and a prediction at full size does not creep up."""

import pytest

from tests.emulated_gpu.full_size import ROWS

pytestmark = pytest.mark.usefixtures("real_tensors")
BOUNDS = {
    "training step, 2 x 512x1024": 722,
    "training step, 16 x 512x1024, float16": 1639,
    "training step, 150 classes, 4 x 512x512": 832,
    "prediction, 1024x2048": 221,
    "prediction, 512x1024 of 1024x2048": 232,
    "sliding windows, 1024x2048 in 769x769": 1727,
    "12 views of 1024x2048": 2502,
    "prediction, 1024x2048, determinism mode": 1159,
    "step of the average of the weights": 3,
}
"""What was counted when somebody last made it fewer; see docs/performance.md."""


@pytest.mark.parametrize("name", ROWS)
def test_launches_do_not_grow_by_a_tenth(name: str) -> None:
    launches = ROWS[name]()
    assert launches.total <= 1.1 * BOUNDS[name], launches.operators.most_common(10)
