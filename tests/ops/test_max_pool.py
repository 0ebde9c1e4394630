import pytest
import torch
from torch import nn

from nlseg.ops.max_pool import MaxPool2d


@pytest.mark.parametrize("window", [(3, 2, 1), (2, 2, 0), (5, 3, 2)])
def test_a_graph_for_evaluation_pools_as_pytorch_does(window: tuple[int, int, int]) -> None:
    torch._dynamo.reset()
    pool = MaxPool2d(*window).eval()
    compiled = torch.compile(pool, fullgraph=True, backend="eager")
    for size in ((64, 65), (67, 66), (9, 11), (8, 10)):
        x = torch.randn(2, 3, *size)
        x[0, 0, :4], x[1, 1, 5, 5] = float("-inf"), float("nan")
        want = nn.MaxPool2d(*window)(x)
        assert torch.equal(compiled(x).nan_to_num(7), want.nan_to_num(7))
        assert torch.equal(pool(x).nan_to_num(7), want.nan_to_num(7))
    torch._dynamo.reset()
