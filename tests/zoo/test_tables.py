"""Tables and index say what the zoo file and its receipts say."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from misc.write_zoo import ROOT, main, outputs
from nlseg.errors import ConfigError
from nlseg.weights.downloads import hash_in_name
from nlseg.weights.published import ADDRESSES
from nlseg.zoo.catalogue import read_zoo
from nlseg.zoo.receipt import Receipt
from nlseg.zoo.tables import fill, group_table, mean_and_interval
from nlseg.zoo.verification import Task, explain
from tests.zoo import scenes


def test_generated_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["docs/zoo.md", "model-index.yml"])
def test_a_changed_digit_of_a_generated_file_is_found(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "model-index.yml", tmp_path)
    path = tmp_path / name
    path.write_text(path.read_text().replace("78.24", "78.25"))
    assert outputs(ROOT)[ROOT / name] != path.read_text()
    if name.startswith("docs"):  # what is between the marks comes from the zoo file
        assert fill(path.read_text(), read_zoo(), ROOT / "docs") == (ROOT / name).read_text()


def test_the_zoo_holds_every_published_model_with_its_address() -> None:
    models = read_zoo().models
    assert {name: models[name].weights for name in ADDRESSES} == ADDRESSES
    assert all(models[name].sha256 == hash_in_name(ADDRESSES[name]) for name in ADDRESSES)
    assert sum(model.group == "sssegmentation" for model in models.values()) == 12
    assert all(model.config_file.is_file() for model in models.values())


def test_older_figures_stand_beside_the_later_ones() -> None:
    page = (ROOT / "docs/zoo.md").read_text()
    (line,) = [line for line in page.splitlines() if "[nonlocal_r101-d8_4xb4-160k_ade20k" in line]
    assert re.search(r"44\.63 \(before [^|]*: 43\.36\) \| 45\.79 \(before [^|]*: 44\.83\)", line)


def test_the_index_is_what_openmmlab_reads() -> None:
    index = yaml.safe_load((ROOT / "model-index.yml").read_text())
    collections = {entry["Name"] for entry in index["Collections"]}
    assert all(model["In Collection"] in collections for model in index["Models"])
    first = index["Models"][0]
    assert first["Results"][0]["Metrics"] == {"mIoU": 78.24}
    assert (ROOT / first["Config"]).is_file()


def test_mean_and_interval_by_hand() -> None:
    # mean 2, deviation 1, t(0.975, 2) = 4.303: 4.303 / sqrt(3) = 2.48
    assert mean_and_interval([1.0, 2.0, 3.0]) == "2.00 ± 2.48"


@pytest.fixture(scope="module")
def receipt(tmp_path_factory: pytest.TempPathFactory) -> Receipt:
    folder = tmp_path_factory.mktemp("tables")
    return scenes.tested(folder, "whole", overrides=scenes.draw(folder))


def zoo_file(folder: Path, **entry: object) -> Path:
    model = {"group": "mine", "data": "drawn", "config": scenes.CONFIG, **entry}
    content = {
        "groups": {"mine": {"title": "Mine"}},
        "data": {"drawn": {"title": "drawn", "images": 5}},
        "models": {"one": model},
    }
    path = folder / "zoo.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_row_is_filled_by_receipts_alone(tmp_path: Path, receipt: Receipt) -> None:
    zoo = read_zoo(zoo_file(tmp_path))
    assert "| not run |" in group_table(zoo, "mine", tmp_path)
    zoo = read_zoo(zoo_file(tmp_path, receipts=[str(receipt.path)]))
    assert f"| {receipt.scores['mIoU']:.2f} ([receipt](" in group_table(zoo, "mine", tmp_path)
    zoo = read_zoo(zoo_file(tmp_path, receipts=[str(receipt.path)] * 2))
    assert f"| {receipt.scores['mIoU']:.2f} ± 0.00 (receipts [1](" in group_table(
        zoo, "mine", tmp_path
    )


def test_classes_have_the_mean_of_the_receipts(tmp_path: Path, receipt: Receipt) -> None:
    zoo = read_zoo(zoo_file(tmp_path, receipts=[str(receipt.path)]))
    page = fill("<!-- zoo: mine-classes -->\n<!-- end of mine-classes -->", zoo, tmp_path)
    iou = receipt.facts["per_class"]["IoU"][2]
    assert f"| building | {iou:.2f} |" in page.splitlines()


def test_classes_stand_beside_their_published_iou(tmp_path: Path, receipt: Receipt) -> None:
    found = receipt.facts["per_class"]["IoU"]
    index, value = next((i, each) for i, each in enumerate(found) if each is not None)
    name = receipt.classes[index]
    zoo = read_zoo(zoo_file(tmp_path, classes={name: value - 5}))
    task = Task(zoo.models["one"], zoo.data["drawn"], False, None, None, None, tmp_path)
    (line,) = [row for row in explain(task, receipt).splitlines() if row.startswith(name)]
    cells = line.removeprefix(name).split()[:3]
    assert [float(cell) for cell in cells] == pytest.approx([value - 5, value, 5.0], abs=0.006)


def test_a_part_fills_no_row(tmp_path: Path, receipt: Receipt) -> None:
    folder = receipt.path.parents[2]
    data = [f"data_root={folder / 'data'}", *scenes.ALONE, "test_dataloader.dataset.indices=2"]
    part = scenes.tested(folder, "part", overrides=data)
    zoo = read_zoo(zoo_file(tmp_path, receipts=[str(part.path)]))
    with pytest.raises(ConfigError, match="a part of the images, which fills no row"):
        group_table(zoo, "mine", tmp_path)


def test_an_unsound_receipt_fills_no_row(tmp_path: Path, receipt: Receipt) -> None:
    shutil.copy(receipt.path.with_suffix(".npz"), tmp_path)
    changed = tmp_path / "receipt.json"
    changed.write_text(receipt.path.read_text().replace('"mIoU": ', '"mIoU": 9'))
    zoo = read_zoo(zoo_file(tmp_path, receipts=["receipt.json"]))
    with pytest.raises(ConfigError, match=r"models\.one: receipt\.json: .* was changed"):
        group_table(zoo, "mine", tmp_path)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"miuo": 3}, "there is no key 'miuo'; did you mean 'miou'?"),
        ({"data": "drwan"}, "there is no 'drwan'; did you mean 'drawn'?"),
    ],
)
def test_a_misspelt_word_is_told(tmp_path: Path, entry: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_zoo(zoo_file(tmp_path, **entry))


def test_a_mark_without_a_group_and_a_name_without_a_model_are_told() -> None:
    with pytest.raises(ConfigError, match="no such group; did you mean 'gcnet'"):
        fill("<!-- zoo: gcnte -->\n<!-- end of gcnte -->", read_zoo(), ROOT)
    with pytest.raises(ConfigError, match="no model of the zoo; did you mean 'gcnet_r50-d8_4xb4"):
        read_zoo().find("gcnet_r50-d8_4xb4-80k_ade20k-512x521")
