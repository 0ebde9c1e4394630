from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters

from nlseg.ops.pooling import AvgPool2d, MaxPool2d, compile_once
from tests.cases import each_case

SHORTCUT = {"ceil_mode": True, "count_include_pad": False}


@each_case(
    "kind, window, options",
    [
        (nn.MaxPool2d, (3, 2, 1), {}),
        (nn.MaxPool2d, (2, 2, 0), {}),
        (nn.MaxPool2d, (5, 3, 2), {"ceil_mode": True}),
        (nn.MaxPool2d, ((3, 5), (2, 1), (0, 2)), {}),
        (nn.AvgPool2d, (2, 2), SHORTCUT),  # of ResNetV1d, and of timm
        (nn.AvgPool2d, (4, (3, 2)), {"ceil_mode": True}),
        (nn.AvgPool2d, (4, 2, 1), {}),
    ],
)
def test_one_graph_for_evaluation_pools_as_pytorch_does(
    kind: Any, window: tuple[Any, ...], options: dict[str, bool]
) -> None:
    torch._dynamo.reset()
    counters.clear()
    plain = kind(*window, **options)
    pool = kind(*window, **options).eval()
    compile_once(pool)
    assert type(pool) is {nn.MaxPool2d: MaxPool2d, nn.AvgPool2d: AvgPool2d}[kind]
    compiled = torch.compile(pool, fullgraph=True, backend="eager")
    for size in ((64, 65), (67, 66), (64, 64), (69, 71), (9, 11), (8, 10), (10, 7)):
        x = torch.randn(2, 3, *size)
        x[0, 0, :4], x[1, 1, 5, 5] = float("-inf"), float("nan")
        torch._dynamo.maybe_mark_dynamic(x, [2, 3])
        with torch.no_grad():
            want, found = plain(x), compiled(x)
        exact = kind is nn.MaxPool2d or options == SHORTCUT
        rtol = 0 if exact else 1e-6
        torch.testing.assert_close(found, want, rtol=rtol, atol=rtol, equal_nan=True)
        assert torch.equal(pool(x).nan_to_num(7), want.nan_to_num(7))
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_only_plain_pooling_is_taken_over() -> None:
    class Own(nn.MaxPool2d):
        pass

    taken = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1, dilation=(1, 1)), nn.AvgPool2d(2)]
    left = [
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(3, 3, 1, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        Own(2),
    ]
    kinds = [type(layer) for layer in left]
    compile_once(nn.Sequential(*taken, nn.Sequential(*left)))
    assert [type(layer) for layer in taken] == [MaxPool2d, MaxPool2d, AvgPool2d]
    assert [type(layer) for layer in left] == kinds
