"""Every method that users override is called, in training and in prediction, or refused by name."""

import pytest
import torch
from mmengine.structures import PixelData

from nlseg.config import load_config
from nlseg.errors import ConfigError
from nlseg.models import (
    BaseDecodeHead,
    Bottleneck,
    DNLHead,
    EncoderDecoder,
    FCNHead,
    GCHead,
    NLHead,
    ResNet,
    ResNetV1c,
    SegTTAModel,
)
from nlseg.models.losses import CrossEntropyLoss, DiceLoss, works_on_small_logits
from nlseg.models.losses.samplers import OHEMPixelSampler
from nlseg.registry import MODELS, TASK_UTILS
from nlseg.structures import SegDataSample
from tests.cases import each_case
from tests.models import recorded as rec

torch.set_num_threads(1)
FAVOURITE = 3
CALLED = []


@pytest.fixture(autouse=True)
def nothing_outlives_a_test():
    CALLED.clear()
    yield
    CALLED.clear()


def changed(result):
    """Let logits favour one class; leave anything else."""
    if isinstance(result, torch.Tensor) and result.dim() == 4 and result.shape[1] == 7:
        result = result.clone()
        result[:, FAVOURITE] += 1000
    return result


def child_of(base, name):
    """Make a subclass that overrides one method as a user does, and register it."""

    def method(self, *args, **kwargs):
        CALLED.append(name)
        return changed(getattr(base, name)(self, *args, **kwargs))

    child = type("Child", (base,), {name: method})
    MODELS.register_module(module=child, force=True)
    return child


def model_with(base, name, **changes):
    cfg = rec.model_cfg("NL")
    child_of(base, name)
    if issubclass(base, BaseDecodeHead):
        cfg["decode_head"]["type"] = "Child"
    else:
        cfg["type"] = "Child"
    model = MODELS.build({**cfg, **changes})
    model.load_state_dict(rec.weights("NL"))
    CALLED.clear()
    return model


def views(image):
    info = {"ori_shape": (80, 112), "flip": False}
    return {
        "inputs": [[image], [image.flip(2)]],
        "data_samples": [
            [SegDataSample(metainfo=info)],
            [SegDataSample(metainfo={**info, "flip": True, "flip_direction": "horizontal"})],
        ],
    }


SLIDE = {"mode": "slide", "crop_size": (48, 48), "stride": (32, 32)}
PREDICTIONS = {
    "whole": (None, lambda model, image: model.test_step({"inputs": [image]})),
    "slide": (SLIDE, lambda model, image: model.test_step({"inputs": [image]})),
    "tta": (None, lambda model, image: MODELS.build(
        {"type": "SegTTAModel", "module": model}
    ).test_step(views(image))),
}  # fmt: skip
OF_LOGITS = [
    (NLHead, "cls_seg"),
    (NLHead, "forward"),
    (NLHead, "predict"),
    (NLHead, "predict_by_feat"),
    (EncoderDecoder, "encode_decode"),
    (EncoderDecoder, "inference"),
]
OF_ANYTHING = [
    (NLHead, "_transform_inputs"),
    (NLHead, "_forward_feature"),
    (EncoderDecoder, "extract_feat"),
    (EncoderDecoder, "postprocess_result"),
    (EncoderDecoder, "predict"),
    (EncoderDecoder, "forward"),
]


@each_case("way", PREDICTIONS)
@each_case("base, name", OF_LOGITS)
def test_what_a_user_makes_of_logits_reaches_the_prediction(base, name, way):
    test_cfg, predict = PREDICTIONS[way]
    model = model_with(base, name, test_cfg=test_cfg).eval()
    (sample,) = predict(model, rec.golden()["eval_image"][0])
    assert name in CALLED
    assert sample.pred_sem_seg.data.eq(FAVOURITE).all()


@each_case("way", PREDICTIONS)
@each_case("base, name", OF_ANYTHING)
def test_a_method_of_a_user_is_called_and_may_leave_things_as_they_are(base, name, way):
    test_cfg, predict = PREDICTIONS[way]
    image = rec.golden()["eval_image"][0]
    model = model_with(base, name, test_cfg=test_cfg).eval()
    (sample,) = predict(model, image)
    assert name in CALLED
    ours = MODELS.build({**rec.model_cfg("NL"), "test_cfg": test_cfg}).eval()
    ours.load_state_dict(rec.weights("NL"))
    (want,) = predict(ours, image)
    assert (sample.pred_sem_seg.data != want.pred_sem_seg.data).float().mean() < 1e-3


@pytest.mark.parametrize(
    ("name", "way"), [("whole_inference", "whole"), ("slide_inference", "slide")]
)
def test_a_way_of_inference_of_a_user_is_called(name, way):
    test_cfg, predict = PREDICTIONS[way]
    model = model_with(EncoderDecoder, name, test_cfg=test_cfg).eval()
    (sample,) = predict(model, rec.golden()["eval_image"][0])
    assert [name] == CALLED
    assert sample.pred_sem_seg.data.eq(FAVOURITE).all()


def test_the_plain_forward_of_a_user_is_called():
    model = model_with(EncoderDecoder, "_forward").eval()
    assert model(rec.eval_input(model)).argmax(1).eq(FAVOURITE).all()


TRAINING = [
    (NLHead, "_transform_inputs"),
    (NLHead, "_forward_feature"),
    (NLHead, "forward"),
    (NLHead, "cls_seg"),
    (NLHead, "loss"),
    (NLHead, "loss_by_feat"),
    (NLHead, "_stack_batch_gt"),
    (EncoderDecoder, "forward"),
    (EncoderDecoder, "loss"),
    (EncoderDecoder, "extract_feat"),
    (EncoderDecoder, "_decode_head_forward_train"),
    (EncoderDecoder, "_auxiliary_head_forward_train"),
]


@each_case("base, name", TRAINING)
def test_a_method_of_a_user_is_called_in_training(base, name):
    model = model_with(base, name).train()
    losses = model(**rec.training_batch(model), mode="loss")
    assert name in CALLED
    want = rec.record("NL")["losses"]
    assert list(losses) == list(want)
    for key, value in losses.items():
        if key == "decode.loss_ce" and name in ("forward", "cls_seg") and base is NLHead:
            assert value > 100
        elif name not in ("forward", "cls_seg") or not key.startswith("decode"):
            rec.assert_close(value, want[key])


def test_a_merge_of_views_of_a_user_is_called():
    class Largest(SegTTAModel):
        def merge_preds(self, data_samples_list):
            (samples,) = data_samples_list
            CALLED.append([sample.seg_logits.data for sample in samples])
            return [samples[1]]

    image = rec.golden()["eval_image"][0]
    merged = Largest(rec.build("NL").eval()).test_step(views(image))
    assert merged[0].flip is True
    logits, flipped = CALLED[0]
    assert logits.shape == flipped.shape == (7, 80, 112)


def test_the_single_probability_of_views_is_averaged_alike_on_both_ways():
    cfg = rec.model_cfg("GC", num_classes=2, out_channels=1)
    cfg["decode_head"]["threshold"] = 0.5
    model = MODELS.build(cfg).eval()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    with torch.no_grad():
        model.decode_head.conv_seg.bias -= model(rec.eval_input(model)).median()
    image = rec.golden()["eval_image"][0]
    tta = SegTTAModel(model)
    (streamed,) = tta.test_step(views(image))
    samples = [model.test_step({"inputs": i, "data_samples": s})[0]
               for i, s in zip(*views(image).values(), strict=True)]  # fmt: skip
    (merged,) = tta.merge_preds([samples])
    assert 0.01 < merged.pred_sem_seg.data.float().mean() < 0.99
    assert torch.equal(merged.pred_sem_seg.data, streamed.pred_sem_seg.data)


def test_a_method_put_in_place_of_one_instance_is_called():
    model = rec.build("NL").eval()
    plain = model.decode_head.predict_by_feat
    model.decode_head.predict_by_feat = lambda *args: changed(plain(*args))
    (sample,) = model.predict(rec.eval_input(model))
    assert sample.pred_sem_seg.data.eq(FAVOURITE).all()


def test_a_head_that_reads_any_feature_is_given_all_of_them():
    class Both(FCNHead):
        def _transform_inputs(self, inputs):
            assert all(feature is not None for feature in inputs)
            return super()._transform_inputs(inputs)

    MODELS.register_module(module=Both, force=True)
    cfg = rec.model_cfg("GC")
    for name in ("ratio", "pooling_type", "fusion_types"):
        cfg["decode_head"].pop(name, None)
    cfg["decode_head"]["type"] = "Both"
    model = MODELS.build(cfg).eval()
    model.predict(rec.eval_input(model))


def test_settings_of_training_reach_a_head_that_can_read_them():
    class Scaled(NLHead):
        def loss(self, inputs, batch_data_samples, train_cfg):
            losses = super().loss(inputs, batch_data_samples, train_cfg)
            return {name: value * train_cfg.factor for name, value in losses.items()}

    MODELS.register_module(module=Scaled, force=True)
    cfg = {**rec.model_cfg("NL"), "train_cfg": {"factor": 2.0}}
    cfg["decode_head"]["type"] = "Scaled"
    model = MODELS.build(cfg).train()
    model.load_state_dict(rec.weights("NL"))
    losses = model(**rec.training_batch(model), mode="loss")
    rec.assert_close(losses["decode.loss_ce"], 2 * rec.record("NL")["losses"]["decode.loss_ce"])


REFUSED = [
    (NLHead, "losses", ("self", "seg_logit"), r"write loss_by_feat\(self, seg_logits, batch_data"),
    (NLHead, "refine", ("self", "x"), r"write _forward_feature\(self, inputs\)"),
    (NLHead, "forward_train", ("self", "x"), r"write loss\(self, inputs, batch_data_samples, tr"),
    (FCNHead, "forward_test", ("self", "x"), r"write predict\(self, inputs, batch_img_metas"),
    (
        FCNHead,
        "predict",
        ("self", "inputs", "size"),
        r"takes \(self, inputs, size\), but is called",
    ),
    (FCNHead, "loss_by_feat", ("self", "seg_logits"), r"takes \(self, seg_logits\), but is called"),
    (EncoderDecoder, "aug_test", ("self", "x"), r"subclass SegTTAModel and write merge_preds"),
    (EncoderDecoder, "simple_test", ("self", "x"), r"write predict\(self, inputs, data_samples\)"),
    (EncoderDecoder, "forward_dummy", ("self", "x"), r"write _forward\(self, inputs, data_samples"),
    (EncoderDecoder, "inference", ("self", "img", "img_meta", "rescale"), r"inference\(self, inp"),
]


@each_case("base, name, takes, advice", REFUSED)
def test_what_is_never_called_is_refused_when_the_class_is_defined(base, name, takes, advice):
    method = eval(f"lambda {', '.join(takes)}: None")
    with pytest.raises(ConfigError, match=rf"test_extension\.Mine\.{name}: .*{advice}"):
        type("Mine", (base,), {name: method, "__module__": __name__})


def test_a_class_that_calls_an_old_name_itself_may_have_it():
    class Points(FCNHead):
        def loss(self, inputs, prev_output, batch_data_samples, train_cfg):
            return self.losses(inputs, batch_data_samples)

        def losses(self, point_logits, point_label):
            return {}

    assert Points.losses is not None


def test_one_head_alone_is_no_cascade():
    cfg = rec.model_cfg("NL")
    cfg["decode_head"] = [cfg["decode_head"]]
    with pytest.raises(ConfigError, match="a list of heads is for CascadeEncoderDecoder"):
        MODELS.build(cfg)


def test_resizing_once_needs_the_logits_of_the_head():
    with pytest.raises(ConfigError, match="resize_once: needs the head's own logits"):
        model_with(NLHead, "predict_by_feat", test_cfg={"resize_once": True})


def test_arguments_that_need_operators_of_others_are_refused_by_name():
    for kind in (ResNetV1c, ResNet):
        with pytest.raises(ConfigError, match=rf"{kind.__name__}\.dcn: not supported"):
            kind(depth=18, dcn={"type": "DCN"}, stage_with_dcn=(False, True, True, True))
    with pytest.raises(TypeError, match="dcm"):
        ResNetV1c(depth=18, dcm={})


def test_a_users_segmentor_may_read_keys_of_its_own():
    class Patient(EncoderDecoder):
        def encode_decode(self, inputs, batch_img_metas):
            return super().encode_decode(inputs, batch_img_metas) * self.test_cfg.rounds

    MODELS.register_module(module=Patient, force=True)
    settings = {"mode": "whole", "rounds": 3}
    model = MODELS.build({**rec.model_cfg("NL"), "type": "Patient", "test_cfg": settings}).eval()
    assert model.test_cfg["rounds"] == model.test_cfg.get("rounds") == 3
    assert model.test_cfg.get("turns", 5) == 5
    assert "rounds" in model.test_cfg
    assert "turns" not in model.test_cfg
    assert dict(model.test_cfg)["rounds"] == 3
    model.test_step({"inputs": [rec.golden()["eval_image"][0]]})
    with pytest.raises(ConfigError, match=r"EncoderDecoder\.test_cfg: there is no 'rounds'"):
        MODELS.build({**rec.model_cfg("NL"), "test_cfg": settings})
    with pytest.raises(ConfigError, match=r"Patient\.test_cfg\.mode"):
        MODELS.build({**rec.model_cfg("NL"), "type": "Patient", "test_cfg": {"mode": "hole"}})

    published = "nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024"
    load_config(published, ["model.type=Patient", "model.test_cfg.rounds=3"])
    with pytest.raises(ConfigError, match="test_cfg has no 'rounds'"):
        load_config(published, ["model.test_cfg.rounds=3"])


LOSSES = [
    {"type": "CrossEntropyLoss"},
    {"type": "DiceLoss"},
    {"type": "FocalLoss"},
    {"type": "TverskyLoss"},
    {"type": "OhemCrossEntropy", "min_kept": 10},
    {"type": "LovaszLoss", "reduction": "none"},
]


def small_batch():
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(0, 5, (1, 16, 16), generator=generator)
    sample = SegDataSample(gt_sem_seg=PixelData(data=label))
    return torch.randn(1, 5, 4, 4, generator=generator), [sample]


def head_with(**settings):
    return MODELS.build(
        {"type": "FCNHead", "in_channels": 4, "channels": 4, "num_classes": 5, **settings}
    )


def grown(base):
    """Make a child of a loss whose result is a hundred times as large."""

    def forward(self, *args, **kwargs):
        return 100 * base.forward(self, *args, **kwargs)

    return type("Grown", (base,), {"forward": forward})


@each_case("cfg", LOSSES)
def test_the_loss_of_a_users_child_is_the_one_that_trains(cfg):
    batch = small_batch()
    want = 100 * next(iter(head_with(loss_decode=cfg).loss_by_feat(*batch).values()))
    base = MODELS.get(cfg["type"])
    mixin = type("Mixin", (), {"forward": grown(base).forward})
    for child in (grown(base), type("Mixed", (mixin, base), {}), type("Leaf", (grown(base),), {})):
        MODELS.register_module(name="Child", module=child, force=True)
        losses = head_with(loss_decode={**cfg, "type": "Child"}).loss_by_feat(*batch)
        assert next(iter(losses.values())).item() == pytest.approx(want.item(), rel=1e-4)


def test_a_forward_put_in_place_of_one_loss_is_called():
    batch = small_batch()
    head = head_with()
    plain, want = head.loss_decode.forward, 100 * head.loss_by_feat(*batch)["loss_ce"]
    head.loss_decode.forward = lambda *args, **kwargs: 100 * plain(*args, **kwargs)
    assert head.loss_by_feat(*batch)["loss_ce"].item() == pytest.approx(want.item(), rel=1e-4)


def test_a_child_that_changes_no_forward_needs_no_upsampled_logits():
    class Weighted(CrossEntropyLoss):
        def average_factor(self, label, ignore_index):
            return 1.0

    class Anew(grown(CrossEntropyLoss)):
        def upsampled(self, *args, **kwargs):
            value, correct = super().upsampled(*args, **kwargs)
            return 100 * value, correct

    assert works_on_small_logits(Weighted())
    assert works_on_small_logits(Anew())
    assert not works_on_small_logits(grown(CrossEntropyLoss)())
    assert not works_on_small_logits(grown(DiceLoss)())


@pytest.mark.parametrize("thresh", [0.7, None])
def test_the_sampler_of_a_users_child_is_the_one_that_chooses(thresh):
    class All(OHEMPixelSampler):
        def sample(self, seg_logit, seg_label):
            CALLED.append(seg_logit.shape)
            return torch.ones_like(super().sample(seg_logit, seg_label))

    TASK_UTILS.register_module(module=All, force=True)
    sampler = {"type": "All", "thresh": thresh, "min_kept": 1}
    logits, samples = small_batch()
    losses = head_with(sampler=sampler).loss_by_feat(logits, samples)
    assert CALLED == [(1, 5, 16, 16)]
    want = head_with().loss_by_feat(logits, samples)
    assert losses["loss_ce"].item() == pytest.approx(want["loss_ce"].item(), rel=1e-5)


def test_hard_pixels_are_ranked_by_the_loss_of_a_users_child():
    class Odd(CrossEntropyLoss):
        def forward(self, cls_score, label, **kwargs):
            loss = super().forward(cls_score, label, **kwargs)
            return loss * (label == 2) if loss.dim() else loss

    MODELS.register_module(module=Odd, force=True)
    sampler = {"type": "OHEMPixelSampler", "min_kept": 5}
    head = head_with(loss_decode={"type": "Odd"}, sampler=sampler)
    CALLED.clear()
    plain = head.loss_decode.forward
    head.loss_decode.forward = lambda *args, **kwargs: (
        CALLED.append(kwargs.get("weight")) or plain(*args, **kwargs)
    )
    logits, samples = small_batch()
    head.loss_by_feat(logits, samples)
    weight = CALLED[-1]
    assert weight.sum() == 5
    assert samples[0].gt_sem_seg.data[weight.bool()].eq(2).all()


def test_a_body_whose_forward_takes_images_alone_is_called():
    class Doubled(ResNet):
        def forward(self, x):
            CALLED.append(x.shape)
            return tuple(2 * feature for feature in super().forward(x))

    cfg = rec.model_cfg("NL")
    MODELS.register_module(module=Doubled, force=True)
    cfg["backbone"] = {**cfg["backbone"], "type": "Doubled"}
    model = MODELS.build(cfg).eval()
    model.test_step({"inputs": [rec.golden()["eval_image"][0]]})
    assert len(CALLED) == 1
    with pytest.raises(ConfigError, match=r"Mine\.forward: takes \(self\), but is called"):
        type("Mine", (ResNet,), {"forward": lambda self: None})


def test_a_body_keeps_what_it_was_built_from():
    body = ResNet(50, base_channels=2, stem_channels=4, strides=(1, 2, 1, 1), norm_eval=True)
    assert (body.depth, body.block, body.stage_blocks) == (50, Bottleneck, (3, 4, 6, 3))
    assert (body.stem_channels, body.base_channels, body.num_stages) == (4, 2, 4)
    assert (body.strides, body.dilations, body.style) == ((1, 2, 1, 1), (1, 1, 1, 1), "pytorch")
    assert body.inplanes == body.feat_dim == 64
    assert body.res_layers == ["layer1", "layer2", "layer3", "layer4"]
    assert (body.dcn, body.plugins, body.with_cp, body.norm_eval) == (None, None, False, True)


def test_heads_keep_the_settings_of_their_blocks():
    settings = {"in_channels": 4, "channels": 8, "num_classes": 2}
    for kind in (NLHead, DNLHead):
        head = kind(reduction=4, use_scale=False, mode="dot_product", **settings)
        assert (head.reduction, head.use_scale, head.mode) == (4, False, "dot_product")
    head = GCHead(ratio=0.5, pooling_type="avg", fusion_types=("channel_mul",), **settings)
    assert (head.ratio, head.pooling_type, head.fusion_types) == (0.5, "avg", ("channel_mul",))


@each_case(
    "base, name, takes",
    [(NLHead, "losses", "a, b"), (EncoderDecoder, "simple_test", "x"), (NLHead, "predict", "x")],
)
def test_what_comes_by_a_mixin_is_checked_like_the_classs_own(base, name, takes):
    mixin = type("Mixin", (), {name: eval(f"lambda self, {takes}: None")})
    with pytest.raises(ConfigError, match=rf"Mine\.{name}: "):
        type("Mine", (mixin, base), {})
    type("Mine", (base, mixin), {})  # never reached there, as Python has it


def test_settings_of_evaluation_may_be_set_anew_as_a_dict():
    model = rec.build("NL").eval()
    image = [rec.golden()["eval_image"][0]]
    model.test_cfg = {"mode": "slide", "crop_size": (32, 32), "stride": (16, 16)}
    windows = model.test_step({"inputs": image})[0].pred_sem_seg.data
    model.test_cfg.mode = "whole"
    assert not windows.equal(model.test_step({"inputs": image})[0].pred_sem_seg.data)
    with pytest.raises(ConfigError, match="mode 'slide' needs 'crop_size' and 'stride'"):
        model.test_cfg = {"mode": "slide"}
    with pytest.raises(
        ConfigError, match=r"model\.test_cfg: there is no 'mod'; did you mean 'mode'"
    ):
        model.test_cfg = {"mod": "slide"}


def test_criterion_that_nothing_calls_is_refused() -> None:
    class Doubled(CrossEntropyLoss):
        def __init__(self) -> None:
            super().__init__()
            self.cls_criterion = len

    with pytest.raises(ConfigError, match=r"Doubled\.cls_criterion: is never called"):
        Doubled()
