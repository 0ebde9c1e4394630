"""The loss on CUDA, by the form that the device takes, against float64 on the whole map."""

import pytest
import torch
import torch.nn.functional as F

from nlseg.ops.attention import AMPERE
from nlseg.ops.pixel_loss import TRITON_IS_NEW, fused_kernel_works, upsampled_cross_entropy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("classes", "small", "large"),
    [(19, (64, 128), (512, 1024)), (150, (64, 64), (512, 512)), (150, (97, 97), (769, 769)),
     (2, (1, 1), (33, 65)), (1, (8, 8), (64, 64))],
)  # fmt: skip
def test_the_loss_and_its_gradient_are_those_of_the_plain_formula(
    classes, small, large, align_corners, weighted
):
    generator = torch.Generator("cuda").manual_seed(0)
    drawn = {"device": "cuda", "generator": generator}
    logits = (3 * torch.randn(2, classes, *small, **drawn)).requires_grad_()
    label = torch.randint(classes, (2, *large), **drawn)
    label[torch.rand(2, *large, **drawn) < 0.2] = 255
    weight = torch.rand(2, *large, **drawn) if weighted else None
    wide = logits.detach().double().requires_grad_()
    full = F.interpolate(wide, large, mode="bilinear", align_corners=align_corners)
    each = F.cross_entropy(full, label, ignore_index=255, reduction="none")
    expected = (each if weight is None else each * weight).sum()
    (wide_grad,) = torch.autograd.grad(expected, wide)

    total, ours, correct = upsampled_cross_entropy(
        logits, label, weight=weight, align_corners=align_corners
    )
    (grad,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.double(), each, rtol=1e-4, atol=1e-5)
    assert (grad.double() - wide_grad).abs().max() <= 1e-5 * wide_grad.abs().max().clamp(min=1)
    assert abs(int(correct) - int((full.argmax(1) == label).sum())) <= 2  # ties of rounded logits


def test_from_ampere_on_triton_computes_the_loss():
    if not TRITON_IS_NEW or torch.cuda.get_device_capability()[0] < AMPERE:
        pytest.skip("the loss goes block by block here")
    assert fused_kernel_works(torch.device("cuda", 0))
