"""The configurations of docs/datasets.md, run as a new user would."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from numpy.random import RandomState
from PIL import Image

from nlseg.datasets.synthetic import write_street_scenes
from nlseg.errors import DataError
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex
from tests.datasets.folders import LOAD, PIPELINE

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
BLOCKS = {
    block.split("\n", 1)[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def from_docs(name: str, pipeline: list[dict[str, Any]] = LOAD, **changes: Any) -> Any:
    """Build the data set of a snippet, by way of a config file."""
    Path("config.py").write_text(f"train_pipeline = {pipeline!r}\n{BLOCKS[name]}")
    config = Config.fromfile("config.py")
    Path("dumped.py").write_text(config.pretty_text)
    config = Config.fromfile("dumped.py")  # it survives being written down by a run
    return DATASETS.build({**config.dataset, **changes})


def save(path: str, array: Any, mode: str | None = None, **options: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    (image.convert(mode) if mode else image).save(path, **options)


def picture(seed: int = 0) -> Any:
    return RandomState(seed).randint(0, 256, (24, 32, 3))


def labels(*classes: int) -> Any:
    return RandomState(1).choice(classes, size=(24, 32))


def assert_trains(name: str) -> None:
    """The same data set through a whole training pipeline."""
    item = from_docs(name, PIPELINE)[SampleIndex(0, 5)]
    assert item["inputs"].shape == (3, 16, 20)


def test_folders() -> None:
    for name in ("b", "a"):
        save(f"data/orchard/images/{name}.jpg", picture())
        save(f"data/orchard/labels/{name}.png", labels(0, 1, 2, 255))
    dataset = from_docs("folders")
    assert len(dataset) == 2
    np.testing.assert_array_equal(dataset[1]["gt_seg_map"], labels(0, 1, 2, 255))
    assert dataset.metainfo["palette"][2] == [220, 40, 40]
    assert_trains("folders")


def test_nested_folders() -> None:
    save("data/survey/photos/2024/may/0001_rgb.png", picture())
    save("data/survey/photos/0002_rgb.png", picture())
    save("data/survey/photos/0002_depth.png", picture())
    save("data/survey/masks/2024/may/0001_mask.png", labels(0, 1))
    save("data/survey/masks/0002_mask.png", labels(1, 2))
    dataset = from_docs("nested folders")
    assert len(dataset) == 2
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], labels(1, 2))
    np.testing.assert_array_equal(dataset[1]["gt_seg_map"], labels(0, 1))
    assert_trains("nested folders")


def test_list_file() -> None:
    for name in ("2024/0001", "0002", "0003"):
        save(f"data/orchard/images/{name}.jpg", picture())
        save(f"data/orchard/labels/{name}.png", labels(0, 1))
    for name, text in (("train", "0003\n2024/0001\n"), ("classes", "ground\ntree\nfruit\n")):
        Path("data/orchard/splits").mkdir(exist_ok=True)
        Path(f"data/orchard/splits/{name}.txt").write_text(text)
    Path("splits").symlink_to("data/orchard/splits")
    dataset = from_docs("list file")
    stems = [Path(dataset.get_data_info(i)["img_path"]).stem for i in range(len(dataset))]
    assert stems == ["0003", "0001"]
    assert dataset.metainfo["classes"] == ("ground", "tree", "fruit")
    assert_trains("list file")


@pytest.mark.parametrize("kind", ["gif", "gif as indices", "png", "1-bit png"])
def test_masks_of_0_and_255(kind: str) -> None:
    mask = labels(0, 255)
    save("data/vessels/images/a.png", picture())
    suffix = ".gif" if kind.startswith("gif") else ".png"
    path = f"data/vessels/masks/a{suffix}"
    if kind == "gif as indices":
        Path(path).parent.mkdir(parents=True)
        image = Image.fromarray((mask // 255).astype(np.uint8), mode="P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(path)
    else:
        save(path, mask, "1" if kind == "1-bit png" else None)
    dataset = from_docs("masks of 0 and 255", seg_map_suffix=suffix)
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], mask // 255)


def test_masks_of_0_and_255_train() -> None:
    save("data/vessels/images/a.png", picture())
    save("data/vessels/masks/a.gif", labels(0, 255))
    assert_trains("masks of 0 and 255")


def test_masks_painted_in_colours() -> None:
    colours = np.array([[128, 64, 128], [70, 70, 70], [0, 0, 0]], np.uint8)
    label = labels(0, 1)
    save("data/aerial/images/a.png", picture())
    save("data/aerial/labels/a.png", colours[label])
    dataset = from_docs("masks painted in colours")
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], label)
    assert_trains("masks painted in colours")
    with_black = label.copy()
    with_black[0, :7] = 2
    save("data/aerial/labels/a.png", colours[with_black])
    with pytest.raises(DataError, match=r"1 colours .* \(0, 0, 0\) on 7 px"):
        dataset[0]
    chosen = from_docs("colours that are ignored")
    expected = np.where(with_black == 2, 255, with_black)
    np.testing.assert_array_equal(chosen[0]["gt_seg_map"], expected)
    # the same mask as a palette file, asked for by its colours
    paletted = Image.fromarray(colours[with_black]).convert("P", palette=Image.Palette.ADAPTIVE)
    paletted.save("data/aerial/labels/a.png")
    np.testing.assert_array_equal(chosen[0]["gt_seg_map"], expected)


def test_a_choice_of_classes() -> None:
    write_street_scenes("data/cityscapes", num_train=1, num_val=0, size=(48, 64))
    (path,) = Path("data/cityscapes").rglob("*TrainIds.png")
    raw = np.array(Image.open(path))
    dataset = from_docs("choice of classes")
    expected = np.full_like(raw, 255)
    expected[raw == 13], expected[raw == 0] = 0, 1
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], expected)
    assert dataset.metainfo["palette"] == [[0, 0, 142], [128, 64, 128]]


def test_joined_data_sets() -> None:
    for folder in ("", "drawn/"):
        for name in ("a", "b"):
            save(f"data/orchard/{folder}images/{name}.jpg", picture())
            save(f"data/orchard/{folder}labels/{name}.png", labels(0, 1))
    dataset = from_docs("joined data sets")
    drawn = [dataset.draw_index(0, number) for number in range(40)]
    assert sum(image < 2 for image in drawn) == 30


def test_bad_files() -> None:
    for name in ("a", "b"):
        save(f"data/orchard/images/{name}.jpg", picture())
        save(f"data/orchard/labels/{name}.png", labels(0, 1))
    Path("data/orchard/labels/b.png").write_bytes(b"")
    dataset = from_docs("bad files", PIPELINE)
    item = dataset[SampleIndex(1, 0)]
    assert item["data_samples"].img_path.endswith("a.jpg")
    assert "b.png" in Path("work_dirs/bad_samples.jsonl").read_text()


def test_mosaics() -> None:
    for name in ("a", "b"):
        save(f"data/orchard/images/{name}.jpg", picture())
        save(f"data/orchard/labels/{name}.png", labels(0, 1))
    dataset = from_docs("mosaics")
    dataset.pipeline.transforms[0].prob = 1.0
    maps = [dataset[SampleIndex(0, n)]["data_samples"].gt_sem_seg.data for n in range(4)]
    assert {label.shape for label in maps} == {(1, 64, 64)}
    assert {int(value) for label in maps for value in label.unique()} == {0, 1, 255}


def test_every_snippet_has_a_test() -> None:
    code = Path(__file__).read_text()
    missing = [name for name in BLOCKS if f'from_docs("{name}"' not in code]
    assert len(BLOCKS) == 10
    assert not missing
