import torch
from torch import nn

from nlseg.ops.max_pool import MaxPool2d, compile_once
from tests.cases import each_case


@each_case("window", [(3, 2, 1), (2, 2, 0), (5, 3, 2), ((3, 5), (2, 1), (0, 2))])
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


def test_only_plain_pooling_is_taken_over() -> None:
    class Own(nn.MaxPool2d):
        pass

    taken = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1, dilation=(1, 1))]
    left = [
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d(2),
        Own(2),
    ]
    kinds = [type(layer) for layer in left]
    compile_once(nn.Sequential(*taken, nn.Sequential(*left)))
    assert all(type(layer) is MaxPool2d for layer in taken)
    assert [type(layer) for layer in left] == kinds
