"""A zoo of three small networks, trained on drawn data, of which one is damaged and has to fail."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nlseg.commands.train import main as nlseg_train
from nlseg.commands.zoo import main as nlseg_zoo
from nlseg.config.published import find_config
from nlseg.files import sha256_of
from nlseg.run.logs import read_scalars
from nlseg.weights.sssegmentation import _PREFIXES as PREFIXES
from nlseg.zoo.receipt import read_receipt
from tests import tiny_data

BASE = "fcn_r18-d8_1xb4-20k_camvid-360x480"
HEADS = ("NLHead", "GCHead", "FCNHead")
NUM_TEST = 4
CONFIG = """_base_ = {base!r}
model = dict(
    pretrained=None, data_preprocessor=dict(size=(64, 96)),
    backbone=dict(base_channels=8, stem_channels=8),
    decode_head=dict(type={head!r}, in_channels=64, channels=16),
    auxiliary_head=dict(in_channels=32, channels=8))
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
load = dict(num_workers=0, persistent_workers=False)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.01))
data_root = {root!r}
train_dataloader = dict(
    batch_size=6, dataset=dict(data_root=data_root, pipeline=test_pipeline), **load)
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline), **load)
test_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=test_pipeline,
    data_prefix=dict(img_path='images/val', seg_map_path='annotations/val')), **load)
"""


def draw(root: Path) -> None:
    for split, seeds in (("train", range(100, 118)), ("val", range(NUM_TEST))):
        for seed in seeds:
            image, label = tiny_data.picture(seed)
            tiny_data.write(root / f"images/{split}/{seed}.jpg", image)
            tiny_data.write(root / f"annotations/{split}/{seed}.png", label)


def train(folder: Path, head: str) -> float:
    """Train a network and return the mIoU that its last validation logged."""
    config = folder / f"{head}.py"
    config.write_text(
        CONFIG.format(base=str(find_config(BASE)), head=head, root=str(folder / "data"))
    )
    work = folder / head
    nlseg_train(
        [str(config), "--work-dir", str(work), "--set", "max_iters=40",
         "train_cfg.val_interval=40", "default_hooks.checkpoint.interval=40",
         "default_hooks.logger.tensorboard=False", "randomness.seed=0"]
    )  # fmt: skip
    shutil.copy(work / "iter_40.pth", folder / f"{head}.pth")
    (last,) = [line for line in read_scalars(work / "scalars.jsonl") if line["kind"] == "val"]
    return float(last["mIoU"])


def exchange_classes(path: Path) -> None:
    """Give the weights of the last layer the order 1, 2, ..., 10, 0."""
    content = torch.load(path, weights_only=True)
    for key, value in content["state_dict"].items():
        if key.startswith("decode_head.conv_seg"):
            content["state_dict"][key] = value.roll(1, 0)
    torch.save(content, path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    draw(folder / "data")
    models: dict[str, Any] = {}
    for head in HEADS:
        models[head] = {
            "group": "drawn", "data": "blocks", "config": f"{head}.py",
            "miou": train(folder, head), "weights": f"{head}.pth",
        }  # fmt: skip
    exchange_classes(folder / "FCNHead.pth")
    for head in HEADS:
        models[head]["sha256"] = sha256_of(folder / f"{head}.pth")[:12]
    write(folder, models)
    return folder


def write(folder: Path, models: dict[str, Any], **data: Any) -> None:
    blocks = {"title": "blocks", "images": NUM_TEST, "obtain": "tests/tiny_data.py", **data}
    content = {"groups": {"drawn": {"title": "Drawn"}}, "data": {"blocks": blocks}}
    (folder / "zoo.yml").write_text(yaml.safe_dump({**content, "models": models}, sort_keys=False))


@pytest.fixture
def zoo(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the zoo that a test may change, in the current folder."""
    for file in trained.glob("*.*"):
        if file.is_file():
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def verify(*words: str) -> int:
    return nlseg_zoo(["verify", *words, "--zoo", "zoo.yml", "--out", "out"])


def models_of(zoo: Path) -> dict[str, Any]:
    models: dict[str, Any] = yaml.safe_load((zoo / "zoo.yml").read_text())["models"]
    return models


@pytest.mark.slow
def test_two_pass_and_the_damaged_one_fails_and_all_goes_on_where_it_stopped(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = models_of(zoo)
    assert all(model["miou"] > 30 for model in models.values())  # they have learned something
    assert verify("NLHead") == 0
    assert " pass" in capsys.readouterr().out

    assert verify("--all") == 1
    said = capsys.readouterr().out
    assert said.count("receipt of an earlier run") == 1  # that of NLHead
    lines = [
        line.split() for line in said.splitlines() if line.split()[-1:] in (["pass"], ["fail"])
    ]
    assert [(line[0], line[-1]) for line in lines] == [
        ("NLHead", "pass"), ("GCHead", "pass"), ("FCNHead", "fail"),
    ]  # fmt: skip
    assert all(float(line[2]) == models[line[0]]["miou"] for line in lines[:2])
    assert "classes in another order would look like this: sky -> building, " in said

    receipts = sorted(zoo.glob("out/*/*/receipt.json"))
    assert len(receipts) == 3
    shutil.rmtree(zoo / "out/GCHead")  # as if it had been stopped there
    assert verify("--all") == 1
    assert capsys.readouterr().out.count("receipt of an earlier run") == 2
    assert len(list(zoo.glob("out/*/*/receipt.json"))) == 3


def test_a_limit_is_partial_and_fills_nothing(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("FCNHead", "--limit", "2") == 0  # the damaged one: no verdict
    said = capsys.readouterr().out
    assert "fills no row" in said
    (path,) = zoo.glob("out/FCNHead/*/receipt.json")
    receipt = read_receipt(path)
    assert receipt.is_partial
    assert receipt.images.names == ("0.jpg", "3.jpg")
    models = {"FCNHead": models_of(zoo)["FCNHead"]}
    write(zoo, models)
    assert verify("--all") == 1  # the part was not taken for the whole
    assert "earlier run" not in capsys.readouterr().out


@pytest.mark.parametrize("lacking", ["data", "weights"])
def test_what_is_missing_is_told_and_nothing_is_written(
    zoo: Path, capsys: pytest.CaptureFixture[str], lacking: str
) -> None:
    words = ["--data-root", "nowhere"] if lacking == "data" else []
    if lacking == "weights":
        (zoo / "NLHead.pth").unlink()
    before = sorted(zoo.rglob("*"))
    assert verify("NLHead", *words) == 3
    said = capsys.readouterr().out
    if lacking == "data":
        assert "blocks, 4 images, from tests/tiny_data.py" in said
        assert "into nowhere/images/val, nowhere/annotations/val" in said
    else:
        assert "as NLHead.pth; or give --checkpoint FILE" in said
    assert sorted(zoo.rglob("*")) == before


def test_the_remedies_work(zoo: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained / "data", zoo / "moved")
    (zoo / "NLHead.pth").rename(zoo / "elsewhere.pth")
    assert verify("NLHead", "--data-root", "moved", "--checkpoint", "elsewhere.pth") == 0
    assert " pass" in capsys.readouterr().out


def test_a_file_of_sssegmentation_is_renamed_on_the_way(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load("NLHead.pth", weights_only=True)["state_dict"]
    theirs = {}
    for key, value in content.items():
        ours, their = next((o, t) for t, o in PREFIXES.items() if key.startswith(f"{o}."))
        theirs[their + key.removeprefix(ours)] = value
    torch.save({"model": theirs}, "theirs.pth")
    model = {**models_of(zoo)["NLHead"], "weights": "theirs.pth", "sha256": ""}
    write(zoo, {"NLHead": model})
    assert verify("--all") == 0
    assert " pass" in capsys.readouterr().out
    assert verify("--all") == 0
    assert "receipt of an earlier run" in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit, match="2"):
        verify(*words)
    return capsys.readouterr().err


def test_other_weights_and_other_data_are_refused(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "its SHA-256 begins" in refused(capsys, "NLHead", "--checkpoint", "GCHead.pth")
    assert "nothing is published for several scales" in refused(capsys, "NLHead", "--tta")
    models = models_of(zoo)
    write(zoo, models, images=5)
    assert "4 images are there, of 5" in refused(capsys, "NLHead")
    write(zoo, models, labels_sha256="0" * 64)
    assert "the labels are not those that the score is of" in refused(capsys, "NLHead")


def test_the_digest_of_the_labels_that_is_told_is_accepted(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("NLHead") == 0
    (path,) = zoo.glob("out/NLHead/*/receipt.json")
    digest = read_receipt(path).facts["data"]["labels_sha256"]
    write(zoo, models_of(zoo), labels_sha256=digest)
    assert verify("NLHead") == 0


def test_get_and_list(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nlseg_zoo(["get", "NLHead", "--zoo", "zoo.yml"]) == 0
    assert capsys.readouterr().out.strip() == "NLHead.pth"
    shutil.copy("GCHead.pth", "NLHead.pth")
    with pytest.raises(SystemExit, match="2"):
        nlseg_zoo(["get", "NLHead", "--zoo", "zoo.yml"])
    assert "is not the published file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        nlseg_zoo(["get"])
    assert nlseg_zoo(["list"]) == 0
    assert "gcnet_r101-d8_4xb4-160k_ade20k-512x512" in capsys.readouterr().out
