import json
import struct
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import nn

from nlseg.errors import CheckpointError
from nlseg.weights import downloads
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import compare, load_strictly, load_what_fits, weights_in
from nlseg.weights.inert_parts import Inert
from nlseg.weights.safetensors_file import read_safetensors
from tests.cases import each_case


def openmmlab_checkpoint() -> dict[str, Any]:
    """Make what mmengine 0.10 writes: histories, numpy numbers and arrays, a config object."""
    weight = torch.arange(12.0).reshape(3, 4)
    return {
        "meta": {
            "iter": 7, "seed": np.int64(5), "config": ConfigDict(a=1), "mean": np.float64(1.5),
            "dataset_meta": {"palette": np.arange(6, dtype=np.uint8).reshape(2, 3)},
        },
        "state_dict": {"a.weight": weight, "a.view": weight[1:, ::2], "a.half": weight.half(),
                       "a.count": torch.tensor(3)},
        "message_hub": {"log_scalars": {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}},
    }  # fmt: skip


def test_openmmlab_checkpoint_is_read_inertly(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    original = openmmlab_checkpoint()
    torch.save(original, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    content = read_checkpoint(path)
    for name, weight in original["state_dict"].items():
        assert torch.equal(content["state_dict"][name], weight), name
        assert content["state_dict"][name].dtype == weight.dtype
    meta = content["meta"]
    assert (meta["iter"], meta["seed"], meta["mean"]) == (7, 5, 1.5)
    assert type(meta["seed"]) is int
    assert isinstance(meta["config"], Inert)
    assert "ConfigDict" in repr(meta["config"])
    assert isinstance(content["message_hub"]["log_scalars"]["loss"], Inert)


def test_parameters_and_buffers_of_a_module_survive_the_inert_reader(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    torch.save({"state_dict": module.state_dict(), "x": np.float32(1)}, tmp_path / "a.pth")
    other = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    content = read_checkpoint(tmp_path / "a.pth")
    load_strictly(other, weights_in(content, "a"), "a")
    for one, two in zip(module.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "iter_5.pth")
    with pytest.raises(CheckpointError, match=r"iter_6\.pth: is not there; in that folder: iter_5"):
        read_checkpoint(tmp_path / "iter_6.pth")


def write_safetensors(path: Path, header: dict, body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_safetensors_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "n": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
        "e": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [16, 16]},
    }
    write_safetensors(path, header, struct.pack("<ffq", 1.5, -2.0, 7))
    tensors = read_safetensors(path)
    assert tensors["w"].tolist() == [[1.5], [-2.0]]
    assert tensors["n"].item() == 7
    assert tensors["e"].shape == (0, 3)
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], tensors["w"])


@each_case(
    "entry",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 8]},
        {"dtype": "F9", "shape": [2], "data_offsets": [0, 8]},
        {"shape": [2], "data_offsets": [0, 8]},
        "text",
    ],
)
def test_safetensors_that_lies_is_refused(tmp_path: Path, entry: Any) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": entry}, b"\0" * 12)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_safetensors(path)


def test_strict_loading_lists_what_does_not_fit() -> None:
    model = nn.Linear(2, 3)
    weights = {"weight": torch.zeros(3, 5), "extra": torch.zeros(1)}
    assert compare(model, weights) == {
        "missing": ["bias"],
        "unexpected": ["extra"],
        "wrong shape": ["weight: (3, 5) in the file, (3, 2) in the model"],
    }
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=r"f\.pth: does not fit"):
        load_strictly(model, weights, "f.pth")
    assert torch.equal(model.weight, before)


def test_loading_what_fits_reports_and_refuses_nothing_at_all() -> None:
    model = nn.Linear(2, 3)
    report = load_what_fits(model, {"bias": torch.ones(3), "head": torch.ones(1)}, "f.pth")
    assert report.startswith("f.pth: 1 of the model's 2 weights were loaded")
    assert "missing (1):\n    weight" in report
    assert model.bias.tolist() == [1, 1, 1]
    with pytest.raises(CheckpointError, match="no weight fits"):
        load_what_fits(model, {"weight": torch.zeros(9)}, "f.pth")


def test_wrapped_and_bare_state_dicts_are_found() -> None:
    weight = torch.ones(1)
    assert weights_in({"state_dict": {"module.a": weight}}, "f") == {"a": weight}
    assert weights_in({"a": weight}, "f") == {"a": weight}
    # Only a whole first part is taken off.
    assert list(weights_in({"modules.a": weight}, "f")) == ["modules.a"]
    with pytest.raises(CheckpointError, match="holds no weights"):
        weights_in({"meta": {}}, "f")


def test_published_names_become_https_addresses() -> None:
    address = downloads.address_of("open-mmlab://resnet50_v1c")
    assert address.startswith("https://")
    assert address.endswith("resnet50_v1c-2cccc1ad.pth")
    assert downloads.address_of("torchvision://resnet50").startswith("https://download.pytorch.org")
    with pytest.raises(CheckpointError, match="published no weights of this name"):
        downloads.address_of("open-mmlab://resnet50_v9")
    with pytest.raises(CheckpointError, match="only https"):
        downloads.address_of("http://example.org/a.pth")


class Answer:
    """What a server answers."""

    def __init__(self, data: bytes, length: int | None = None) -> None:
        self.data = data
        self.headers = {"Content-Length": str(len(data) if length is None else length)}

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, size: int) -> bytes:
        chunk, self.data = self.data[:size], self.data[size:]
        return chunk


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    state: dict[str, Any] = {"calls": 0}

    def answer(self: Any, address: str, timeout: float) -> Answer:
        state["calls"] += 1
        if "error" in state:
            raise state["error"]
        return Answer(state["data"], state.get("length"))

    monkeypatch.setattr(downloads.urllib.request.OpenerDirector, "open", answer)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return state


SHA = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of b"abc"


def test_download_is_checked_kept_and_not_repeated(server: dict, tmp_path: Path) -> None:
    server["data"] = b"abc"
    for _ in range(2):
        path = downloads.fetch(f"https://example.org/net-{SHA[:8]}.pth")
        assert path.read_bytes() == b"abc"
    assert server["calls"] == 1


@pytest.mark.parametrize(
    ("address", "change", "message"),
    [
        ("https://example.org/net-00000000.pth", {}, "SHA-256 ba78"),
        ("https://example.org/net.pth#sha256=1234", {}, "SHA-256 ba78"),
        ("https://example.org/net.pth", {"length": 9}, "only 3 of 9 bytes arrived"),
        (
            "https://example.org/net.pth",
            {"error": urllib.error.URLError("down")},
            "put the file at",
        ),
    ],
)
def test_bad_download_leaves_nothing(
    server: dict, tmp_path: Path, address: str, change: dict, message: str
) -> None:
    server.update(data=b"abc", **change)
    with pytest.raises(CheckpointError, match=message):
        downloads.fetch(address)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.suffix != ".lock"]


def test_known_hash_in_the_address_is_accepted(server: dict) -> None:
    server["data"] = b"abc"
    assert downloads.fetch(f"https://example.org/net.pth#sha256={SHA}").is_file()
