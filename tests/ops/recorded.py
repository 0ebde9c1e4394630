"""The blocks recorded with mmcv: how a test runs one and compares it.

``tests/golden/blocks.pt`` holds, per case, the weights, every parameter's gradient, and output and
input gradient at every third channel, row and column. Inputs are drawn again from their seed.
"""

from functools import cache
from pathlib import Path

import torch
from torch import nn

GOLDEN = Path(__file__).parents[1] / "golden" / "blocks.pt"


@cache
def cases():
    return torch.load(GOLDEN, weights_only=True)


def names(prefix):
    return [name for name in cases() if name.startswith(prefix)]


def draw(case):
    """Draw input and output gradient as they were drawn for the record."""
    generator = torch.Generator().manual_seed(case["seed"])
    x = torch.randn(case["shape"], generator=generator) * case["input_scale"]
    assert torch.equal(x.flatten()[:4], case["x_head"]), "torch.randn draws other numbers now"
    return x.requires_grad_(), torch.randn(case["shape"], generator=generator)


def assert_as_recorded(block: nn.Module, case: dict) -> None:
    """Run the block on the recorded case and compare output, all gradients and buffers."""
    block.load_state_dict(case["state_dict"], strict=True)
    block.train(case["train"])
    x, grad_out = draw(case)
    y = block(x)
    y.backward(grad_out)
    assert_close(y[:, ::3, ::3, ::3], case["y"], case["tolerance"][0])
    assert_close(x.grad[:, ::3, ::3, ::3], case["dx"], case["tolerance"][1])
    largest = max(grad.abs().max().item() for grad in case["param_grads"].values())
    for name, parameter in block.named_parameters():
        # a bias in front of a softmax has gradient zero: what is recorded there is rounding alone
        assert_close(parameter.grad, case["param_grads"][name], 1e-6 * largest)
    for name, buffer in case["state_changed"].items():
        torch.testing.assert_close(block.state_dict()[name], buffer)


def assert_close(ours, recorded, own_error):
    """Allow 4 times the record's own distance from float64, or 2e-5 of its largest value."""
    tolerance = max(4 * own_error, 2e-5 * recorded.abs().max().item())
    torch.testing.assert_close(ours, recorded, rtol=0, atol=tolerance)
