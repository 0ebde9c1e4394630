import pytest
import torch
from torch import nn

from nlseg.errors import ConfigError
from nlseg.models import FCNHead, GCHead, NLHead
from nlseg.registry import MODELS
from tests.cases import each_case
from tests.models import recorded as rec

torch.set_num_threads(1)
SMALL = {"in_channels": 8, "channels": 4, "num_classes": 3}


@each_case("kind", ["FCNHead", "NLHead", "GCHead"])
def test_every_head_is_built_alone_from_its_dict(kind):
    head = MODELS.build({"type": kind, **SMALL, "norm_cfg": {"type": "BN"}})
    logits = head([torch.randn(2, 8, 5, 6)])
    assert logits.shape == (2, 3, 5, 6)
    losses = head.loss([torch.randn(2, 8, 5, 6)], rec.label_samples(torch.zeros(2, 1, 10, 12)))
    assert set(losses) == {"loss_ce", "acc_seg"}


def test_the_last_convolution_sees_input_and_result_in_this_order():
    head = FCNHead(num_convs=1, kernel_size=1, act_cfg={"type": "LeakyReLU"}, **SMALL).eval()
    with torch.no_grad():
        head.conv_cat.conv.weight.zero_()
        head.conv_cat.conv.weight[0, 0] = 1.0  # first channel of the input
        head.conv_cat.conv.weight[1, 8] = 1.0  # first channel of the result
    x = torch.rand(1, 8, 3, 3)
    out = head.conv_cat(torch.cat([x, head.convs(x)], 1))
    assert torch.equal(out[:, 0], x[:, 0])
    assert torch.equal(out[:, 1], nn.functional.leaky_relu(head.convs(x)[:, 0]))


def test_padding_follows_kernel_and_dilation():
    head = FCNHead(num_convs=2, kernel_size=5, dilation=3, **SMALL)
    assert [c.padding for c in head.convs] == [6, 6]
    assert head.conv_cat.padding == 2
    assert head.conv_cat.dilation == (1, 1)


def test_no_convolutions_hand_the_input_on():
    head = FCNHead(num_convs=0, concat_input=False, in_channels=4, channels=4, num_classes=3).eval()
    x = torch.randn(1, 4, 2, 2)
    assert torch.equal(head([x]), head.conv_seg(x))
    with pytest.raises(ConfigError, match="num_convs"):
        FCNHead(num_convs=0, **SMALL)


def _with(head, **attributes):
    for name, value in attributes.items():
        setattr(head, name, value)
    return head


def test_input_transforms_choose_and_join_features():
    features = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4), torch.randn(1, 16, 2, 2)]
    settings = {"in_channels": [4, 16], "in_index": [0, 2], "channels": 4, "num_classes": 3}
    head = FCNHead(input_transform="resize_concat", **settings)
    joined = head.transform_inputs(features)
    assert joined.shape == (1, 20, 8, 8)
    assert torch.equal(joined[:, :4], features[0])
    assert head(features).shape == (1, 3, 8, 8)
    chosen = GCHead.transform_inputs(_with(head, input_transform="multiple_select"), features)
    assert [x.shape[1] for x in chosen] == [4, 16]
    with pytest.raises(ConfigError, match="two lists"):
        FCNHead(input_transform="resize_concat", in_channels=4, channels=4, num_classes=3)


def test_the_classifier_starts_small_and_convolutions_after_kaiming():
    torch.manual_seed(0)
    head = FCNHead(in_channels=64, channels=64, num_classes=50)
    head.init_weights()
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.conv_seg.bias.any()
    fan_out = 64 * 9
    assert head.convs[0].conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_the_non_local_block_starts_as_the_identity_unless_told_otherwise():
    x = torch.randn(2, 4, 3, 3)
    head = NLHead(norm_cfg={"type": "BN"}, **SMALL)
    head.init_weights()
    assert torch.equal(head.nl_block(x), x)
    head = NLHead(norm_cfg={"type": "BN"}, zeros_init=False, init_cfg=None, **SMALL)
    head.init_weights()
    assert head.nl_block.conv_out.bn.weight.eq(1).all()
    assert not torch.equal(head.nl_block(x), x)


def test_without_init_cfg_every_layer_starts_as_pytorch_does():
    torch.manual_seed(0)
    head = NLHead(
        in_channels=64, channels=64, num_classes=50, zeros_init=False, init_cfg=None,
        norm_cfg={"type": "BN"},
    )  # fmt: skip
    head.init_weights()
    convs = {name: m for name, m in head.named_modules() if isinstance(m, nn.Conv2d)}
    assert len(convs) == 8
    for name, conv in convs.items():
        bound = (conv.in_channels * conv.kernel_size[0] ** 2) ** -0.5
        assert conv.weight.abs().max() <= bound, name
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name


def test_losses_of_one_name_are_added_and_others_kept_apart():
    one = {"type": "CrossEntropyLoss"}
    half = {"type": "CrossEntropyLoss", "loss_weight": 0.5}
    other = {"type": "CrossEntropyLoss", "loss_name": "loss_other"}
    heads = [
        FCNHead(loss_decode=loss, dropout_ratio=0.0, **SMALL) for loss in (one, [one, half, other])
    ]
    heads[1].load_state_dict(heads[0].state_dict())
    features = [torch.randn(1, 8, 4, 4)]
    samples = rec.label_samples(torch.randint(0, 3, (1, 1, 8, 8)))
    single, several = (head.loss(features, samples) for head in heads)
    assert several["loss_ce"].item() == pytest.approx(1.5 * single["loss_ce"].item())
    assert several["loss_other"].item() == pytest.approx(single["loss_ce"].item())


def test_a_sampler_chooses_the_pixels_that_count():
    sampler = {"type": "OHEMPixelSampler", "min_kept": 3}
    head = FCNHead(sampler=sampler, dropout_ratio=0.0, **SMALL)
    samples = rec.label_samples(torch.randint(0, 3, (1, 1, 4, 4)))
    logits = torch.randn(1, 3, 4, 4)
    loss = head.loss_by_feat(logits, samples)["loss_ce"]
    label = samples[0].gt_sem_seg.data
    worst = nn.functional.cross_entropy(logits, label, reduction="none").flatten().topk(3).values
    assert loss.item() == pytest.approx(worst.sum().item() / 16, rel=1e-6)


LOSSES = {
    "class weights": [{"class_weight": [0.5, 2.0, 1.0]}],
    "class weights over valid pixels": [{"class_weight": [0.5, 2.0, 1.0], "avg_non_ignore": True}],
    "valid pixels": [{"avg_non_ignore": True}],
    "sum": [{"reduction": "sum", "loss_weight": 0.1}],
    "two": [{"loss_weight": 0.3}, {"class_weight": [0.5, 2.0, 1.0], "loss_name": "loss_other"}],
}
SAMPLERS = [None, {"thresh": 0.4, "min_kept": 20}, {"min_kept": 30}]


@each_case("align_corners", [False, True])
@each_case("sampler", SAMPLERS)
@each_case("name", LOSSES)
def test_streamed_losses_are_those_of_the_plain_path(name, sampler, align_corners):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 6)
    label = torch.randint(0, 3, (2, 1, 16, 20))
    label[:, :, :4] = 255
    results = []
    for stream in (True, False):
        head = FCNHead(
            loss_decode=[{"type": "CrossEntropyLoss", **loss} for loss in LOSSES[name]],
            sampler=sampler and {"type": "OHEMPixelSampler", **sampler},
            align_corners=align_corners,
            stream_loss=stream,
            **SMALL,
        )
        x = logits.clone().requires_grad_()
        losses = head.loss_by_feat(x, rec.label_samples(label))
        sum(value for key, value in losses.items() if "loss" in key).backward()
        results.append((losses, x.grad))
    assert list(results[0][0]) == list(results[1][0])
    for key, value in results[1][0].items():
        rec.assert_close(results[0][0][key], value, 1e-5)
    rec.assert_close(results[0][1], results[1][1], 1e-5)


@each_case(
    "arguments, message",
    [
        ({"out_channels": 2}, "out_channels"),
        ({"in_index": (1, 2)}, "in_index"),
        ({"input_transform": "resize"}, "input_transform"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        GCHead(**{**SMALL, **arguments})


def test_two_classes_may_have_one_logit_with_a_threshold_of_0_3():
    head = FCNHead(in_channels=8, channels=4, num_classes=2, out_channels=1)
    assert head.threshold == 0.3
    assert head.conv_seg.out_channels == 1
    with pytest.warns(UserWarning, match="out_channels=1"):
        FCNHead(in_channels=8, channels=4, num_classes=2)


def test_one_logit_is_for_two_classes_only_and_keeps_a_given_threshold():
    with pytest.raises(ConfigError, match="1 is neither num_classes"):
        FCNHead(in_channels=8, channels=4, num_classes=3, out_channels=1)
    loss = {"type": "CrossEntropyLoss", "use_sigmoid": True}
    small = {"in_channels": 8, "channels": 4, "num_classes": 2, "loss_decode": loss}
    head = FCNHead(out_channels=1, threshold=0.6, **small)
    assert head.threshold == 0.6
    both = FCNHead(out_channels=2, **small)
    assert (both.threshold, both.conv_seg.out_channels) == (None, 2)
    logits = torch.tensor([-1.0, 0.3, 0.5, 2.0]).view(1, 1, 2, 2)  # 0.27, 0.57, 0.62, 0.88
    label = torch.tensor([0, 0, 1, 1]).view(1, 2, 2)
    losses = head.loss_by_feat(logits, rec.label_samples(label))
    assert losses["acc_seg"].item() == pytest.approx(100)
    head.threshold = 0.3
    assert head.loss_by_feat(logits, rec.label_samples(label))["acc_seg"].item() == pytest.approx(
        75
    )
