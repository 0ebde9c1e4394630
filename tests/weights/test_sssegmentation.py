"""SSSegmentation's files: renamed, refused where they do not fit, equal in what they compute."""

import argparse
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model_converters.sssegmentation import convert, parse_args
from nlseg.api import init_model
from nlseg.config import load_config
from nlseg.config.published import published_configs
from nlseg.errors import CheckpointError, UserError
from nlseg.registry import MODELS
from nlseg.weights.sssegmentation import check_name, rename
from tests.cases import each_case
from tests.weights.drawn import drawn

CONFIGS = sorted(name for name in published_configs() if "e_" in name and "_1xb" in name)
NARROW = [
    "model.backbone.stem_channels=16", "model.backbone.base_channels=8",
    "model.decode_head.in_channels=256", "model.decode_head.channels=16",
    "model.auxiliary_head.in_channels=128", "model.auxiliary_head.channels=16",
]  # fmt: skip
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def shapes_of_theirs(depth: int, classes: int, width: int, channels: int) -> dict[str, list[int]]:
    """List the tensors of SSSegmentation's network, written down from its description."""
    shapes: dict[str, list[int]] = {}

    def conv(name: str, out: int, into: int, size: int, bias: bool = False) -> None:
        shapes[f"{name}.weight"] = [out, into, size, size]
        if bias:
            shapes[f"{name}.bias"] = [out]

    def norm(name: str, out: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = [out]
        shapes[f"{name}.num_batches_tracked"] = []

    stem = 2 * width if width < 64 else 64
    for index, (out, into) in enumerate(
        ((stem // 2, 3), (stem // 2, stem // 2), (stem, stem // 2))
    ):
        conv(f"backbone_net.stem.{3 * index}", out, into, 3)
        norm(f"backbone_net.stem.{3 * index + 1}", out)
    into = stem
    for stage, count in enumerate(BLOCKS[depth]):
        inner = width * 2**stage
        for block in range(count):
            name = f"backbone_net.layer{stage + 1}.{block}"
            for number, (out, source, size) in enumerate(
                ((inner, into, 1), (inner, inner, 3), (4 * inner, inner, 1)), 1
            ):
                conv(f"{name}.conv{number}", out, source, size)
                norm(f"{name}.bn{number}", out)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * inner, into, 1)
                norm(f"{name}.downsample.1", 4 * inner)
            into = 4 * inner
    for name, source in (("conv_before_nl", into), ("conv_after_nl", channels)):
        conv(f"{name}.0", channels, source, 3)
        norm(f"{name}.1", channels)
    for part in ("g", "theta", "phi"):
        conv(f"nl_block.{part}.0", channels // 2, channels, 1, bias=True)
    conv("nl_block.conv_out.0", channels, channels // 2, 1)
    norm("nl_block.conv_out.1", channels)
    for name, source in (("decoder", into + channels), ("auxiliary_decoder", into // 2)):
        conv(f"{name}.0", channels, source, 3)
        norm(f"{name}.1", channels)
        conv(f"{name}.4", classes, channels, 1, bias=True)
    return shapes


def slow_forward(weights: dict[str, Tensor], image: Tensor, depth: int, stride: int) -> Tensor:
    """Compute the decode head's logits layer by layer, in double precision, map stored."""
    w = {name: value.double() for name, value in weights.items()}

    def conv(name: str, x: Tensor, **settings: Any) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **settings)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, gamma, beta = (
            w[f"{name}.{part}"].view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * gamma + beta

    x = image.double()
    for index in range(3):
        x = conv(f"backbone_net.stem.{3 * index}", x, stride=2 if index == 0 else 1, padding=1)
        x = F.relu(norm(f"backbone_net.stem.{3 * index + 1}", x))
    x = F.max_pool2d(x, 3, 2, 1)
    strides, dilations = (
        ((1, 2, 1, 1), (1, 1, 2, 4)) if stride == 8 else ((1, 2, 2, 1), (1, 1, 1, 2))
    )
    for stage, count in enumerate(BLOCKS[depth]):
        for block in range(count):
            name = f"backbone_net.layer{stage + 1}.{block}"
            step = strides[stage] if block == 0 else 1
            hole = dilations[stage]
            if block == 0 and hole > 1:
                hole //= 2  # the first block of a dilated stage
            y = F.relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x)))
            y = conv(f"{name}.conv2", y, stride=step, dilation=hole, padding=hole)
            y = norm(f"{name}.bn3", conv(f"{name}.conv3", F.relu(norm(f"{name}.bn2", y))))
            if block == 0:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride=step))
            x = F.relu(x + y)
    before = F.relu(norm("conv_before_nl.1", conv("conv_before_nl.0", x, padding=1)))
    value, query, key = (
        conv(f"nl_block.{part}.0", before).flatten(2) for part in ("g", "theta", "phi")
    )
    weight = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(query.shape[1]), -1)
    mixed = (value @ weight.transpose(1, 2)).unflatten(2, before.shape[2:])
    block_out = before + norm("nl_block.conv_out.1", conv("nl_block.conv_out.0", mixed))
    after = F.relu(norm("conv_after_nl.1", conv("conv_after_nl.0", block_out, padding=1)))
    both = torch.cat([x, after], 1)
    return conv("decoder.4", F.relu(norm("decoder.1", conv("decoder.0", both, padding=1))))


def converted(theirs: dict[str, Tensor], path: Path, config: str, *more: str) -> Path:
    torch.save({"model": theirs, "cur_epoch": 60}, path)
    target = path.with_name("ours.pth")
    convert(parse_args([str(path), str(target), "--config", config, "--set", *NARROW, *more]))
    return target


def settings(name: str) -> tuple[int, int, int]:
    model = load_config(name).model
    stride = 16 if "-d16_" in name else 8
    return model.backbone.depth, stride, model.decode_head.num_classes


def test_there_are_twelve() -> None:
    assert len(CONFIGS) == 12
    assert {settings(name)[:2] for name in CONFIGS} == {(50, 8), (50, 16), (101, 8), (101, 16)}


@each_case("name", CONFIGS)
def test_logits_are_those_of_a_slow_forward(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    depth, stride, classes = settings(name)
    theirs = drawn(shapes_of_theirs(depth, classes, width=8, channels=16))
    path = tmp_path / f"nonlocalnet_resnet{depth}os{stride}_x.pth"
    target = converted(theirs, path, name)
    assert f"output stride {stride} from the config" in capsys.readouterr().out
    model = init_model(load_config(name, NARROW), target, device="cpu")
    image = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model(image, mode="tensor").double()
    expected = slow_forward(theirs, image, depth, stride)
    assert ours.shape == expected.shape == (1, classes, 48 // stride, 64 // stride)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


@each_case("name", CONFIGS)
def test_every_name_and_shape_of_full_size_has_its_place(name: str) -> None:
    depth, _, classes = settings(name)
    shapes = shapes_of_theirs(depth, classes, width=64, channels=512)
    assert len(shapes) == {50: 370, 101: 676}[depth]
    with torch.device("meta"):
        own = MODELS.build({**load_config(name).model.to_dict(), "pretrained": None}).state_dict()
        renamed = rename({key: torch.empty(shape) for key, shape in shapes.items()}, "f")
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in own.items()}


NAME = "nonlocal_r50-d8_1xb16-130e_ade20k-512x512"


def theirs() -> dict[str, Tensor]:
    return {
        key: torch.zeros(shape)
        for key, shape in shapes_of_theirs(50, 150, width=8, channels=16).items()
    }


@each_case(
    "file, config, message",
    [
        ("nonlocalnet_resnet50os16_ade20k.pth", NAME, "output stride 16, the config 8; equal"),
        ("nonlocalnet_resnet101os8_ade20k.pth", NAME, "says depth 101, the config 50"),
        ("a.pth", NAME.replace("r50", "r101"), r"missing .*\n.*layer3\.6\.conv1\.weight"),
        (
            "a.pth", "nonlocal_r50-d8_1xb16-60e_voc12aug-512x512",
            r"conv_seg\.weight: \(150, 16, 1, 1\) in the file, \(21, 16",
        ),
    ],
)  # fmt: skip
def test_another_config_is_refused_with_the_keys(
    tmp_path: Path, file: str, config: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        converted(theirs(), tmp_path / file, config)
    assert not (tmp_path / "ours.pth").exists()


def test_the_auxiliary_head_of_mmsegmentation_is_refused_with_its_keys(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"auxiliary_head\.convs\.0\.conv\.weight: \(16, 128"):
        converted(theirs(), tmp_path / "a.pth", NAME, "model.auxiliary_head.channels=8")


def test_other_networks_and_strides_are_refused(tmp_path: Path) -> None:
    weights = {**theirs(), "psp_net.0.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"no NonLocal network.*psp_net\.0\.weight"):
        converted(weights, tmp_path / "a.pth", NAME)
    backbone = {"depth": 50, "strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}
    with pytest.raises(CheckpointError, match=r"has strides \(1, 2, 2, 2\)"):
        check_name("a.pth", {"backbone": backbone})


def test_the_file_itself_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": theirs()}, path)
    with pytest.raises(UserError, match="would replace the old one"):
        convert(argparse.Namespace(source=str(path), target=path, config=NAME, overrides=[]))
    with pytest.raises(UserError, match=r"has to end in \.pth"):
        convert(parse_args([str(path), str(tmp_path / "b.onnx"), "--config", NAME]))


def test_the_file_as_it_is_names_the_command(tmp_path: Path) -> None:
    torch.save({"model": theirs()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"tools/model_converters/sssegmentation\.py SRC DST"):
        init_model(load_config(NAME, NARROW), tmp_path / "a.pth", device="cpu")
