"""Networks of timm as backbones: maps, weights, freezing, and what is refused.

They run where timm can be imported, which needs a torchvision of the same build as torch::

    pip install torch torchvision timm && python -m pytest tests/models/test_timm_backbone.py
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from nlseg.commands.main import main
from nlseg.config import load_config
from nlseg.errors import CheckpointError, ConfigError
from nlseg.models import TIMMBackbone
from nlseg.models.timm_backbone import map_facts
from nlseg.plan.dry_run import dry_run, report
from nlseg.registry import MODELS
from tests.models.timm_here import skip_without_timm
from tests.weights.hub_stand_in import HubStandIn

skip_without_timm(module=True)
import timm  # noqa: E402

ROOT = Path(__file__).parents[2]
SWIN = {
    "model_name": "swin_tiny_patch4_window7_224",
    "img_size": 64,
    "timm_args": {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
}
VIT = {"model_name": "test_vit", "img_size": 64, "dynamic_img_size": True, "dynamic_img_pad": True}
CONFIG = f"""
_base_ = '{ROOT}/configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py'
model = dict(
    backbone=dict(_delete_=True, type='TIMMBackbone', pretrained=False, {{backbone}}),
    decode_head=dict(_delete_=True, type='NLHead', in_channels=64, in_index=3, channels=8,
                     num_classes=19, norm_cfg=dict(type='BN')),
    auxiliary_head=dict(in_channels=48, in_index=2, channels=8))
"""
CONVNEXT = "model_name='test_convnext', output_stride=8"


def build(model_name: str, **arguments: Any) -> TIMMBackbone:
    torch.manual_seed(0)
    return TIMMBackbone(model_name, **{"pretrained": False, **arguments}).eval()


def image(channels: int = 3, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("arguments", "strides"),
    [
        ({"model_name": "test_convnext"}, [4, 8, 16, 32]),
        ({"model_name": "test_convnext", "output_stride": 16}, [4, 8, 16, 16]),
        ({"model_name": "test_convnext", "output_stride": 8, "in_channels": 5}, [4, 8, 8, 8]),
        ({"model_name": "test_resnet", "output_stride": 8, "out_indices": (3, 4)}, [8, 8]),
        ({"model_name": "test_resnet", "norm_layer": "BN2d"}, [2, 4, 8, 16, 32]),
        (VIT, [16, 16, 16]),
        (SWIN, [4, 8, 16, 32]),
    ],
)
def test_maps_have_the_channels_and_strides_that_are_told(
    arguments: dict[str, Any], strides: list[int]
) -> None:
    backbone = build(**arguments)
    with torch.no_grad():
        maps = backbone(image(arguments.get("in_channels", 3)))
    assert [64 // each.shape[2] for each in maps] == [64 // each.shape[3] for each in maps]
    assert [64 // each.shape[2] for each in maps] == backbone.maps.strides == strides
    assert [each.shape[1] for each in maps] == backbone.maps.channels
    assert map_facts(arguments | {"type": "TIMMBackbone"}) == backbone.maps


def test_tokens_of_a_transformer_lie_where_their_patches_lay() -> None:
    backbone = build(**VIT, out_indices=(1, 5))
    tokens: list[torch.Tensor] = []
    block = backbone.get_submodule("timm_model.model.blocks.1")
    block.register_forward_hook(lambda _, __, output: tokens.append(output))
    with torch.no_grad():
        first = backbone(image(height=65, width=96))[0]  # 5 x 6 patches, the last row padded
    assert first.shape == (1, 64, 5, 6)
    assert torch.equal(first[0, :, 3, 4], tokens[0][0, 1 + 3 * 6 + 4])  # a class token in front


def test_a_network_with_channels_last_gives_them_first() -> None:
    backbone = build(**SWIN)
    with torch.no_grad():
        theirs = backbone.timm_model(image())
        ours = backbone(image())
    assert theirs[2].shape == (1, 4, 4, 32)
    assert torch.equal(ours[2][0, :, 1, 3], theirs[2][0, 1, 3])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[HubStandIn, Any]]:
    """A Hub with weights of a small ConvNeXt, and the network they belong to."""
    import huggingface_hub

    torch.manual_seed(7)
    whole = timm.create_model("test_convnext").eval()
    name = timm.get_pretrained_cfg("test_convnext").hf_hub_id
    stand_in = HubStandIn({name: {"model.safetensors": save(whole.state_dict())}})
    download = partial(
        huggingface_hub.hf_hub_download, endpoint=stand_in.address, cache_dir=tmp_path / "cache"
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    yield stand_in, whole
    stand_in.stop()


def test_published_weights_are_fetched_when_training_starts_and_not_before(
    hub: tuple[HubStandIn, Any],
) -> None:
    stand_in, whole = hub
    backbone = build("test_convnext", pretrained=True)
    assert stand_in.asked == []
    state = torch.get_rng_state()
    backbone.init_weights()
    assert torch.equal(torch.get_rng_state(), state)
    assert {path.rpartition("/")[2] for path in map(str, stand_in.asked)} == {"model.safetensors"}
    with torch.no_grad():
        ours, theirs = backbone(image())[-1], whole.forward_intermediates(image())[1][-1]
    torch.testing.assert_close(ours, theirs)


def test_weights_for_three_channels_start_a_network_of_six(hub: tuple[HubStandIn, Any]) -> None:
    backbone = build("test_convnext", pretrained=True, in_channels=6, output_stride=8)
    backbone.init_weights()
    stem = backbone.get_parameter("timm_model.stem_0.weight")
    wanted = hub[1].stem[0].weight
    torch.testing.assert_close(stem[:, :3] + stem[:, 3:], wanted)


def test_a_file_starts_it_and_its_positions_are_interpolated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(3)
    whole = timm.create_model("test_vit")
    path = tmp_path / "vit.pth"
    torch.save({"state_dict": whole.state_dict()}, path)
    backbone = build(**VIT, checkpoint_path=str(path))
    backbone.init_weights()
    own, theirs = backbone.get_submodule("timm_model.model"), whole
    assert torch.equal(own.blocks[2].attn.qkv.weight, theirs.blocks[2].attn.qkv.weight)
    assert theirs.pos_embed.shape == (1, 1 + 10 * 10, 64)
    assert own.pos_embed.shape == (1, 1 + 4 * 4, 64)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(3)
    path = tmp_path / "net.pth"
    torch.save(timm.create_model("test_convnext").state_dict(), path)
    backbone = build("test_resnet", checkpoint_path=str(path))
    told = (
        r"net\.pth: 0 of the backbone's \d+ weights came from it; it is not of timm's test_resnet"
    )
    with pytest.raises(CheckpointError, match=told):
        backbone.init_weights()
    torch.save({"conv1.0.weight": torch.zeros(7, 3, 9, 9)}, path)
    with pytest.raises(CheckpointError, match=r"net\.pth: does not fit.*size mismatch.*conv1\.0"):
        backbone.init_weights()


def test_a_network_without_published_weights_says_so() -> None:
    backbone = build("convnext_atto_rms", pretrained=True)
    with pytest.raises(ConfigError, match="set pretrained=False, or give a file"):
        backbone.init_weights()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"model_name": "convnxt_tiny"}, "model_name: timm has no 'convnxt_tiny'; did you mean '"),
        ({"model_name": "test_vit", "output_stride": 8},
         "output_stride: timm's test_vit cannot have 8; without output_stride its last map is 16"),
        ({"model_name": "test_convnext", "output_stride": 7},
         "output_stride: timm's test_convnext cannot have 7; without"),
        ({"model_name": "test_resnet", "out_indices": (2, 9)},
         r"out_indices: \(2, 9\): the maps of test_resnet are 0..4"),
        ({"model_name": "test_vit", "out_indices": (6,)}, "out_indices.*test_vit are 0..5"),
        ({"model_name": "test_resnet", "frozen_stages": 5}, "frozen_stages: 5 is outside -1..4"),
        ({"model_name": "test_vit", "features_only": False}, "features_only: False gives scores"),
        ({"model_name": "hf-hub:owner/name"}, "model_name: 'hf-hub:owner/name' is no name in timm"),
        ({"model_name": "test_vit", "pretrained": True, "init_cfg": {"type": "Pretrained"}},
         "init_cfg: give either pretrained or init_cfg"),
        ({"model_name": "test_vit", "timm_args": {"colour": 3}}, "unexpected keyword.*'colour'"),
    ],
)  # fmt: skip
def test_what_timm_has_not_is_told_in_a_sentence(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        MODELS.build({"type": "TIMMBackbone", "pretrained": False, **arguments})
    assert "\n" not in str(caught.value)


def test_frozen_layers_neither_train_nor_change_their_statistics() -> None:
    backbone = build("test_resnet", frozen_stages=1).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(each.square().mean() for each in backbone(image())).backward()
    optimizer.step()
    now = backbone.state_dict()
    moved = {name.split(".")[1] for name in now if not torch.equal(now[name], before[name])}
    assert moved == {"layer2", "layer3", "layer4"}
    backbone = build("test_resnet", norm_eval=True).train()
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_a_frozen_transformer_keeps_its_positions() -> None:
    backbone = build(**VIT, frozen_stages=2).train()
    trains = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert {name.split(".")[3] for name in trains} == {"3", "4", "5"}  # the later blocks
    assert not backbone.get_submodule("timm_model.model.blocks.2").training
    assert backbone.get_submodule("timm_model.model.blocks.3").training


def test_a_config_is_told_channels_and_strides_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(CONFIG.format(backbone=CONVNEXT).replace("in_channels=64", "in_channels=512"))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    wrong = "model.decode_head.in_channels: 512, but output 3 of the backbone has 64 channels"
    assert f"mine.py:5: {wrong}" in str(caught.value)
    path.write_text(CONFIG.format(backbone="model_name='test_vit', output_stride=8"))
    with pytest.raises(
        ConfigError, match=r"mine\.py:4: model\.backbone\.output_stride: timm's test"
    ):
        load_config(path)
    path.write_text(CONFIG.format(backbone=CONVNEXT + ", drop_path_rate=1.5, colour=3"))
    with pytest.raises(ConfigError, match=r"drop_path_rate: .* in \[0, 1\), given 1\.5") as caught:
        load_config(path)
    assert "TIMMBackbone has no 'colour'\n    it takes model_name" in str(caught.value)
    path.write_text(CONFIG.format(backbone=CONVNEXT) + "model['pretrained'] = 'a.pth'\n")
    with pytest.raises(ConfigError, match=r"model\.pretrained: 'a\.pth' is for another backbone"):
        load_config(path)


def test_the_dry_run_says_what_it_costs_beside_r50(tmp_path: Path) -> None:
    from nlseg.datasets.synthetic import write_street_scenes

    write_street_scenes(tmp_path / "scenes", num_train=4, num_val=1)
    path = tmp_path / "mine.py"
    path.write_text(CONFIG.format(backbone=CONVNEXT))
    settings = [f"data_root={tmp_path / 'scenes'}", "num_workers=0", "batch_size=2"]
    run = dry_run(load_config(path, settings))
    assert run.beside is not None
    assert run.beside.beside is None
    # ResNetV1c-50 to its last map has 23,527,264 weights, whatever the heads
    assert run.beside.parameters[0] > 23_527_264 > 50 * run.parameters[0]
    (line,) = [each for each in report(run).splitlines() if each.startswith("beside R-50")]
    share = run.parameters[0] / run.beside.parameters[0]
    assert line.startswith(f"beside R-50 {share:.2f}x parameters, ")
    assert f"{run.beside.parameters[0] / 1e6:.1f} M" in line


@pytest.mark.slow
def test_a_network_on_a_convnext_becomes_an_onnx_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    path, weights = tmp_path / "mine.py", tmp_path / "mine.pth"
    path.write_text(CONFIG.format(backbone=CONVNEXT))
    torch.manual_seed(0)
    model = MODELS.build(load_config(path).model.to_dict())
    torch.save({"state_dict": model.state_dict(), "meta": {}}, weights)
    sizes = ["--parity-size", "96", "136", "--max-size", "96", "136"]
    out = tmp_path / "mine.onnx"
    code = main(["export", str(path), str(weights), "--format", "onnx", "--out", str(out), *sizes])
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.count("100.0000") >= 5
