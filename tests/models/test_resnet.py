import copy

import pytest
import torch
from torch import nn

from nlseg.errors import ConfigError
from nlseg.models import ResNet, ResNetV1c, ResNetV1d
from nlseg.registry import MODELS
from tests.cases import each_case

torch.set_num_threads(1)
SMALL = {"base_channels": 4, "stem_channels": 4}


def dilations(stage):
    return [block.conv2.dilation[0] for block in stage]


def test_output_stride_8_dilates_the_last_two_stages():
    net = ResNetV1c(
        50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True, **SMALL
    )
    assert dilations(net.layer3) == [1, 2, 2, 2, 2, 2]
    assert dilations(net.layer4) == [2, 4, 4]
    shapes = [tuple(x.shape) for x in net(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(1, 16, 16, 24), (1, 32, 8, 12), (1, 64, 8, 12), (1, 128, 8, 12)]


def test_output_stride_16_dilates_the_last_stage():
    net = ResNetV1c(18, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), **SMALL)
    assert net(torch.zeros(1, 3, 64, 96))[-1].shape == (1, 32, 4, 6)
    # a basic block dilates its first convolution only
    assert [b.conv1.dilation[0] for b in net.layer4] == [2, 2]
    assert dilations(net.layer4) == [1, 1]


def test_multi_grid_reaches_the_last_stage_only():
    net = ResNet(50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), multi_grid=(3, 5, 7), **SMALL)
    assert dilations(net.layer4) == [3, 5, 7]
    assert dilations(net.layer3) == [2] * 6


def test_style_says_which_convolution_of_a_bottleneck_is_strided():
    first = {style: ResNet(50, style=style, **SMALL).layer2[0] for style in ("pytorch", "caffe")}
    assert (first["pytorch"].conv1.stride, first["pytorch"].conv2.stride) == ((1, 1), (2, 2))
    assert (first["caffe"].conv1.stride, first["caffe"].conv2.stride) == ((2, 2), (1, 1))


@each_case("depth, blocks", [(18, 8), (34, 16), (50, 16), (101, 33), (152, 50)])
def test_every_depth_has_its_number_of_blocks(depth, blocks):
    with torch.device("meta"):
        net = ResNet(depth)
    assert sum(len(getattr(net, name)) for name in net.stages) == blocks


def test_v1d_pools_in_its_shortcuts():
    net = ResNetV1d(18, **SMALL)
    shortcut = net.layer2[0].downsample
    assert isinstance(shortcut[0], nn.AvgPool2d)
    assert shortcut[1].stride == (1, 1)
    assert "layer2.0.downsample.1.weight" in net.state_dict()


def test_parameter_names_and_weights_of_the_plain_net_fit_torchvision_names():
    names = set(ResNet(50, **SMALL).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight"} <= names
    assert {"layer4.2.conv3.weight", "layer4.2.bn3.bias"} <= names


def test_frozen_stages_neither_train_nor_change_their_statistics():
    net = ResNetV1c(18, frozen_stages=2, **SMALL).train()
    trains = {name.split(".")[0]: p.requires_grad for name, p in net.named_parameters()}
    assert trains == {
        "stem": False, "layer1": False, "layer2": False, "layer3": True, "layer4": True
    }  # fmt: skip
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(2, 3, 32, 32))
    changed = {k.split(".")[0] for k, v in net.state_dict().items() if not v.equal(before[k])}
    assert changed == {"layer3", "layer4"}


@pytest.mark.parametrize("net", [ResNet, ResNetV1c])
def test_zero_frozen_stages_freeze_the_stem_alone(net):
    backbone = net(18, frozen_stages=0, **SMALL).train()
    frozen = {n.split(".")[0] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == ({"conv1", "bn1"} if net is ResNet else {"stem"})
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 32, 32))
    changed = {k.split(".")[0] for k, v in backbone.state_dict().items() if not v.equal(before[k])}
    assert changed == {"layer1", "layer2", "layer3", "layer4"}
    everything = net(18, frozen_stages=-1, **SMALL).train()
    assert all(p.requires_grad for p in everything.parameters())


def test_norm_eval_keeps_every_statistic_but_trains_the_weights():
    net = ResNetV1c(18, norm_eval=True, **SMALL).train()
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("depth", [18, 50])
def test_checkpointing_changes_neither_gradients_nor_statistics(depth):
    torch.manual_seed(0)
    plain = ResNetV1c(depth, zero_init_residual=False, **SMALL)
    plain.init_weights()
    saving = ResNetV1c(depth, with_cp=True, **SMALL)
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 32, 32)
    for net in (plain, saving):
        net.train()
        net(image)[-1].square().sum().backward()
    for (name, ours), want in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, want.grad), name
    for (name, ours), want in zip(saving.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, want), name


@pytest.mark.parametrize("by", ["pretrained", "init_cfg"])
def test_loaded_weights_are_not_overwritten_by_zero_init_residual(by, tmp_path):
    source = ResNet(18, **SMALL)
    for parameter in source.parameters():
        nn.init.constant_(parameter, 0.5)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    start = file if by == "pretrained" else {"type": "Pretrained", "checkpoint": file}
    net = ResNet(18, zero_init_residual=True, **{by: start}, **SMALL)
    net.init_weights()
    assert net.layer1[0].bn2.weight.eq(0.5).all()
    assert net.layer4[1].bn2.weight.eq(0.5).all()


def test_the_last_norm_of_a_block_starts_at_zero():
    net = ResNet(50, **SMALL)
    net.init_weights()
    assert not net.layer1[0].bn3.weight.any()
    assert net.layer1[0].bn2.weight.eq(1).all()
    net = ResNet(50, zero_init_residual=False, **SMALL)
    net.init_weights()
    assert net.layer1[0].bn3.weight.eq(1).all()


def test_only_the_wanted_maps_are_kept():
    net = ResNet(18, **SMALL).eval()
    image = torch.randn(1, 3, 32, 32)
    every, some = net(image), net(image, only={3})
    assert [x is None for x in some] == [True, True, True, False]
    assert torch.equal(some[3], every[3])


def test_weights_come_from_a_file(tmp_path):
    source = ResNetV1c(18, **SMALL)
    source.init_weights()
    file = str(tmp_path / "weights.pth")
    torch.save(source.state_dict(), file)
    for argument in (
        {"pretrained": file},
        {"init_cfg": {"type": "Pretrained", "checkpoint": file}},
    ):
        net = ResNetV1c(18, **SMALL, **argument)
        net.init_weights()
        assert torch.equal(net.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


@MODELS.register_module()
class Scale(nn.Module):
    """A plugin that multiplies by its factor and counts its calls."""

    _abbr_ = "scale"

    def __init__(self, in_channels, factor):
        super().__init__()
        self.in_channels = in_channels
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def scale(factor, position, postfix="", stages=(True, False, False, False)):
    cfg = {"type": "Scale", "factor": factor, "postfix": postfix}
    return {"cfg": cfg, "position": position, "stages": stages}


def test_plugins_at_one_position_are_chained():
    torch.manual_seed(0)
    one = [scale(6.0, "after_conv2")]
    two = [scale(2.0, "after_conv2", "_a"), scale(3.0, "after_conv2", "_b")]
    nets = [ResNet(50, plugins=plugins, **SMALL).eval() for plugins in (one, two)]
    assert nets[1].layer1[0].scale_b.in_channels == 4
    assert not hasattr(nets[1].layer2[0], "scale_b")
    nets[1].load_state_dict(nets[0].state_dict())
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(nets[0](image)[0], nets[1](image)[0])
    nets[1].layer1[0].scale_b.factor = 1.0
    assert not torch.equal(nets[0](image)[0], nets[1](image)[0])


def test_plugins_have_the_published_names():
    plugins = [
        {
            "cfg": {"type": "ContextBlock", "ratio": 0.25},
            "stages": (False, True, True, True),
            "position": "after_conv3",
        },
        {"cfg": {"type": "NonLocal2d", "postfix": "1"}, "position": "after_conv2"},
    ]
    net = ResNet(50, plugins=plugins, **SMALL)
    assert net.layer2[0].context_block.conv_mask.in_channels == 32
    assert net.layer1[0].nonlocal_block1.g.conv.in_channels == 4
    net(torch.randn(2, 3, 64, 64))[-1].sum().backward()


@each_case(
    "arguments, message",
    [
        ({"depth": 51}, "did you mean 50"),
        ({"num_stages": 5}, "outside 1..4"),
        ({"strides": (1, 2)}, "strides"),
        ({"out_indices": (4,)}, "out_indices"),
        ({"style": "tensorflow"}, "style"),
        ({"multi_grid": (1,)}, "multi_grid"),
        ({"pretrained": "a", "init_cfg": {"type": "Kaiming"}}, "not both"),
        ({"depth": 18, "plugins": [scale(1.0, "after_conv3")]}, "after_conv3"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ResNet(**{"depth": 50, **SMALL, **arguments})
