"""Norms and ReLUs that the backward pass computes again: same bits, less memory, nothing left."""

import gc

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from nlseg.models.norm_recompute import instead_of
from nlseg.models.resnet import ResNetV1c
from tests.cases import each_case

PLUGIN = {"cfg": {"type": "ContextBlock", "ratio": 0.25}, "position": "after_conv2"}

TWO_STAGES = {"num_stages": 2, "out_indices": (1,), "strides": (1, 2), "dilations": (1, 1)}
ONE_STAGE = {"num_stages": 1, "out_indices": (0,), "strides": (1,), "dilations": (1,)}


def make_net(recompute, *, depth=50, **settings):
    torch.manual_seed(0)
    net = ResNetV1c(
        depth,
        recompute_norms=recompute,
        zero_init_residual=False,
        **{"base_channels": 8, "stem_channels": 8, **TWO_STAGES, **settings},
    )
    return net.train()


def outcome(net, dtype=None):
    """Return result, gradients and running statistics of one step."""
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        out = net(x)[0]
    out.float().square().sum().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    return [out.detach(), *grads, *net.buffers()]


@each_case(
    "settings",
    [{}, {"depth": 18}, {"norm_eval": True}, {"frozen_stages": 1}, {"plugins": [PLUGIN]}],
)
def test_every_bit_is_the_same(settings):
    lean, plain = (outcome(make_net(recompute, **settings)) for recompute in (True, False))
    assert len(lean) > 20
    for one, other in zip(lean, plain, strict=True):
        assert torch.equal(one, other)


def test_every_bit_is_the_same_under_autocast():
    lean, plain = (outcome(make_net(recompute), torch.bfloat16) for recompute in (True, False))
    for one, other in zip(lean, plain, strict=True):
        assert torch.equal(one, other)


def kept_bytes(net):
    """Count the bytes that autograd keeps, the parameters aside."""
    own = {t.data_ptr() for t in (*net.parameters(), *net.buffers())}
    kept = {}

    def pack(tensor):
        tensor = tensor.detach()  # a result that holds its graph would never be freed
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(torch.rand(2, 3, 32, 48))
    del out
    return sum(tensor.nbytes for tensor in kept.values())


def test_one_tensor_fewer_is_kept_for_each_inner_norm():
    net = make_net(True, **ONE_STAGE)
    inner = 2 * 8 * 8 * 12 * 4  # two images, 8 channels, a quarter of 32x48, float32
    lean = kept_bytes(net)
    for block in net.layer1:
        block.recompute_norms = False
    assert kept_bytes(net) - lean == 3 * 2 * inner


def make_pair():
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)


def through(conv, norm, after, x):
    y = conv(x)
    z = norm(y)
    with instead_of(z, y, norm):
        return after(z.relu_())


def test_backward_twice_through_one_graph():
    parts = make_pair()
    out = through(*parts, torch.rand(1, 4, 6, 6)).square().sum()
    weight = parts[2].weight
    first = torch.autograd.grad(out, weight, retain_graph=True)[0]
    second = torch.autograd.grad(out, weight)[0]
    assert torch.equal(first, second)
    assert first.abs().sum() > 0


def test_nothing_outlives_the_graph():
    parts = make_pair()
    gc.collect()
    gc.disable()
    try:
        out = through(*parts, torch.rand(1, 4, 6, 6))
        out.sum().backward()
        del out
        assert not [o for o in gc.get_objects() if type(o).__name__ == "_Again"]
    finally:
        gc.enable()


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.SyncBatchNorm(4).eval()], ids=str)
def test_other_norms_keep_their_result(norm):
    conv, _, after = make_pair()
    y = conv(torch.rand(1, 4, 6, 6))
    z = norm(y)
    with instead_of(z, y, norm):
        out = after(z.relu_())
    assert out.grad_fn._saved_input is not None
    assert torch.equal(out.grad_fn._saved_input, z)
