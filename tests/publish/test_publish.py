"""``nlseg publish``: the folder says what the checkpoint says, loads anywhere, tells no more."""

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nlseg.api import inference_model, init_model
from nlseg.commands.main import main
from nlseg.config import load_config
from nlseg.errors import DataError
from nlseg.evaluation.image_counts import CountedImages
from nlseg.evaluation.scores import summarize
from nlseg.publish.folder import publish
from nlseg.weights.files import read_checkpoint
from nlseg.zoo.receipt import (
    digest_of_files,
    digest_of_labels,
    of_classes,
    rounded,
    score_counts,
    write_receipt,
)
from tests.models import recorded as rec
from tests.publish.hub_that_takes import HubThatTakes
from tests.run import prepared
from tests.run.real_processes import environment

ROOT = Path(__file__).parents[2]
NAME = "nonlocal_r18-d8_1xb4-300_synthetic-96x192"
HOME = "/srv/people/ada"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint as a run does: optimizer, resolved config with paths, scores."""
    folder = tmp_path_factory.mktemp("secret-run")
    cfg = load_config(NAME, [f"data_root={HOME}/data", f"work_dir={HOME}/runs"])
    cfg.model.pretrained = f"{HOME}/start.pth"
    torch.manual_seed(0)
    model = init_model(NAME, device="cpu")
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=1.0)
    meta = {
        "cfg": cfg.pretty_text, "iter": 300, "epoch": 1, "host": socket.gethostname(),
        "dataset_meta": {"classes": model.dataset_meta["classes"]},
    }  # fmt: skip
    file = folder / "iter_300.pth"
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
    torch.save({"meta": meta, "state_dict": model.state_dict(), "optimizer": optimizer}, file)
    return file


@pytest.fixture(scope="module")
def published(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "street"
    assert main(["publish", str(checkpoint), "--out", str(out), "--license", "apache-2.0"]) == 0
    return out


def picture() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (64, 96, 3), dtype=np.uint8)


def logits(model: Any) -> torch.Tensor:
    return inference_model(model, picture()).seg_logits.data


def test_the_folder_holds_the_same_network_twice(checkpoint: Path, published: Path) -> None:
    (weights,) = published.glob("*.pth")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.name == f"street-{digest[:8]}.pth"
    names = {"model.safetensors", "config.json", "README.md", "example.jpg", weights.name}
    assert {file.name for file in published.iterdir()} == names
    expected = logits(init_model(NAME, checkpoint, "cpu"))
    for file in (weights, published / "model.safetensors"):
        assert torch.equal(logits(init_model(NAME, file, "cpu")), expected), file
    content = read_checkpoint(weights)
    assert set(content) == {"meta", "state_dict"}
    assert content["meta"]["iter"] == 300
    assert cv2.imread(str(published / "example.jpg")).shape[1] > 1000, "image beside prediction"


def test_config_and_card_say_what_the_hub_needs(published: Path) -> None:
    config = json.loads((published / "config.json").read_text())
    assert config["classes"][:2] == ["road", "sidewalk"]
    assert config["palette"][0] == [128, 64, 128]
    assert config["model"]["data_preprocessor"]["mean"] == [123.675, 116.28, 103.53]
    assert [step["type"] for step in config["test_pipeline"]][:2] == ["LoadImageFromFile", "Resize"]
    assert set(config["versions"]) == {"nlseg", "torch", "mmengine"}
    text = (published / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["library_name"], head["pipeline_tag"]) == ("nlseg", "image-segmentation")
    assert (head["license"], head["datasets"]) == ("apache-2.0", ["cityscapes"])
    assert "model-index" not in head, "no score without a receipt"
    hub = pytest.importorskip("huggingface_hub")
    assert hub.ModelCard(text).data.library_name == "nlseg"


def test_no_file_tells_of_this_machine(published: Path, checkpoint: Path) -> None:
    secrets = [HOME, str(checkpoint.parent), str(Path.cwd()), socket.gethostname(), "secret-run"]
    for file in published.iterdir():
        data = file.read_bytes()
        assert [text for text in secrets if len(text) > 4 and text.encode() in data] == [], file


def test_what_would_tell_of_this_machine_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    content = torch.load(checkpoint)
    content["meta"]["dataset_meta"]["classes"] = [str(tmp_path), *map(str, range(18))]
    torch.save(content, tmp_path / "told.pth")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["publish", "told.pth", "--out", "told"])
    assert "config.json: would hold the folder of the checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "told").exists()


def test_the_folder_loads_in_three_lines_with_the_network_off(
    published: Path, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    cv2.imwrite(str(tmp_path / "photo.png"), picture())
    lines = (published / "README.md").read_text().split("```python\n")[1].split("```")[0]
    lines = lines.replace("path/to/street", str(published)).replace("photo.jpg", "photo.png")
    code = f"{lines}\nimport numpy; numpy.save('label.npy', label); print(model.classes[0])"
    env = environment(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    done = prepared.run("-c", code, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "road"
    expected = inference_model(init_model(NAME, checkpoint, "cpu"), picture()).pred_sem_seg.data[0]
    assert np.array_equal(np.load(tmp_path / "label.npy"), expected)


def test_what_was_loaded_can_be_saved_again(published: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    from nlseg.publish.pretrained import PretrainedSegmentor

    model = PretrainedSegmentor.from_pretrained(published)
    model.save_pretrained(tmp_path / "again")
    again = PretrainedSegmentor.from_pretrained(tmp_path / "again")
    for name, value in model.segmentor.state_dict().items():
        assert torch.equal(again.segmentor.state_dict()[name], value), name
    assert again.classes == model.classes
    assert (tmp_path / "again/README.md").read_text().startswith("---\nlibrary_name: nlseg")
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


def test_weights_that_are_no_numbers_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint)
    content["state_dict"]["backbone.stem.0.weight"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pth")
    with pytest.raises(SystemExit, match="2"):
        main(["publish", str(tmp_path / "nan.pth"), "--out", str(tmp_path / "out")])
    assert "backbone.stem.0.weight" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", rec.KINDS)
def test_names_are_those_that_mmsegmentation_loads_strictly(kind: str, tmp_path: Path) -> None:
    expected = rec.weights(kind)
    config = tmp_path / "tiny.py"
    settings = rec.model_cfg(kind)
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}]
    config.write_text(f"model = {settings!r}\ntest_pipeline = {pipeline!r}\n")
    torch.save({"state_dict": expected}, tmp_path / "tiny.pth")
    words = ["publish", str(tmp_path / "tiny.pth"), "--config", str(config)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    (file,) = (tmp_path / "out").glob("*.pth")
    found = torch.load(file, weights_only=True)["state_dict"]
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def receipt_of(
    weights: Path, folder: Path, classes: list[str], partial: bool = False, absent: int = 0
) -> Path:
    """Write the receipt of a test in which every class, but the last, was found in 3 of 4 pixels.

    Args:
        weights: The checkpoint.
        folder: Gets the receipt.
        classes: Their names.
        partial: Whether it says that it is of a part of the images.
        absent: How many of the last classes occur nowhere.
    """
    count = len(classes)
    there = count - absent
    pairs = [[0, k, k, 3] for k in range(there)] + [
        [0, k, (k + 1) % there, 1] for k in range(there)
    ]
    images = CountedImages(("a.png",), np.array(sorted(pairs)))
    metric = {"names": ["mIoU"], "beta": 1.0, "nan_to_num": None}
    scores = score_counts(torch.from_numpy(images.total(count)), classes, metric)
    facts = {
        "weights": {
            "file": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()
        },
        "classes": classes, "metric": metric, "partial": partial,
        "scores": rounded(summarize(scores), 2), "per_class": of_classes(scores),
        "protocol": {"multi_scale_and_flip": False},
        "data": {
            "images": 1, "files_sha256": digest_of_files(images.names, ("",)),
            "labels_sha256": digest_of_labels(images.names, images.labelled(count)),
        },
    }  # fmt: skip
    write_receipt(folder / "receipt.json", facts, images, ("",))
    return folder / "receipt.json"


def test_an_example_may_have_any_name_and_has_to_be_an_image(
    checkpoint: Path, tmp_path: Path
) -> None:
    photo = tmp_path / os.fsdecode(b"B\xe4ume.png")  # as archives of Windows have them
    Image.fromarray(picture()).save(photo)
    files = publish(checkpoint, tmp_path / "out", example=str(photo))
    assert any(file.suffix == ".jpg" for file in files)
    photo.write_bytes(b"no image")
    for path, why in ((photo, "is no image"), (tmp_path / "gone.png", "No such file")):
        with pytest.raises(DataError, match=why):
            publish(checkpoint, tmp_path / "out2", example=str(path))


def test_a_mean_over_fewer_classes_names_the_others(checkpoint: Path, tmp_path: Path) -> None:
    classes = list(init_model(NAME, device="cpu").dataset_meta["classes"])
    receipt = receipt_of(checkpoint, tmp_path, classes, absent=1)
    words = ["publish", str(checkpoint), "--receipt", str(receipt), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert re.search(rf"mIoU 60\.00 on 1 images \(.*\), without a score of {classes[-1]}\.", text)


def test_a_score_comes_from_a_receipt_of_these_weights_alone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = list(init_model(NAME, device="cpu").dataset_meta["classes"])
    receipt = receipt_of(checkpoint, tmp_path, classes)
    words = ["publish", str(checkpoint), "--receipt", str(receipt)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    head = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mean_iou", "name": "mIoU", "value": 60.0}]  # 3 / 5
    hub = pytest.importorskip("huggingface_hub")
    (seen,) = hub.ModelCard((tmp_path / "out/README.md").read_text()).data.eval_results
    assert (seen.metric_type, seen.metric_value) == ("mean_iou", 60.0)

    receipt.write_text(receipt.read_text().replace("60.0", "61.0"))
    assert refused([*words, "--out", str(tmp_path / "changed")], capsys).count("changed") >= 1
    receipt_of(checkpoint, tmp_path, classes, partial=True)
    assert "a part of the data set" in refused([*words, "--out", str(tmp_path / "part")], capsys)
    receipt_of(receipt, tmp_path, classes)
    assert "is of other weights" in refused([*words, "--out", str(tmp_path / "other")], capsys)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert not Path(words[-1]).exists()
    return capsys.readouterr().err


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubThatTakes]:
    constants = pytest.importorskip("huggingface_hub.constants")
    stand_in = HubThatTakes()
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody_else")
    yield stand_in
    stand_in.stop()


def test_the_folder_is_pushed_when_the_flag_says_so(
    hub: HubThatTakes, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(checkpoint), "--out", str(tmp_path / "quiet")]) == 0
    assert hub.asked == []
    words = ["publish", str(checkpoint), "--out", str(tmp_path / "net"), "--push", "owner/net"]
    assert main(words) == 0
    assert hub.repositories == ["owner/net"]
    written = {file.name: file.read_bytes() for file in (tmp_path / "net").iterdir()}
    assert {name: hub.files[name] for name in written} == written
    assert 'from_pretrained("owner/net")' in written["README.md"].decode()
    assert hub.tokens == {"Bearer hf_of_nobody_else"}, "it is sent, and nowhere else"
    said = capfd.readouterr()
    assert "hf_of_nobody_else" not in said.out + said.err
    assert not [name for name, data in written.items() if b"hf_of_nobody_else" in data]


def test_a_hub_that_is_not_there_leaves_the_folder(
    hub: HubThatTakes, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.stop()
    words = ["publish", str(checkpoint), "--out", str(tmp_path / "net"), "--push", "owner/net"]
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "--push owner/net:" in capsys.readouterr().err
    assert (tmp_path / "net/model.safetensors").is_file()
    with pytest.raises(SystemExit, match="2"):
        main(words[:-2])
    assert "is not empty; give a new folder" in capsys.readouterr().err
