"""ResNets of torchvision and timm as backbones; neither is installed here."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.errors import CheckpointError
from nlseg.models.resnet import ResNet, ResNetV1c, ResNetV1d
from nlseg.weights.fitting import load_what_fits
from nlseg.weights.pretrained import PretrainedInit
from nlseg.weights.renames import as_own_names
from nlseg.weights.safetensors_file import write_safetensors
from tests.cases import each_case
from tests.weights.drawn import drawn

RECORDED = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "golden/foreign_resnets.json.gz").read_bytes())
)
NETWORKS = {
    "timm/resnet18d": (ResNetV1d, 18),
    "timm/resnet50c": (ResNetV1c, 50),
    "timm/resnet50": (ResNet, 50),
    "torchvision/resnet18": (ResNet, 18),
}


@each_case("name", NETWORKS)
def test_features_are_those_of_the_other_library(tmp_path: Path, name: str) -> None:
    others = "torchvision" in sys.modules  # a test of another module needed it
    weights = drawn(RECORDED[name]["shapes"])
    path = tmp_path / "net.safetensors"
    write_safetensors(weights, path)
    kind, depth = NETWORKS[name]
    backbone = kind(depth, pretrained=str(path))
    backbone.init_weights()
    backbone.eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = backbone(image)[-1].mean((0, 2, 3))
    # Recorded from timm 1.0.31 and torchvision 0.29.2 with the same weights and image
    torch.testing.assert_close(
        features, torch.tensor(RECORDED[name]["features"]), rtol=1e-4, atol=1e-4
    )
    assert others or "torchvision" not in sys.modules


@each_case("name", NETWORKS)
def test_only_the_classifier_is_left_over(name: str) -> None:
    kind, depth = NETWORKS[name]
    backbone = kind(depth)
    weights = as_own_names(drawn(RECORDED[name]["shapes"]), backbone)
    report = load_what_fits(backbone, weights, "net")
    count = len(backbone.state_dict())
    assert report.splitlines() == [
        f"net: {count} of the model's {count} weights were loaded, of {count + 2} in the file",
        "  unexpected (2):", "    fc.weight", "    fc.bias",
    ]  # fmt: skip


def test_torchvisions_first_files_have_no_counters() -> None:
    weights = {
        key: value
        for key, value in drawn(RECORDED["torchvision/resnet18"]["shapes"]).items()
        if not key.endswith("num_batches_tracked")
    }
    report = load_what_fits(ResNet(18), weights, "net")
    assert "missing" not in report


def test_another_stem_is_told_with_the_type_to_take() -> None:
    plain = drawn(RECORDED["torchvision/resnet18"]["shapes"])
    report = load_what_fits(ResNetV1c(18), plain, "net")
    assert "the stem was not loaded: the file's network has the plain one" in report
    deep: Any = drawn(RECORDED["timm/resnet18d"]["shapes"])
    report = load_what_fits(ResNet(18), as_own_names(deep, ResNet(18)), "net")
    assert "the stem was not loaded: the file's network has the deep one" in report


def test_a_file_of_another_kind_of_network_is_an_error(tmp_path: Path) -> None:
    # a transformer's names, of which one happens to exist
    weights = {f"blocks.{i}.attn.qkv.weight": torch.ones(2) for i in range(24)}
    path = tmp_path / "vit.safetensors"
    write_safetensors({**weights, "bn1.bias": torch.ones(64)}, path)
    with pytest.raises(CheckpointError, match="only 1 of its 25 weights fit the model"):
        PretrainedInit(str(path))(ResNet(18))
