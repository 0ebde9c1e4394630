"""OpenMMLab's files: their names and addresses, and their layouts of both generations."""

import gzip
import json
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import Tensor

from nlseg.api import init_model
from nlseg.config import load_config
from nlseg.config.published import published_configs
from nlseg.errors import CheckpointError
from nlseg.models.resnet import ResNetV1c
from nlseg.registry import MODELS
from nlseg.weights import downloads
from nlseg.weights.fields import meta_in
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import weights_in
from nlseg.weights.published import ADDRESSES, NAMES
from tests import tiny_data
from tests.cases import each_case
from tests.models import recorded as rec
from tests.run import prepared

CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light")
PALETTE = [[128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156], [1, 2, 3], [4, 5, 6],
           [7, 8, 9]]  # fmt: skip


def write_0x(state: dict[str, Tensor], path: Path) -> None:
    """Write what mmsegmentation 0.x and PyTorch before 1.6 wrote, as published in 2020."""
    meta = {
        "env_info": "sys.platform: linux\nPython: 3.7.4", "seed": 0, "exp_name": path.stem,
        "mmseg_version": "0.5.0+ca1c2b9", "mmcv_version": "0.5.9", "time": "Fri Jun  5 2020",
        "config": "norm_cfg = dict(type='SyncBN', requires_grad=True)\nmodel = dict()\n",
        "CLASSES": CLASSES, "PALETTE": PALETTE, "epoch": 108, "iter": 40000, "hook_msgs": {},
    }  # fmt: skip
    torch.save(
        {"meta": meta, "state_dict": OrderedDict(state)}, path,
        _use_new_zipfile_serialization=False,
    )  # fmt: skip


def write_1x(state: dict[str, Tensor], path: Path) -> None:
    """Write what mmengine 0.10 writes: histories, numpy numbers, a config object."""
    buffer = HistoryBuffer(np.linspace(2.0, 0.5, 40), np.ones(40))
    meta = {
        "epoch": 0, "iter": 40000, "cfg": "default_scope = 'mmseg'\n", "seed": np.int64(1234),
        "dataset_meta": {"classes": CLASSES, "palette": PALETTE, "label_map": None,
                         "reduce_zero_label": False},
        "experiment_name": path.stem, "time": "20231101_120000", "mmengine_version": "0.10.7",
        "hook_msgs": {"last_ckpt": "/work_dirs/iter_40000.pth", "best_score": np.float64(78.24)},
        "config": ConfigDict(model={"type": "EncoderDecoder"}),
    }  # fmt: skip
    message_hub = {
        "log_scalars": {"train/loss": buffer, "train/lr": HistoryBuffer([0.01], [1])},
        "runtime_info": {"iter": 39999, "max_iters": 40000, "loop_stage": "train",
                         "best": np.float32(0.78), "per_class": np.arange(19.0)},
        "resumed_keys": {"train/loss": True},
    }  # fmt: skip
    content = {"meta": meta, "state_dict": OrderedDict(state), "message_hub": message_hub}
    torch.save(content, path)


WRITERS = {"0.x": write_0x, "1.x": write_1x}


def test_all_32_rows_have_a_config_an_address_and_both_names() -> None:
    assert len(ADDRESSES) == len(set(ADDRESSES.values())) == 32
    assert set(ADDRESSES) <= set(published_configs())
    assert len(NAMES) == 64
    for name, address in ADDRESSES.items():
        method, depth, crop = re.match(r"(nonlocal|gcnet)_(r\d+)-d8_.*-(\d+x\d+)$", name).groups()
        assert f"/{method}_{depth}-d8_{crop}_" in address
        assert downloads.hash_in_name(address.split("/")[-1]) == address[-12:-4]
        for source in (name, f"open-mmlab://{name}", f"mmseg://{name}"):
            assert downloads.address_of(source) == address
    assert ADDRESSES["gcnet_r101-d8_4xb4-160k_ade20k-512x512"] == (
        "https://download.openmmlab.com/mmsegmentation/v0.5/gcnet/gcnet_r101-d8_512x512_160k_ade20k/"
        "gcnet_r101-d8_512x512_160k_ade20k_20200615_225406-615528d7.pth"
    )
    assert NAMES["nonlocal_r50-d8_769x769_80k_cityscapes"] == (
        "nonlocal_r50-d8_4xb2-80k_cityscapes-769x769"
    )


@each_case("depth", [18, 50, 101])
def test_backbones_are_found_by_name(depth: int) -> None:
    address = downloads.address_of(f"open-mmlab://resnet{depth}_v1c")
    assert re.search(rf"^https://.*/resnet{depth}_v1c-[0-9a-f]{{8}}\.pth$", address)


def test_a_misspelt_name_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="did you mean open-mmlab://gcnet_r50-d8_512x512_20k"):
        read_checkpoint("open-mmlab://gcnet_r50-d8_512x512_20k_voc")
    with pytest.raises(CheckpointError, match="is not there; did you mean the published gcnet_r50"):
        read_checkpoint("gcnet_r50-d8_4xb4-20k_voc12aug-512x51")


def test_a_published_name_is_fetched_with_its_hash_and_a_file_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "gcnet_r50-d8_512x512_20k_voc12aug"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / ADDRESSES[NAMES[name]].split("/")[-1]
    cached.parent.mkdir()
    write_0x({"a.weight": torch.ones(2)}, cached)
    with pytest.raises(CheckpointError, match="its name ends in 3cbfdab1"):
        read_checkpoint(name)
    monkeypatch.chdir(tmp_path)
    write_1x({"a.weight": torch.ones(2)}, tmp_path / name)
    assert read_checkpoint(name)["meta"]["iter"] == 40000


@each_case("layout", WRITERS)
@each_case("kind", rec.KINDS)
def test_both_layouts_give_the_recorded_network(tmp_path: Path, layout: str, kind: str) -> None:
    path = tmp_path / "model.pth"
    WRITERS[layout](rec.weights(kind), path)
    content = read_checkpoint(path)
    read = weights_in(content, "f")
    assert list(read) == list(rec.weights(kind))
    for name, weight in rec.weights(kind).items():
        assert torch.equal(read[name], weight)
        assert read[name].dtype == weight.dtype
    meta = meta_in(content)
    assert (tuple(meta["classes"]), meta["palette"]) == (CLASSES, PALETTE)


def test_numpy_numbers_of_a_published_file_become_plain_ones(tmp_path: Path) -> None:
    write_1x({"a.weight": torch.ones(2)}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert content["meta"]["hook_msgs"]["best_score"] == 78.24
    assert type(content["meta"]["seed"]) is int
    info = content["message_hub"]["runtime_info"]
    assert info["per_class"].tolist() == list(range(19))
    assert abs(info["best"] - 0.78) < 1e-7
    assert repr(content["message_hub"]["log_scalars"]["train/loss"]) == (
        "<not loaded: mmengine.logging.history_buffer.HistoryBuffer>"
    )


STATES = json.loads(gzip.decompress((rec.GOLDEN / "state_dicts.json.gz").read_bytes()))


@pytest.mark.slow
def test_a_file_of_full_size_loads_strictly(tmp_path: Path) -> None:
    name = "nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024"
    state = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, shape, dtype, *_ in STATES[f"nonlocal_net/{name}"]["keys"]
    }
    state["decode_head.conv_seg.bias"] += 3
    write_0x(state, tmp_path / "a.pth")
    model = init_model(name, tmp_path / "a.pth", device="cpu")
    assert (model.decode_head.conv_seg.bias == 3).all()
    assert model.backbone.layer4[-1].conv3.weight.sum() == 0
    assert tuple(model.dataset_meta["classes"]) == CLASSES


def test_a_published_backbone_starts_ours(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    theirs = {
        **ResNetV1c(18).state_dict(), "fc.weight": torch.ones(3, 512), "fc.bias": torch.ones(3),
    }  # fmt: skip
    theirs["layer4.1.bn2.weight"].fill_(7)
    for writer in (write_0x, write_1x):
        writer(theirs, tmp_path / "resnet18_v1c.pth")
        backbone = ResNetV1c(18, pretrained=str(tmp_path / "resnet18_v1c.pth"))
        backbone.init_weights()
        assert (backbone.layer4[1].bn2.weight == 7).all()
        assert (backbone.layer4[0].bn2.weight == 1).all()  # not the zero of a fresh start


CONFIG = str(
    Path(__file__).parents[2] / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"
)
SMALL = [
    "data_root=data", "model.pretrained=None", "model.backbone.stem_channels=8",
    "model.backbone.base_channels=4", "model.decode_head.in_channels=32",
    "model.decode_head.channels=8", "model.auxiliary_head.in_channels=16",
    "model.auxiliary_head.channels=8", "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
]  # fmt: skip


def _bad_files(folder: Path) -> dict[str, str]:
    """Write files that people give by mistake; return what is said of each."""
    state: dict[str, Tensor] = MODELS.build(load_config(CONFIG, SMALL).model).state_dict()
    write_1x(state, folder / "whole.pth")
    data = (folder / "whole.pth").read_bytes()
    (folder / "truncated.pth").write_bytes(data[: len(data) // 2])
    (folder / "model-0a1b2c3d.pth").write_bytes(data)
    (folder / "page.pth").write_text("<!DOCTYPE html>\n<html><title>404</title></html>")
    (folder / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    optimizer = {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}, "meta": {}}
    torch.save(optimizer, folder / "optimizer.pth")
    nan = {key: value.clone() for key, value in state.items()}
    nan["decode_head.conv_seg.weight"][0] = torch.nan
    torch.save({"state_dict": nan}, folder / "nan.pth")
    other = {key: v[:4] if "conv_seg" in key else v for key, v in state.items()}
    torch.save({"state_dict": other}, folder / "classes.pth")
    torch.save({"state_dict": {**state, "decode_head.conv_seg.bias": None}}, folder / "none.pth")
    theirs = {"model": {"backbone_net.stem.0.weight": torch.ones(1)}}
    torch.save(theirs, folder / "ssseg.pth")
    return {
        "truncated.pth": "its end is missing; copy or download it again",
        "model-0a1b2c3d.pth": "does not match its SHA-256: its name ends in 0a1b2c3d",
        "page.pth": "is a web page, not weights",
        "pointer.pth": "run 'git lfs pull'",
        "optimizer.pth": "holds no weights but the state of an optimizer",
        "nan.pth": "give load_finite=False to use it all the same",
        "classes.pth": "the file is for 4 classes, the model for 19: set num_classes",
        "none.pth": "state_dict.decode_head.conv_seg.bias: is None where a tensor belongs",
        "ssseg.pth": "these are SSSegmentation's names; rename them by",
        "absent.pth": "is not there; in that folder: ",
        "open-mmlab://nothing": "has published no weights of this name",
        "http://example.org/a.pth": "only https:// is fetched",
    }


@pytest.mark.slow
def test_each_mistake_ends_a_test_with_its_cause_and_exit_code_2(tmp_path: Path) -> None:
    expected = _bad_files(tmp_path)
    tiny_data.cityscapes(tmp_path / "data")
    script = (
        "import sys\n"
        "from nlseg.commands.test import main\n"
        "for source in sys.argv[1:]:\n"
        "    try:\n"
        f"        main([{CONFIG!r}, source, '--work-dir', 'work', '--set', *{SMALL!r}])\n"
        "    except SystemExit as end:\n"
        "        print(f'\\n=== {source} {end.code}', file=sys.stderr, flush=True)\n"
    )
    done = prepared.run("-c", script, *expected, cwd=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    *parts, _ = re.split(r"\n=== (.*)\n", done.stderr)
    answers = dict(zip(parts[1::2], parts[::2], strict=True))
    assert list(answers) == [f"{source} 2" for source in expected]
    for source, sentence in expected.items():
        assert sentence in answers[f"{source} 2"], answers[f"{source} 2"]
