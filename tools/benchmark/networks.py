"""Whole networks: training steps, inference, sliding windows, test-time augmentation."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import Tensor, nn

from benchmark import baseline
from benchmark.measure import Work
from benchmark.peer import check_peer, peer_attribute
from benchmark.pixels import noise_labels
from nlseg.models import fuse_conv_bn
from nlseg.ops.resize import Size
from nlseg.registry import MODELS, SCOPE
from nlseg.run.device import compile_network
from nlseg.run.fast import AMPERE, VOLTA, Hardware, find_hardware
from nlseg.structures import SegDataSample

PRECISION = {"bfloat16": "bf16", "float16": "fp16"}
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
BASELINE, PLAIN, BEST, COMPILED, PEER = "baseline", "nlseg", "best", "compiled", "mmseg"
FP16, GRAPHS = "fp16", "graphs"
CHOSEN = (BEST, FP16, COMPILED, GRAPHS)
"""The ways that take the preset's settings."""
Views = list[tuple[Tensor, bool]]
"""Images (3, h, w) uint8, and whether each is flipped."""


@dataclass(frozen=True)
class Network:
    """Which network is measured.

    Args:
        depth: Depth of the ResNet.
        width: Channels of its first stage; 64 is the usual one.
        head: 'NLHead' or 'GCHead'.
        classes: Number of classes.
        test_cfg: The segmentor's ``test_cfg``.
        backend: What compiles where a way compiles, without CUDA graphs; PyTorch's own where None.
    """

    depth: int = 50
    width: int = 64
    head: str = "NLHead"
    classes: int = 19
    test_cfg: tuple[tuple[str, Any], ...] = (("mode", "whole"),)
    backend: str | None = None

    def config(self) -> dict[str, Any]:
        """Return its config, as published for Cityscapes, with plain batch normalisation."""
        norm = {"type": "BN", "requires_grad": True}
        out = self.width * 8 * (4 if self.depth >= 50 else 1)
        head = {"norm_cfg": norm, "num_classes": self.classes}
        return {
            "type": "EncoderDecoder",
            "data_preprocessor": {
                "type": "SegDataPreProcessor",
                "mean": [123.675, 116.28, 103.53],
                "std": [58.395, 57.12, 57.375],
                "bgr_to_rgb": True,
            },
            "backbone": {
                "type": "ResNetV1c",
                "depth": self.depth,
                "base_channels": self.width,
                "stem_channels": self.width,
                "dilations": (1, 1, 2, 4),
                "strides": (1, 2, 1, 1),
                "norm_cfg": norm,
                "contract_dilation": True,
            },
            "decode_head": {
                "type": self.head, "in_channels": out, "in_index": 3, "channels": self.width * 8,
                **head,
            },
            "auxiliary_head": {
                "type": "FCNHead", "in_channels": out // 2, "in_index": 2,
                "channels": self.width * 4, "num_convs": 1, "concat_input": False, **head,
                "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4},
            },
            "test_cfg": dict(self.test_cfg),
        }  # fmt: skip

    def build(self, way: str, device: str) -> Any:
        """Build it with drawn weights; with running statistics as a trained network would have."""
        torch.manual_seed(0)
        if way == PEER:
            check_peer()
            return peer_attribute("registry", "MODELS").build(ConfigDict(self.config())).to(device)
        with DefaultScope.overwrite_default_scope(SCOPE):
            model: Any = MODELS.build(self.config())
        if way == BASELINE:
            baseline.replace_non_local(model.decode_head)
        return model.to(device)


def train(way: str, device: str, *, network: Network, size: Size, batch: int) -> Work:
    """Take a training step: forward, losses, backward, SGD with momentum.

    Args:
        way: 'baseline', 'nlseg', 'mmseg', or one of ``CHOSEN``.
        device: 'cpu' or 'cuda'.
        network: What is trained.
        size: Height and width of the crops.
        batch: Number of crops.
    """
    model, hardware = _ready(network, way, device)
    half = hardware.half if hardware else None
    model.train()
    images = torch.randn(batch, 3, *size, device=device)
    label = noise_labels(network.classes, (batch, *size), device)
    fused = {"fused": True} if device == "cuda" and way in CHOSEN else {}
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, **fused
    )
    scaler = torch.amp.GradScaler(device, enabled=half == "float16")

    def step(images: Tensor, label: Tensor) -> None:
        with _autocast(device, half):
            total = _loss(model, way, images, label)
        scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    small = partial(step, images[:2, :, :128, :128], label[:2, :128, :128])
    return _work(partial(step, images, label), small, way, hardware, model)


def _loss(model: Any, way: str, images: Tensor, label: Tensor) -> Tensor:
    if way == BASELINE:
        return baseline.loss(model, images, label)
    samples = []
    for one in label:
        samples.append(_sample(way, (label.shape[1], label.shape[2])))
        samples[-1].gt_sem_seg = PixelData(data=one.unsqueeze(0))
    total: Tensor = model.parse_losses(model(images, samples, mode="loss"))[0]
    return total


def inference(way: str, device: str, *, network: Network, size: Size) -> Work:
    """Predict the classes of one normalised image, by the network's ``test_cfg``.

    Args:
        way: 'baseline', 'nlseg', 'mmseg', or one of ``CHOSEN``.
        device: 'cpu' or 'cuda'.
        network: What predicts.
        size: Height and width of the image.
    """
    model, hardware = _ready(network, way, device, testing=True)
    half = hardware.half if hardware else None
    model.eval()
    settings = dict(network.test_cfg)

    @torch.no_grad()
    def step(image: Tensor) -> Any:
        size = (image.shape[2], image.shape[3])
        if way == BASELINE:
            if settings["mode"] == "slide":
                logits = baseline.slide_logits(
                    model, image, settings["crop_size"], settings["stride"]
                )
            else:
                logits = baseline.logits_of(model, image)
            return baseline.label_map(logits, size)
        with _autocast(device, half):
            return model(image, [_sample(way, size)], mode="predict")

    image = torch.randn(1, 3, *size, device=device)
    small = partial(step, image[:, :, :128, :256])
    return _work(partial(step, image), small, way, hardware, model)


def augmented(way: str, device: str, *, network: Network, size: Size) -> Work:
    """Predict one image from six scales of it, each flipped and not.

    Args:
        way: 'baseline', 'nlseg', 'best' or 'mmseg'.
        device: 'cpu' or 'cuda'.
        network: What predicts.
        size: Height and width of the image.
    """
    model, hardware = _ready(network, way, device, testing=True)
    half = hardware.half if hardware else None
    model.eval()
    wrapped = model if way == BASELINE else _wrap_for_augmentation(model, way)

    @torch.no_grad()
    def step(views: Views, size: Size) -> Any:
        if way == BASELINE:
            return baseline.augmented(model, views, size)
        samples = [[_sample(way, size, (x.shape[1], x.shape[2]), flip)] for x, flip in views]
        batch = {"inputs": [[image] for image, _ in views], "data_samples": samples}
        with _autocast(device, half):
            return wrapped.test_step(batch)

    small = (64, 128)
    run, warm = partial(step, noise_views(size), size), partial(step, noise_views(small), small)
    return _work(run, warm, way, hardware, model)


def noise_views(size: Size) -> Views:
    """Draw the views of an image: uint8 (3, h, w) and whether it is flipped."""
    views = []
    for ratio in RATIOS:
        shape = (3, int(size[0] * ratio + 0.5), int(size[1] * ratio + 0.5))
        image = torch.randint(256, shape, dtype=torch.uint8)
        views += [(image, False), (image.flip(2), True)]
    return views


def _wrap_for_augmentation(model: nn.Module, way: str) -> Any:
    if way == PEER:
        return peer_attribute("models", "SegTTAModel")(module=model)
    with DefaultScope.overwrite_default_scope(SCOPE):
        return MODELS.build({"type": "SegTTAModel", "module": model})


def _ready(
    network: Network, way: str, device: str, *, testing: bool = False
) -> tuple[Any, Hardware | None]:
    """Build a network, and return the hardware whose best settings it runs in, if it does."""
    model = network.build(way, device)
    torch.manual_seed(1)  # building draws, too, and not in every way the same
    if way not in CHOSEN:
        return model, None
    hardware = find_hardware()
    if way == FP16:
        hardware = dataclasses.replace(hardware, capability=VOLTA)
    model.to(memory_format=torch.channels_last)
    if testing:
        fuse_conv_bn(model)
    if way in (COMPILED, GRAPHS):
        setting = {"mode": "reduce-overhead"} if way == GRAPHS else {}
        compile_network(model, {"backend": network.backend} if network.backend else setting)
    return model, hardware


@contextmanager
def gpu_settings(hardware: Hardware | None, search: bool) -> Iterator[None]:
    """Set what the preset sets on this GPU; the other ways, in turns with it, have PyTorch's.

    Args:
        hardware: The GPU; None, and a CPU, change nothing.
        search: Whether cuDNN tries its algorithms, as in training.
    """
    if hardware is None or hardware.kind != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark = search
    cudnn.allow_tf32 = matmul.allow_tf32 = hardware.capability >= AMPERE
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def _autocast(device: str, half: str | None) -> Any:
    dtype = torch.bfloat16 if half is None else getattr(torch, half)
    return torch.autocast(device, dtype, enabled=half is not None)


def _work(
    run: Callable[[], Any],
    warm: Callable[[], Any],
    way: str,
    hardware: Hardware | None,
    model: nn.Module,
) -> Work:
    half = hardware.half if hardware else None
    precision = "fp32" if half is None else PRECISION[half]
    run, warm = (partial(_in_settings, hardware, model.training, call) for call in (run, warm))
    if way in (COMPILED, GRAPHS):
        return Work(run, run, precision, compiled=model)
    return Work(run, warm, precision)


def _in_settings(hardware: Hardware | None, search: bool, call: Callable[[], Any]) -> Any:
    with gpu_settings(hardware, search):
        return call()


def _sample(way: str, size: Size, shape: Size | None = None, flip: bool = False) -> Any:
    """Make a data sample of an image of some size whose original had another."""
    kind = peer_attribute("structures", "SegDataSample") if way == PEER else SegDataSample
    direction = "horizontal" if flip else None
    meta = {"ori_shape": size, "img_shape": shape or size, "pad_shape": shape or size}
    return kind(metainfo={**meta, "flip": flip, "flip_direction": direction})
