"""Which kernel attention reaches on CUDA, that it is right, and what memory it takes."""

import pytest
import torch

from nlseg.ops.attention import fused_kernel_takes, softmax_attention
from nlseg.ops.non_local import MODES, NonLocal2d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCE = {torch.float32: 2e-3, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # float32: TF32 rate


def draw(length, channels, dtype, value_channels=256):
    torch.manual_seed(0)
    shapes = (1, length, channels), (1, length, channels), (1, length, value_channels)
    return [torch.randn(s, device="cuda").to(dtype).requires_grad_() for s in shapes]


def kernels_of(function):
    """Return the names of all operators that run inside ``function``."""
    with torch.profiler.profile() as profiler:
        function()
    return {event.name for event in profiler.events()}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [250, 256, 512])
def test_a_fused_kernel_takes_every_width(channels, dtype):
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no bfloat16 on this device")
    inputs = draw(256, channels, dtype)
    assert fused_kernel_takes(dtype, inputs[0].device)
    names = kernels_of(lambda: softmax_attention(*inputs, channels**-0.5).sum().backward())
    assert "nlseg::tiled_attention" not in names
    assert "aten::_scaled_dot_product_attention_math" not in names
    assert any(name.startswith("aten::_scaled_dot_product_") for name in names)


def test_tiles_take_what_no_fused_kernel_takes():
    inputs = draw(64, 32, torch.float64, 16)
    context = softmax_attention(*inputs, 0.2)
    expected = (inputs[0] @ inputs[1].mT * 0.2).softmax(2) @ inputs[2]
    torch.testing.assert_close(context, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [250, 256, 512])
def test_values_and_gradients_are_the_plain_formula(channels, dtype):
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no bfloat16 on this device")
    inputs = draw(300, channels, dtype)
    context = softmax_attention(*inputs, channels**-0.5)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    true = (exact[0] @ exact[1].mT * channels**-0.5).softmax(2) @ exact[2]
    grads = torch.autograd.grad(context.sum(), inputs)
    true_grads = torch.autograd.grad(true.sum(), exact)
    for ours, other in zip([context, *grads], [true, *true_grads], strict=True):
        largest = max(other.abs().max().item(), 1.0)
        assert (ours.double() - other).abs().max() <= TOLERANCE[dtype] * largest


@pytest.mark.parametrize("mode", MODES)
def test_training_memory_is_linear_in_the_positions(mode):
    block = NonLocal2d(512, mode=mode, zeros_init=False).cuda()
    peaks = {}
    for height in (64, 128):
        x = torch.randn(1, 512, height, 128, device="cuda", requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", dtype=torch.float16):
            block(x).sum().backward()
        peaks[height] = torch.cuda.max_memory_allocated() - before
    assert peaks[128] <= 2.2 * peaks[64]
    assert peaks[128] < 16384**2 * 2, "not one half-precision map of 16384 x 16384"


def test_compiles_without_a_graph_break():
    block = NonLocal2d(64, zeros_init=False).cuda()
    x = torch.randn(1, 64, 12, 20, device="cuda")
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x), rtol=1e-3, atol=1e-3)
