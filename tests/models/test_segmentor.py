import gzip
import json

import pytest
import torch
from torch import nn

from nlseg.errors import ConfigError
from nlseg.models import fuse_conv_bn
from nlseg.registry import MODELS
from nlseg.structures import SegDataSample
from tests.cases import each_case
from tests.models import recorded as rec

torch.set_num_threads(1)


@each_case("kind, align_corners", rec.CASES)
def test_losses_gradients_and_statistics_are_the_recorded_ones(kind, align_corners):
    want = rec.record(kind, align_corners)
    model = rec.build(kind, align_corners).train()
    losses = model(**rec.training_batch(model), mode="loss")
    assert list(losses) == list(want["losses"])
    for name, value in losses.items():
        rec.assert_close(value, want["losses"][name])
    model.parse_losses(losses)[0].backward()
    overall = sum(norm**2 for norm in want["grad_norm"].values()) ** 0.5
    for name, parameter in model.named_parameters():
        norm = want["grad_norm"][name]
        # a bias in front of a softmax has no gradient but rounding: hence the second term
        tolerance = rec.GRADIENT_ROUNDING * norm + 1e-7 * overall
        assert abs(parameter.grad.norm() - norm) < tolerance, name
        total = parameter.grad.double().sum().item()
        assert abs(total - want["grad_sum"][name]) < tolerance * parameter.numel() ** 0.5, name
        if name in want["grads_sample"]:
            difference = (parameter.grad - want["grads_sample"][name]).norm()
            assert difference < tolerance, name
    for name, buffer in want["bn_after"].items():
        rec.assert_close(model.state_dict()[name], buffer)


@each_case("kind, align_corners", rec.CASES)
def test_logits_and_predictions_are_the_recorded_ones(kind, align_corners):
    want = rec.record(kind, align_corners)
    model = rec.build(kind, align_corners).eval()
    image = rec.eval_input(model)
    with torch.no_grad():
        features = model.extract_feat(image)
        rec.assert_close(features[3][..., ::3, ::3], want["feat3"])
        rec.assert_close(model.decode_head(features), want["head_out"])
        rec.assert_close(model(image), want["head_out"])
        rec.assert_close(model.auxiliary_head(features), want["aux_out"])
        rec.assert_close(model.inference(image)[..., ::3, ::3], want["whole_logits"])
        (sample,) = model(image, mode="predict")
    assert torch.equal(sample.pred_sem_seg.data, want["predict"].long())
    assert "seg_logits" not in sample


@each_case("kind, align_corners", rec.CASES)
@each_case("crop, stride, name", [(48, 32, "slide_48_32"), (128, 85, "slide_128_96")])
def test_sliding_window_logits_are_the_recorded_ones(kind, align_corners, crop, stride, name):
    model = rec.build(kind, align_corners).eval()
    model.test_cfg.mode = "slide"
    model.test_cfg.crop_size, model.test_cfg.stride = (crop, crop), (stride, stride)
    with torch.no_grad():
        logits = model.inference(rec.eval_input(model))
    rec.assert_close(logits[..., ::3, ::3], rec.record(kind, align_corners)[name])


@each_case("kind, align_corners", rec.CASES)
def test_a_flipped_image_is_turned_back_and_resized_to_its_original_size(kind, align_corners):
    want = rec.record(kind, align_corners)
    model = rec.build(kind, align_corners).eval()
    model.test_cfg.return_logits = True
    metainfo = {"ori_shape": (60, 90), "flip": True, "flip_direction": "horizontal"}
    with torch.no_grad():
        (sample,) = model.predict(rec.eval_input(model), [SegDataSample(metainfo=metainfo)])
    assert torch.equal(sample.pred_sem_seg.data, want["predict_flip_ori_60x90"].long())
    logits = sample.seg_logits.data[:, ::3, ::3]
    rec.assert_close(logits, want["predict_flip_ori_60x90_logits"])


@rec.recorded_draws
@pytest.mark.parametrize("kind", rec.KINDS)
def test_dropout_draws_for_the_decode_head_first_then_for_the_auxiliary_head(kind):
    model = rec.build(kind, dropout_ratio=0.1).train()
    batch = rec.training_batch(model)
    torch.manual_seed(0)
    losses = model(**batch, mode="loss")
    for name, value in rec.golden()[f"{kind}|dropout"].items():
        rec.assert_close(losses[name], value)


@pytest.mark.parametrize("kind", rec.KINDS)
def test_a_padded_batch_has_the_recorded_losses(kind):
    cfg = rec.model_cfg(kind)
    cfg["data_preprocessor"]["size"] = (72, 136)
    model = MODELS.build(cfg)
    model.load_state_dict(rec.weights(kind))
    losses = model.train()(**rec.training_batch(model), mode="loss")
    for name, value in rec.golden()[f"{kind}|padded_72x136"].items():
        rec.assert_close(losses[name], value)


def literal_configs():
    path = rec.GOLDEN / "configs_literal.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


@each_case("name", sorted(literal_configs()))
def test_published_configs_have_the_recorded_parameters_in_order(name):
    states = json.loads(gzip.decompress((rec.GOLDEN / "state_dicts.json.gz").read_bytes()))
    cfg = eval(literal_configs()[name], {"__builtins__": {}})["model"]
    with torch.device("meta"):
        model = MODELS.build({**cfg, "pretrained": None})
    parameters = dict(model.named_parameters())
    ours = [
        [
            key,
            list(value.shape),
            str(value.dtype).removeprefix("torch."),
            "param" if key in parameters else "buffer",
            parameters[key].requires_grad if key in parameters else None,
        ]
        for key, value in model.state_dict(keep_vars=True).items()
    ]
    assert ours == states[name]["keys"]
    assert sum(p.numel() for p in parameters.values()) == states[name]["n_params"]


def test_several_auxiliary_heads_are_numbered():
    cfg = rec.model_cfg("GC")
    cfg["auxiliary_head"] = [cfg["auxiliary_head"], {**cfg["auxiliary_head"], "in_index": 1}]
    cfg["auxiliary_head"][1]["in_channels"] = 32
    model = MODELS.build(cfg)
    assert "auxiliary_head.1.conv_seg.weight" in model.state_dict()
    losses = model(**rec.training_batch(model), mode="loss")
    assert {"decode.loss_ce", "aux_0.loss_ce", "aux_1.acc_seg"} <= set(losses)


FLIPS = {"horizontal": [3], "vertical": [2], "diagonal": [2, 3]}


def test_flips_of_every_kind_are_undone():
    model = rec.build("GC").eval()
    image = rec.eval_input(model)
    with torch.no_grad():
        for direction, axes in FLIPS.items():
            sample = SegDataSample(metainfo={"flip": True, "flip_direction": direction})
            (sample,) = model.predict(image.flip(axes), [sample])
            want = model(image.flip(axes), mode="predict")[0].pred_sem_seg.data.flip(
                [a - 1 for a in axes]
            )
            assert torch.equal(sample.pred_sem_seg.data, want)
    with pytest.raises(ValueError, match="up"):
        model.predict(image, [SegDataSample(metainfo={"flip": True, "flip_direction": "up"})])


def test_resize_once_goes_straight_to_the_original_size():
    model = rec.build("GC").eval()
    model.test_cfg.resize_once = model.test_cfg.return_logits = True
    image = rec.eval_input(model)
    with torch.no_grad():
        want = nn.functional.interpolate(model(image), (50, 70), mode="bilinear")
        (sample,) = model.predict(image, [SegDataSample(metainfo={"ori_shape": (50, 70)})])
    rec.assert_close(sample.seg_logits.data, want[0])
    assert torch.equal(sample.pred_sem_seg.data, want.argmax(1))


def test_one_logit_is_compared_with_the_threshold():
    cfg = rec.model_cfg("GC", num_classes=2, out_channels=1)
    for head in ("decode_head", "auxiliary_head"):
        cfg[head]["loss_decode"]["use_sigmoid"] = True
    model = MODELS.build(cfg).eval()
    model.test_cfg.return_logits = True
    with torch.no_grad():
        (sample,) = model(rec.eval_input(model), mode="predict")
    assert model.decode_head.threshold == 0.3
    assert torch.equal(sample.pred_sem_seg.data, (sample.seg_logits.data > 0.3).long())
    labels = (rec.golden()["label"] % 2).to(torch.uint8)
    batch = {"inputs": list(rec.golden()["image"]), "data_samples": rec.label_samples(labels)}
    losses = model.train()(**model.data_preprocessor(batch, True), mode="loss")
    assert losses["decode.loss_ce"].isfinite()


def test_sync_batchnorm_trains_in_one_process():
    cfg = rec.model_cfg("NL", norm_cfg={"type": "SyncBN", "requires_grad": True})
    cfg["backbone"]["norm_cfg"] = {"type": "SyncBN", "requires_grad": True}
    model = MODELS.build(cfg)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    model.load_state_dict(rec.weights("NL"))
    losses = model.train()(**rec.training_batch(model), mode="loss")
    for name, value in rec.record("NL")["losses"].items():
        rec.assert_close(losses[name], value)


@pytest.mark.parametrize("kind", rec.KINDS)
def test_the_plain_loss_path_gives_what_the_streamed_one_gives(kind):
    results = []
    for stream in (True, False):
        model = rec.build(kind, stream_loss=stream).train()
        losses = model(**rec.training_batch(model), mode="loss")
        model.parse_losses(losses)[0].backward()
        grad = model.decode_head.conv_seg.weight.grad
        results.append((*losses.values(), grad))
    for streamed, plain in zip(*results, strict=True):
        rec.assert_close(streamed, plain)


@pytest.mark.parametrize("window_batch", [2, 5])
def test_windows_in_batches_give_what_they_give_one_by_one(window_batch):
    # in float64, where the convolutions' choice of algorithm by batch size does not show
    model = rec.build("NL").eval().double()
    model.test_cfg.mode = "slide"
    model.test_cfg.crop_size, model.test_cfg.stride = (48, 48), (32, 32)
    image = rec.eval_input(model).double().repeat(2, 1, 1, 1)
    image[1] = image[1].flip(2)
    with torch.no_grad():
        want = model.inference(image)
        model.test_cfg.window_batch = window_batch
        rec.assert_close(model.inference(image), want, 1e-7)


@pytest.mark.parametrize("kind", rec.KINDS)
def test_folded_norms_change_logits_by_rounding_only(kind):
    model = rec.build(kind).eval()
    image = rec.eval_input(model)
    with torch.no_grad():
        want = model(image)
        fuse_conv_bn(model)
        rec.assert_close(model(image), want, 2e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@each_case(
    "change, message",
    [
        ({"test_cfg": {"mod": "whole"}}, "did you mean 'mode'"),
        ({"test_cfg": {"mode": "hole"}}, "'hole' is not one of 'whole', 'slide'"),
        ({"test_cfg": {"mode": "slide"}}, "needs 'crop_size' and 'stride'"),
        ({"train_cfg": {"x": 1}}, "has no keys"),
    ],
)
def test_mistakes_in_a_model_config_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build({**rec.model_cfg("GC"), **change})


@each_case("part", ["backbone", "decode_head", "auxiliary_head", "data_preprocessor"])
def test_an_unknown_key_in_any_part_is_refused(part):
    cfg = rec.model_cfg("NL")
    cfg[part]["num_clases"] = 3
    with pytest.raises(TypeError, match="num_clases"):
        MODELS.build(cfg)
