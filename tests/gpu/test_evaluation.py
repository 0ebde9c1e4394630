"""Counting, label maps and recomputed norms on a GPU: the same as on a CPU."""

import numpy as np
import pytest
import torch

from nlseg.models.resnet import ResNetV1c
from nlseg.ops.confusion import count_pairs
from nlseg.ops.logit_rows import Held, Resized, label_map, whole_map

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("num_classes", [19, 150])
def test_cuda_counts_the_same_without_waiting(num_classes):
    rng = np.random.RandomState(0)
    pred, label = torch.from_numpy(rng.randint(-1, 256, (2, 300, 400)))
    expected = count_pairs(pred, label, num_classes)
    pred, label = pred.cuda(), label.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        counts = count_pairs(pred, label, num_classes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(counts.cpu(), expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_label_maps_are_those_of_the_cpu(align_corners):
    logits = torch.randn(19, 32, 64)
    sources = [
        Resized(Held(x), (256, 512), align_corners=align_corners) for x in (logits, logits.cuda())
    ]
    torch.testing.assert_close(*(whole_map(s).cpu() for s in sources), rtol=1e-5, atol=1e-5)
    labels = [label_map(source).cpu() for source in sources]
    assert (labels[0] != labels[1]).float().mean() < 1e-4


def test_recomputed_norms_give_the_same_gradients():
    dims = {"num_stages": 1, "out_indices": (0,), "strides": (1,), "dilations": (1,)}
    x = torch.randn(2, 3, 64, 64, device="cuda")
    gradients = []
    for recompute in (True, False):
        torch.manual_seed(0)
        net = (
            ResNetV1c(50, recompute_norms=recompute, zero_init_residual=False, **dims)
            .cuda()
            .train()
        )
        net(x)[0].square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
