import copy
import json
import os
import pickle
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from nlseg.api import inference_model, init_model
from nlseg.config import load_config
from nlseg.errors import CheckpointError, ConfigError
from nlseg.registry import MODELS
from nlseg.weights.files import read_checkpoint
from tests.cases import each_case
from tests.faults.hostile import Call
from tests.run import prepared
from tests.run.real_processes import environment
from tests.weights.hub_stand_in import COMMIT, HubStandIn

pytest.importorskip("huggingface_hub")

MODEL: dict[str, Any] = {
    "type": "EncoderDecoder",
    "data_preprocessor": {
        "type": "SegDataPreProcessor", "mean": [127.5, 127.5, 127.5], "std": [64.0, 64.0, 64.0],
        "bgr_to_rgb": True, "pad_val": 0, "seg_pad_val": 255,
    },
    "backbone": {
        "type": "ResNetV1c", "depth": 18, "stem_channels": 8, "base_channels": 4,
        "strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4], "norm_cfg": {"type": "BN"},
    },
    "decode_head": {
        "type": "NLHead", "in_channels": 32, "in_index": 3, "channels": 8, "num_classes": 3,
        "norm_cfg": {"type": "BN"}, "mode": "embedded_gaussian",
    },
}  # fmt: skip
CONFIG = {
    "library_name": "nlseg",
    "versions": {"nlseg": "1.0"},
    "classes": ["road", "sky", "tree"],
    "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "default_scope": "nlseg",
    "model": MODEL,
    "test_pipeline": [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}],
}
TRAP = pickle.dumps({"x": Call(os.system, "touch trap-was-run")})


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = MODELS.build(copy.deepcopy(MODEL)).state_dict()
    return state


def repository(config: Any = CONFIG) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(weights(), {"format": "pt"}),
        "config.py": b"import os\nos.system('touch trap-was-run')\n",
        "pytorch_model.bin": TRAP,
        "model.pth": TRAP,
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    import huggingface_hub

    stand_in = HubStandIn({"owner/name": repository()}, ("main", "v1.0"))
    download = partial(
        huggingface_hub.hf_hub_download, endpoint=stand_in.address, cache_dir=tmp_path / "cache"
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    yield stand_in
    stand_in.stop()


def fetched(hub: HubStandIn) -> set[str]:
    return {line.split("/")[-1] for line in hub.asked if line.startswith("GET /owner")}


def test_a_model_of_the_hub_labels_an_image(hub: HubStandIn) -> None:
    model = init_model("hf://owner/name", device="cpu")
    for name, weight in weights().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert model.dataset_meta["classes"] == ["road", "sky", "tree"]
    assert model.dataset_meta["palette"] == CONFIG["palette"]
    label = inference_model(model, np.zeros((40, 48, 3), np.uint8)).pred_sem_seg.data
    assert label.shape == (1, 40, 48)
    assert fetched(hub) == {"config.json", "model.safetensors"}
    assert not Path("trap-was-run").exists()


def test_weights_and_config_are_sources_of_their_own(hub: HubStandIn) -> None:
    assert set(read_checkpoint("hf://owner/name@v1.0")["state_dict"]) == set(weights())
    assert load_config(f"hf://owner/name@{COMMIT}").model.decode_head.num_classes == 3


def test_three_lines_work_without_a_network_once_it_was_there(
    hub: HubStandIn, tmp_path: Path
) -> None:
    lines = (
        "from nlseg.api import inference_model, init_model\n"
        "model = init_model('hf://owner/name', device='cpu')\n"
        "print(inference_model(model, 'image.png').pred_sem_seg.shape)\n"
    )
    import cv2

    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((32, 40, 3), np.uint8))
    init_model("hf://owner/name", device="cpu")
    hub.stop()
    env = environment(HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "cache"))
    done = prepared.run("-c", lines, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(32, 40)"


@each_case(
    "source, message",
    [
        ("hf://owner/none", "there is no such repository, or it is private"),
        ("hf://owner/name@v9", "has no such revision"),
        ("hf://owner", "is not hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
        ("hf://owner/name/file.py", "is not hf://OWNER/NAME"),
    ],
)
def test_what_is_not_there_is_told(hub: HubStandIn, source: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(source)
    with pytest.raises(ConfigError, match=message):
        load_config(source)


def test_a_repository_of_pickles_is_not_read(hub: HubStandIn) -> None:
    del hub.repositories["owner/name"]["model.safetensors"]
    del hub.repositories["owner/name"]["config.json"]
    with pytest.raises(
        CheckpointError, match=r"has no model\.safetensors; pickles and Python file"
    ):
        read_checkpoint("hf://owner/name")
    with pytest.raises(ConfigError, match=r"has no config\.json; pickles and Python files"):
        load_config("hf://owner/name")
    assert fetched(hub) == set()


def test_a_hub_out_of_reach_is_one_sentence(
    hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # five attempts with pauses in between
    hub.stop()
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: cannot be fetched, and there is"
    ):
        read_checkpoint("hf://owner/name")


def test_weights_that_are_not_what_the_hub_says_are_refused(hub: HubStandIn) -> None:
    data = hub.repositories["owner/name"]["model.safetensors"]
    hub.digests[data] = "0" * 64
    with pytest.raises(CheckpointError, match="does not match its SHA-256; delete it"):
        read_checkpoint("hf://owner/name")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"needs huggingface_hub; pip install 'nlseg\[hub\]'"):
        read_checkpoint("hf://owner/name")


def changed(place: str, value: Any) -> dict[str, Any]:
    config: Any = copy.deepcopy(CONFIG)
    inner, *path = config, *place.split(".")
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("custom_imports", {"imports": ["antigravity"]}, "custom_imports: is refused, a config of"),
        ("_base_", "x.py", "_base_: is refused"),
        ("model._scope_", "os", r"json\.model\._scope_: is refused"),
        ("default_scope", "antigravity", "'antigravity' is not one of nlseg"),
        ("model.type", "os.system", "'os.system' is refused; it is no registered class"),
        ("model.decode_head.type", "builtins.exec", "'builtins.exec' is refused"),
        ("model.decode_head.type", "antigravity", "antigravity"),
        ("model.decode_head.num_convs", 10**9, "1000000000 is more than 100,000"),
        ("model.decode_head.dropout_ratio", "{{$HOME:x}}", "is a template; only plain values"),
        ("model", None, "describes no model of nlseg"),
    ],
)
def test_a_hostile_config_is_refused(hub: HubStandIn, place: str, value: Any, message: str) -> None:
    hub.repositories["owner/name"] = repository(changed(place, value))
    with pytest.raises(ConfigError, match=message):
        init_model("hf://owner/name", device="cpu")
    assert "antigravity" not in sys.modules


def test_a_config_larger_than_its_weights_is_refused_before_it_is_built(hub: HubStandIn) -> None:
    wide = changed("model.decode_head.channels", 90_000)  # 29 GiB in one convolution
    hub.repositories["owner/name"] = repository(wide)
    with pytest.raises(CheckpointError, match=r"conv_seg\.weight: \(3, 8, 1, 1\) in the file"):
        init_model("hf://owner/name", device="cpu")


@pytest.mark.parametrize(
    "data", [b"", b"[1]", b"\xff\xfe", b"[" * 200_000, b"{" + b" " * (5 << 20)]
)
def test_what_is_no_config_is_refused(hub: HubStandIn, data: bytes) -> None:
    hub.repositories["owner/name"]["config.json"] = data
    with pytest.raises(ConfigError, match=r"config\.json: (is no JSON|describes no|has \d+ bytes)"):
        load_config("hf://owner/name")


def test_a_deep_config_is_one_sentence(hub: HubStandIn) -> None:
    text = '{"model": {}, "a":' + '{"a": [' * 400 + "1" + "]}" * 400 + "}"
    hub.repositories["owner/name"]["config.json"] = text.encode()
    with pytest.raises(ConfigError, match=r"config\.json: .*nested"):
        load_config("hf://owner/name")
