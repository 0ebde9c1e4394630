"""Predictions in any grad mode, gradients through them, and logits for whoever reads them."""

import sys
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.optim import OptimWrapper

import nlseg
from nlseg.ops.non_local import NonLocal2d
from nlseg.registry import MODELS
from nlseg.structures import SegDataSample
from tests.cases import each_case
from tests.models import recorded as rec

torch.set_num_threads(1)
GRAD_MODES = {"grad": nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}


def slide(model):
    model.test_cfg.mode = "slide"
    model.test_cfg.crop_size, model.test_cfg.stride = (48, 48), (32, 32)
    return model


def sample_of(metainfo):
    return [SegDataSample(metainfo=metainfo)]


def views_of(image):
    original = sample_of({"ori_shape": (80, 112)})
    return {"inputs": [[image], [image[:, :32]]], "data_samples": [original, original]}


CALLS = {
    "predict": lambda model, x: model.predict(x)[0],
    "mode": lambda model, x: model(x, mode="predict")[0],
    "resized": lambda model, x: model.predict(
        x, sample_of({"ori_shape": (60, 90), "flip": True, "flip_direction": "horizontal"})
    )[0],
    "test_step": lambda model, _: model.test_step({"inputs": list(rec.golden()["eval_image"])})[0],
    "val_step": lambda model, _: model.val_step({"inputs": list(rec.golden()["eval_image"])})[0],
    "slide": lambda model, x: slide(model).predict(x)[0],
    "tta": lambda model, x: MODELS.build({"type": "SegTTAModel", "module": model}).test_step(
        views_of(x[0])
    )[0],
}


@each_case("call", CALLS)
@each_case("training", [False, True])
def test_predictions_are_the_same_in_every_grad_mode(call, training):
    labels, logits = [], []
    for mode in GRAD_MODES.values():
        model = rec.build("NL").train(training)
        image = rec.eval_input(model)
        with mode():
            sample = CALLS[call](model, image)
        labels.append(sample.pred_sem_seg.data)
        if call != "tta":
            logits.append(sample.seg_logits.data)
            assert torch.equal(labels[-1], logits[-1].argmax(0, keepdim=True))
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[1], labels[2])
    for other in logits[1:]:
        rec.assert_close(other, logits[0])


def plain_slide(model, image):
    total, count = 0, 0
    for top in (0, 32):
        for left in (0, 32, 64):
            part = model.decode_head(model.extract_feat(image[..., top:, left:][..., :48, :48]))
            part = F.interpolate(part, (48, 48), mode="bilinear")
            place = (left, 64 - left, top, 32 - top)
            total = total + F.pad(part, place)
            count = count + F.pad(torch.ones(48, 48), place)
    return total / count


@pytest.mark.parametrize("way", ["whole", "slide"])
def test_gradients_of_logits_are_those_of_the_plain_formula(way):
    model = rec.build("NL").eval()
    image = rec.eval_input(model).requires_grad_()
    if way == "slide":
        logits, want = slide(model).inference(image), plain_slide(model, image)
    else:
        small = model.decode_head(model.extract_feat(image))
        logits, want = model.inference(image), F.interpolate(small, (80, 112), mode="bilinear")
    direction = torch.randn(want.shape, generator=torch.Generator().manual_seed(0))
    rec.assert_close(logits, want)
    (got,) = torch.autograd.grad((logits * direction).sum(), image)
    (grad,) = torch.autograd.grad((want * direction).sum(), image)
    rec.assert_close(got, grad, 1e-5)


def test_logits_of_a_sample_have_the_gradient_of_the_original_size():
    model = rec.build("GC").eval()
    image = rec.eval_input(model).requires_grad_()
    (sample,) = slide(model).predict(image, sample_of({"ori_shape": (60, 90)}))
    want = F.interpolate(plain_slide(model, image), (60, 90), mode="bilinear")[0]
    rec.assert_close(sample.seg_logits.data, want)
    (got,) = torch.autograd.grad(sample.seg_logits.data.square().sum(), image)
    (grad,) = torch.autograd.grad(want.square().sum(), image)
    rec.assert_close(got, grad, 1e-5)


def test_the_probability_of_a_single_class_has_a_gradient():
    cfg = rec.model_cfg("GC", num_classes=2, out_channels=1)
    model = MODELS.build(cfg).eval()
    image = rec.eval_input(model).requires_grad_()
    (sample,) = model.predict(image)
    want = F.interpolate(model(image), (80, 112), mode="bilinear").sigmoid()
    rec.assert_close(sample.seg_logits.data, want[0])
    (got,) = torch.autograd.grad(sample.seg_logits.data.sum(), image)
    (grad,) = torch.autograd.grad(want.sum(), image)
    rec.assert_close(got, grad, 1e-5)


class LogitMetric(BaseMetric):
    """A metric as users write them: it reads the logits of each prediction."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            assert "seg_logits" in sample
            self.results.append(sample["seg_logits"]["data"])

    def compute_metrics(self, results):
        return {"sum": sum(logits.double().sum().item() for logits in results)}


class LabelMetric(LogitMetric):
    def process(self, data_batch, data_samples):
        self.results += [sample["pred_sem_seg"]["data"] for sample in data_samples]


def test_metrics_that_read_logits_get_them_and_no_one_else_pays(monkeypatch):
    made = []
    whole_map = nlseg.models.segmentor.whole_map
    monkeypatch.setattr(
        nlseg.models.segmentor, "whole_map", lambda source: made.append(1) or whole_map(source)
    )
    model = rec.build("NL").eval()
    with torch.no_grad():
        samples = model.predict(rec.eval_input(model))
    evaluator = Evaluator([LabelMetric()])
    evaluator.process(samples)
    evaluator.evaluate(1)
    assert made == []
    evaluator = Evaluator([LogitMetric()])
    evaluator.process(samples)
    want = model.inference(rec.eval_input(model)).double().sum().item()
    assert evaluator.evaluate(1)["sum"] == pytest.approx(want, rel=1e-5)
    assert made == [1]
    assert samples[0].seg_logits.data is samples[0].seg_logits.data  # held from then on
    assert made == [1]


def test_a_second_prediction_replaces_the_logits_of_the_first():
    model = rec.build("NL").eval()
    image, samples = rec.eval_input(model), sample_of({})
    model.predict(image, samples)
    first = samples[0].seg_logits.data
    model.predict(image.flip(3), samples)
    assert not torch.equal(samples[0].seg_logits.data, first)
    del samples[0].seg_logits
    assert samples[0].get("seg_logits") is None


def test_from_the_training_step_to_the_block_are_at_most_five_calls():
    model = rec.build("NL").train()
    stack = []

    def note(*_):
        frame = sys._getframe()
        while frame is not None:
            stack.append((frame.f_code.co_filename, frame.f_code.co_name))
            frame = frame.f_back

    block = next(m for m in model.modules() if isinstance(m, NonLocal2d))
    block.register_forward_pre_hook(note)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    labels = rec.label_samples(rec.golden()["label"])
    model.train_step({"inputs": list(rec.golden()["image"]), "data_samples": labels}, wrapper)
    names = [name for _, name in stack]
    between = stack[: names.index("train_step")]
    package = nlseg.__path__[0]
    ours = [name for file, name in between if file.startswith(package)]
    assert ours == ["_forward_feature", "forward", "loss", "loss", "forward"]
