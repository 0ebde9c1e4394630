"""Blocks as other code builds and reads them: mmsegmentation's arguments, names and overrides."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import NonLocal2d as PeerNonLocal2d
from torch import nn

from nlseg.errors import ConfigError
from nlseg.models import (
    BasePixelSampler,
    BasicBlock,
    Bottleneck,
    ContextBlock,
    FCNHead,
    NonLocal2d,
    ResLayer,
    ResNet,
    build_pixel_sampler,
)
from nlseg.registry import MODELS, TASK_UTILS
from tests.cases import each_case
from tests.models import recorded as rec

torch.set_num_threads(1)


def draw(module):
    """Give all parameters and statistics values that matter."""
    generator = torch.Generator().manual_seed(0)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return module.eval()


def conv_norm(x, conv, norm, **settings):
    x = F.conv2d(x, conv.weight, **settings)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def test_a_bottleneck_from_two_numbers_is_the_formula():
    block, x = draw(Bottleneck(64, 16)), torch.randn(2, 64, 6, 5)
    out = F.relu(conv_norm(x, block.conv1, block.norm1))
    out = F.relu(conv_norm(out, block.conv2, block.norm2, padding=1))
    want = F.relu(conv_norm(out, block.conv3, block.norm3) + x)
    rec.assert_close(block(x), want)
    assert block.norm3 is block.bn3
    assert (block.inplanes, block.planes, block.stride, block.dilation) == (64, 16, 1, 1)


def test_a_basic_block_takes_its_arguments_by_position():
    shortcut = nn.Conv2d(4, 8, 1, stride=2, bias=False)
    block, x = draw(BasicBlock(4, 8, 2, 3, shortcut)), torch.randn(1, 4, 8, 8)
    out = F.relu(conv_norm(x, block.conv1, block.norm1, stride=2, padding=3, dilation=3))
    want = F.relu(conv_norm(out, block.conv2, block.norm2, padding=1) + shortcut(x))
    rec.assert_close(block(x), want)


def test_a_block_with_its_own_init_cfg_fills_its_parameters():
    block = Bottleneck(8, 2, init_cfg={"type": "Constant", "val": 3.0, "layer": "Conv2d"})
    block.init_weights()
    assert block.conv2.weight.eq(3).all()
    with pytest.raises(ConfigError, match=r"Bottleneck\.dcn: deformable"):
        Bottleneck(8, 2, dcn={"type": "DCN"})


class Grouped(Bottleneck):
    """A block as ResNeXt has it: the second convolution is replaced."""

    def __init__(self, inplanes, planes, groups=1, **kwargs):
        super().__init__(inplanes, planes, **kwargs)
        self.conv2 = nn.Conv2d(planes, planes, 3, self.stride, 1, groups=groups, bias=False)


def test_a_layer_of_any_block_has_one_shortcut_and_its_dilations():
    layer = ResLayer(Grouped, 8, 4, 3, stride=2, avg_down=True, groups=2)
    assert [block.downsample is None for block in layer] == [False, True, True]
    assert isinstance(layer[0].downsample[0], nn.AvgPool2d)
    assert [block.conv2.groups for block in layer] == [2, 2, 2]
    assert layer(torch.randn(2, 8, 8, 8)).shape == (2, 16, 4, 4)
    layer = ResLayer(BasicBlock, 8, 8, 3, dilation=4, contract_dilation=True)
    assert [block.dilation for block in layer] == [2, 4, 4]
    layer = ResLayer(BasicBlock, 8, 8, 2, multi_grid=(3, 5))
    assert [block.dilation for block in layer] == [3, 5]


class ResNeXt(ResNet):
    arch_settings = {50: (Grouped, (1, 1, 1, 1))}  # noqa: RUF012 - as users write it

    def make_res_layer(self, **kwargs):
        return ResLayer(groups=2, **kwargs)

    def _make_stem_layer(self, in_channels, stem_channels):
        super()._make_stem_layer(in_channels, stem_channels)
        self.maxpool = nn.Identity()


def test_a_backbone_may_have_its_own_blocks_layers_and_stem():
    net = ResNeXt(50, base_channels=4, stem_channels=4, recompute_norms=False)
    assert [len(getattr(net, name)) for name in net.stages] == [1] * 4
    assert all(m.conv2.groups == 2 for m in net.modules() if isinstance(m, Grouped))
    assert not any(m.recompute_norms for m in net.modules() if isinstance(m, Grouped))
    assert net(torch.zeros(1, 3, 32, 32))[0].shape == (1, 16, 16, 16)


def test_plugins_start_as_they_say_after_the_weights_are_filled():
    plugin = {"cfg": {"type": "NonLocal2d", "norm_cfg": {"type": "BN"}}, "position": "after_conv3"}
    net = ResNet(50, base_channels=4, stem_channels=4, plugins=[plugin])
    net.init_weights()
    block = net.layer1[0].nonlocal_block
    assert not block.conv_out.bn.weight.any()
    assert block.g.conv.weight.std() < 0.02


def test_blocks_tell_what_they_were_built_with():
    block = NonLocal2d(8, reduction=4, use_scale=False, mode="dot_product")
    told = block.in_channels, block.inter_channels, block.reduction, block.use_scale, block.mode
    assert told == (8, 2, 4, False, "dot_product")
    block = ContextBlock(8, 0.5, "avg", ("channel_mul",))
    told = block.in_channels, block.ratio, block.planes, block.pooling_type, block.fusion_types
    assert told == (8, 0.5, 4, "avg", ("channel_mul",))


MODES = ["gaussian", "embedded_gaussian", "dot_product", "concatenation"]


def with_temperature(base):
    class Tempered(base):
        def _tempered(self, name, theta_x, phi_x):
            return getattr(super(), name)(theta_x * 0.5, phi_x).square()

    for name in MODES:

        def method(self, theta_x, phi_x, name=name):
            return self._tempered(name, theta_x, phi_x)

        setattr(Tempered, name, method)
    return Tempered


@each_case("sub_sample", [False, True])
@each_case("mode", MODES)
def test_a_child_with_its_own_pairwise_weights_is_asked_for_them(mode, sub_sample):
    settings = {"mode": mode, "sub_sample": sub_sample, "reduction": 2}
    ours, peer = (
        with_temperature(NonLocal2d)(6, **settings),
        with_temperature(PeerNonLocal2d)(6, **settings),
    )
    draw(ours)
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 4, 4) * 0.3
    with torch.no_grad():
        rec.assert_close(ours(x), peer(x))
        plain = NonLocal2d(6, **settings)
        plain.load_state_dict(ours.state_dict())
        assert not torch.allclose(plain(x), ours(x), atol=1e-3)


def test_a_child_with_its_own_pooling_is_asked_for_it():
    class Largest(ContextBlock):
        def spatial_pool(self, x):
            return x.amax(dim=(2, 3), keepdim=True)

    block, x = draw(Largest(4, 0.5)), torch.randn(1, 4, 3, 3)
    want = x + block.channel_add_conv(x.amax(dim=(2, 3), keepdim=True))
    rec.assert_close(block(x), want)


@TASK_UTILS.register_module()
class EverySecondPixel(BasePixelSampler):
    def __init__(self, context):
        self.context = context

    def sample(self, seg_logit, seg_label):
        assert seg_logit.shape[2:] == seg_label.shape[2:]
        weight = torch.zeros_like(seg_logit[:, 0])
        weight[..., ::2] = 1
        return weight


def test_a_sampler_of_a_user_chooses_pixels():
    sampler = {"type": "EverySecondPixel"}
    head = FCNHead(in_channels=4, channels=4, num_classes=3, sampler=sampler)
    assert isinstance(build_pixel_sampler(sampler, context=head), EverySecondPixel)
    logits, label = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 1, 8, 8))
    losses = head.loss_by_feat(logits, rec.label_samples(label))
    each = F.cross_entropy(
        F.interpolate(logits, (8, 8), mode="bilinear"), label[:, 0], reduction="none"
    )
    assert losses["loss_ce"].item() == pytest.approx(each[..., ::2].sum().item() / 64, rel=1e-6)


@each_case(
    "base, name, advice",
    [
        (NonLocal2d, "embedded_gaussian", r"takes \(self\), but is called as"),
        (ContextBlock, "pool", r"write spatial_pool\(self, x\)"),
        (Bottleneck, "forward_plugin", r"write forward\(self, x\)"),
        (ResNet, "make_stage_plugins", r"takes \(self\), but is called as"),
    ],
)
def test_what_would_never_be_called_is_refused_by_name(base, name, advice):
    with pytest.raises(ConfigError, match=rf"Mine\.{name}: .*{advice}"):
        type("Mine", (base,), {name: lambda self: None})


def test_every_block_is_built_from_a_config_as_before():
    assert MODELS.build({"type": "ContextBlock", "in_channels": 4, "ratio": 0.5}).planes == 2
