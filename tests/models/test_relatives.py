"""The relatives that users compare with: DNLHead, DepthwiseSeparableFCNHead, CascadeEncoderDecoder.

``tests/golden/relatives.pt``: weights, inputs, outputs and gradients of mmsegmentation 1.2.2 with
torch 2.13.0; of the cascade every third row and column of its logits.
"""

import ast
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule

from nlseg.errors import ConfigError
from nlseg.models import BaseCascadeDecodeHead, DisentangledNonLocal2d, DNLHead, NLHead
from nlseg.ops.resize import resize
from nlseg.registry import MODELS
from nlseg.structures import SegDataSample
from tests.cases import each_case
from tests.models import recorded as rec
from tests.ops.test_non_local import peak_mib

torch.set_num_threads(1)
KINDS = {"dnl": "DNLHead", "sep": "DepthwiseSeparableFCNHead"}
BASE = {
    "in_channels": 6, "channels": 4, "num_classes": 3, "dropout_ratio": 0.0,
    "norm_cfg": {"type": "BN"},
}  # fmt: skip


@cache
def golden():
    return torch.load(rec.GOLDEN / "relatives.pt")


@each_case("memory_efficient", [True, False])
@each_case("mode", ["eval", "train"])
@each_case("name", sorted(set(golden()) - {"cascade"}))
def test_heads_give_the_recorded_outputs_and_gradients(name, mode, memory_efficient):
    kind, settings = name.split("|")
    head = MODELS.build({"type": KINDS[kind], **BASE, **ast.literal_eval(settings)})
    recorded = golden()[name]
    assert list(head.state_dict()) == list(recorded["state_dict"])
    head.load_state_dict(recorded["state_dict"])
    head.train(mode == "train")
    if kind == "dnl":
        head.dnl_block.memory_efficient = memory_efficient
    x, want = recorded["x"].clone().requires_grad_(), recorded[mode]
    y = head([x])
    rec.assert_close(y, want["y"], 5e-6)
    if "grad_out" not in want:  # mmsegmentation cannot train this mode
        return
    parameters = dict(head.named_parameters())
    grads = torch.autograd.grad((y * want["grad_out"]).sum(), [x, *parameters.values()])
    rec.assert_close(grads[0], want["dx"], 2e-5)
    largest = max(grad.abs().max() for grad in want["param_grads"].values())
    for key, grad in zip(parameters, grads[1:], strict=True):
        assert (grad - want["param_grads"][key]).abs().max() <= 2e-5 * largest, key


def test_a_dnl_head_is_an_nl_head_that_starts_as_the_identity():
    head = DNLHead(**BASE)
    assert isinstance(head, NLHead)
    assert not hasattr(head, "nl_block")
    head.init_weights()
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(head.eval().dnl_block(x), x)


@each_case("mode", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
def test_the_disentangled_block_is_the_formula(mode):
    block = DisentangledNonLocal2d(4, mode=mode, temperature=0.5, zeros_init=False, std=0.3)
    block, x = block.double(), torch.randn(2, 4, 3, 5, dtype=torch.float64)
    rows = x.flatten(2).mT
    g, theta, phi = (
        rows if mode == "gaussian" and part is not block.g
        else rows @ part.conv.weight.flatten(1).T + part.conv.bias
        for part in (block.g, block.theta, block.phi)
    )  # fmt: skip
    theta, phi = theta - theta.mean(1, keepdim=True), phi - phi.mean(1, keepdim=True)
    out = torch.zeros_like(g)
    unary = (rows @ block.conv_mask.weight.flatten(1).T + block.conv_mask.bias).softmax(1)
    for n in range(2):
        for i in range(15):
            if mode == "concatenation":
                pairs = torch.cat([theta[n, i].expand(15, -1), phi[n]], dim=1)
                weight = (pairs @ block.concat_project.conv.weight.flatten()).relu() / 15
            else:
                weight = phi[n] @ theta[n, i]
            if mode == "embedded_gaussian":
                weight = (weight / 2**0.5 / 0.5).softmax(0)
            elif mode == "gaussian":
                weight = weight.softmax(0)
            elif mode == "dot_product":
                weight = weight / 15
            out[n, i] = ((weight + unary[n, :, 0])[:, None] * g[n]).sum(0)
    conv = block.conv_out.conv
    want = x + (out @ conv.weight.flatten(1).T + conv.bias).mT.view_as(x)
    for memory_efficient in (True, False):
        block.memory_efficient = memory_efficient
        rec.assert_close(block(x), want, 1e-12)


@pytest.mark.parametrize("mode", ["embedded_gaussian", "dot_product", "concatenation"])
def test_memory_of_the_disentangled_block_is_linear_in_the_positions(mode):
    block = DisentangledNonLocal2d(16, mode=mode)
    mib = {side: peak_mib(block, torch.randn(1, 16, side, side)) for side in (32, 64)}
    assert mib[64] <= 4.4 * mib[32] + 3, "4 times the positions, and one tile of 2 MiB"
    block.memory_efficient = False
    assert peak_mib(block, torch.randn(1, 16, 64, 64)) > 64 > 4 * mib[64]


def test_a_child_of_the_disentangled_block_is_asked_for_its_weights():
    class Uniform(DisentangledNonLocal2d):
        def embedded_gaussian(self, theta_x, phi_x):
            return torch.full((len(theta_x), theta_x.shape[1], phi_x.shape[2]), 1 / 12)

    block, x = Uniform(4, zeros_init=False, std=0.3), torch.randn(1, 4, 3, 4)
    value = F.conv2d(x, block.g.conv.weight, block.g.conv.bias)
    unary = (block.conv_mask(x).flatten(2).softmax(2) * value.flatten(2)).sum(2)
    want = x + block.conv_out(value.mean((2, 3), keepdim=True) + unary[..., None, None])
    rec.assert_close(block(x), want, 1e-5)
    with pytest.raises(ConfigError, match=r"concatenation: is never called; write forward"):
        type("Mine", (DisentangledNonLocal2d,), {"concatenation": lambda self, a, b: a})


@MODELS.register_module()
class SecondHead(BaseCascadeDecodeHead):
    """The head that the cascade was recorded with."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fuse = ConvModule(
            self.in_channels + self.num_classes, self.channels, 3, padding=1,
            norm_cfg=self.norm_cfg, act_cfg=self.act_cfg,
        )  # fmt: skip

    def forward(self, inputs, prev_output):
        x = self._transform_inputs(inputs)
        before = resize(prev_output, x.shape[2:], align_corners=False)
        return self.cls_seg(self.fuse(torch.cat([x, before], 1)))


def cascade(**changes):
    model = MODELS.build({**golden()["cascade"]["cfg"], **changes})
    model.load_state_dict(golden()["cascade"]["state_dict"])
    return model


def test_a_cascade_trains_as_recorded():
    want, model = golden()["cascade"], cascade().train()
    samples = rec.label_samples(want["label"])
    batch = model.data_preprocessor({"inputs": list(want["image"]), "data_samples": samples}, True)
    losses = model(**batch, mode="loss")
    assert list(losses) == list(want["losses"])
    for name, value in losses.items():
        rec.assert_close(value, want["losses"][name])
    model.parse_losses(losses)[0].backward()
    overall = sum(norm**2 for norm in want["grad_norm"].values()) ** 0.5
    for name, parameter in model.named_parameters():
        norm = want["grad_norm"][name]
        assert abs(parameter.grad.norm() - norm) < 2e-4 * norm + 1e-6 * overall, name


def test_a_cascade_predicts_as_recorded_with_and_without_the_short_cut(monkeypatch):
    want, model = golden()["cascade"], cascade().eval()
    image = model.data_preprocessor({"inputs": list(want["image"])}, False)["inputs"]
    with torch.no_grad():
        rec.assert_close(model(image), want["tensor"])
        rec.assert_close(model.inference(image)[..., ::3, ::3], want["logits"])
        samples = model.predict(image)
        model.test_cfg.mode = "slide"
        model.test_cfg.crop_size, model.test_cfg.stride = (24, 24), (16, 16)
        rec.assert_close(model.inference(image)[..., ::3, ::3], want["slide"])
        windows = model.predict(image)
    for i in range(2):
        rec.assert_close(samples[i].seg_logits.data[:, ::3, ::3], want["logits"][i])
        rec.assert_close(windows[i].seg_logits.data[:, ::3, ::3], want["slide"][i])


def test_a_cascade_takes_views_and_its_last_head_may_resize_by_itself():
    want, model = golden()["cascade"], cascade().eval()
    views = {"inputs": [[want["image"][0]]] * 2, "data_samples": [[SegDataSample()]] * 2}
    tta = MODELS.build({"type": "SegTTAModel", "module": model})
    (merged,) = tta.test_step(views)
    last = model.decode_head[-1]
    plain = last.predict_by_feat
    last.predict_by_feat = lambda *args: plain(*args).roll(1, dims=1)
    (rolled,) = tta.test_step(views)
    assert (rolled.pred_sem_seg.data == (merged.pred_sem_seg.data + 1) % 3).float().mean() > 0.999


def test_a_cascade_needs_a_head_for_every_stage():
    with pytest.raises(ConfigError, match="3 heads for num_stages=2"):
        cascade(num_stages=2)
