"""Which attention kernel PyTorch's own choice takes for each mode, type and card."""

import itertools

import pytest
import torch
from torch import nn

from nlseg.ops.attention import softmax_attention
from nlseg.ops.non_local import NonLocal2d
from tests.emulated_gpu.card import CAPABILITY, Launches, fake_card

HALF = (torch.float16, torch.bfloat16)
FLASH, EFFICIENT, CUDNN, TILES = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "tiled_attention",
)


def kernels(block: nn.Module, dtype: torch.dtype, channels: int, train: bool) -> list[str]:
    """Return the operators of attention that a forward pass takes, of any kind."""
    x = torch.empty(2, channels, 64, 128, requires_grad=train)
    half = dtype in HALF
    autocast = torch.autocast("cuda", dtype if half else torch.float16, enabled=half)
    with Launches() as seen, torch.set_grad_enabled(train), autocast:
        block(x)
    return [name for name in seen.operators if "attention" in name or name == "_softmax"]


def expected(mode: str, dtype: torch.dtype, train: bool) -> set[str]:
    """Return the kernels that may be taken: flash and cuDNN's need Ampere and 256 channels."""
    if dtype == torch.bfloat16 and CAPABILITY < (8, 0):
        return {TILES}
    narrow = mode == "embedded_gaussian"
    if dtype == torch.float32 or CAPABILITY < (8, 0) or not narrow:
        return {EFFICIENT}
    if CAPABILITY[0] == 9 and train:
        return {CUDNN, FLASH}
    if CAPABILITY in ((8, 6), (8, 9)) and train:
        return {FLASH, EFFICIENT}  # before 2.5, flash has no gradient of 256 channels there
    return {FLASH}


@pytest.mark.parametrize("mode", ["embedded_gaussian", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_the_kernel_is_never_the_one_that_holds_all_pairs(mode, dtype, train):
    with fake_card():
        found = kernels(NonLocal2d(512, mode=mode), dtype, 512, train)
    assert len(found) == 1
    assert set(found) <= expected(mode, dtype, train)


@pytest.mark.parametrize(("channels", "reduction"), [*itertools.product([24, 250, 640], [1, 2])])
def test_every_width_has_a_fused_kernel(channels, reduction):
    with fake_card():
        block = NonLocal2d(channels, reduction=reduction)
        for dtype, train in itertools.product((torch.float32, torch.float16), (True, False)):
            (found,) = kernels(block, dtype, channels, train)
            assert found in (FLASH, EFFICIENT, CUDNN)


@pytest.mark.parametrize(("enabled", "wanted"), [(True, False), (False, True)])
def test_cudnn_is_for_gradients_alone(enabled, wanted):
    with fake_card():
        x = torch.empty(1, 8192, 256, dtype=torch.float16, requires_grad=wanted)
        with Launches() as seen, torch.set_grad_enabled(enabled):
            softmax_attention(x, x, x, 1.0)
    assert CUDNN not in seen.operators
    assert FLASH in seen.operators or EFFICIENT in seen.operators


def test_the_determinism_mode_takes_tiles():
    torch.use_deterministic_algorithms(True)
    try:
        with fake_card():
            found = kernels(NonLocal2d(64), torch.float32, 64, train=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == [TILES]


def test_heads_are_copied_only_where_they_must():
    copies = ("clone", "_to_copy", "constant_pad_nd", "copy_", "contiguous")
    with fake_card():
        block = NonLocal2d(512)
        x = torch.empty(2, 512, 64, 128).to(memory_format=torch.channels_last)
        with Launches() as seen, torch.no_grad():
            block(x)
    assert {name: n for name, n in seen.operators.items() if name in copies} == {}
