"""Listing files, naming classes, and every way in which a data set can be wrong."""

from pathlib import Path
from typing import Any

import mmcv.transforms
import numpy as np
import pytest
from numpy.random import RandomState
from PIL import Image

from nlseg.datasets import (
    ADE20KDataset,
    BaseSegDataset,
    CamVidDataset,
    CityscapesDataset,
    PascalVOCDataset,
    get_classes,
    get_palette,
)
from nlseg.datasets.catalogue import voc_colour
from nlseg.datasets.transforms import Compose
from nlseg.datasets.transforms.pack import final_label
from nlseg.errors import ConfigError, DataError
from nlseg.registry import DATASETS
from tests.cases import each_case
from tests.datasets.folders import LOAD, config, write_pairs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pairs(tmp_path, ["b", "a", "deep/c"])
    return tmp_path


def build(root: Path, **changes: Any) -> Any:
    return DATASETS.build(config(root, **changes))


def stems(dataset: Any) -> list[str]:
    return [Path(dataset.get_data_info(i)["img_path"]).stem for i in range(len(dataset))]


def message(call: Any, error: type[Exception] = DataError) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_folders_are_walked_and_sorted(root: Path) -> None:
    dataset = build(root)
    assert stems(dataset) == ["a", "b", "c"]
    info = dataset.get_data_info(2)
    assert info["img_path"] == str(root / "images/deep/c.png")
    assert info["seg_map_path"] == str(root / "labels/deep/c.png")
    assert (info["label_map"], info["reduce_zero_label"], info["seg_fields"]) == (None, False, [])
    assert info["sample_idx"] == 2


def test_a_list_file_gives_names_and_order(root: Path) -> None:
    (root / "list.txt").write_text("deep/c\n\na\n")
    assert stems(build(root, ann_file="list.txt")) == ["c", "a"]
    assert stems(build(root, ann_file=str(root / "list.txt"))) == ["c", "a"]


@pytest.mark.parametrize("serialize", [True, False])
def test_parts_of_a_set(root: Path, serialize: bool) -> None:
    assert stems(build(root, indices=2, serialize_data=serialize)) == ["a", "b"]
    assert stems(build(root, indices=-1, serialize_data=serialize)) == ["c"]
    assert stems(build(root, indices=[2, 0], serialize_data=serialize)) == ["c", "a"]
    assert stems(build(root, serialize_data=serialize).get_subset([1])) == ["b"]


def test_nothing_is_looked_for_before_the_first_use(root: Path) -> None:
    dataset = build(root, lazy_init=True, data_prefix={"img_path": "nowhere"})
    assert dataset.metainfo["classes"] == ("ground", "tree", "house")
    assert "nowhere" in message(lambda: len(dataset))


def test_images_without_labels(root: Path) -> None:
    dataset = build(root, data_prefix={"img_path": "images"}, pipeline=LOAD[:1], test_mode=True)
    assert "seg_map_path" not in dataset.get_data_info(0)
    assert dataset[0]["img"].shape == (24, 32, 3)


def test_wrong_suffix_lists_those_that_exist(root: Path) -> None:
    text = message(lambda: build(root, img_suffix=".jpg"))
    assert text == f"{root}/images: 0 images found with img_suffix='.jpg'; it holds 3 x .png"
    (root / "empty").mkdir()
    text = message(lambda: build(root, data_prefix={"img_path": "empty"}))
    assert text.endswith("the folder holds no files")


def test_missing_folder_names_what_is_there(root: Path) -> None:
    text = message(lambda: build(root, data_prefix={"img_path": "imgs/train"}))
    assert f"{root} has no 'imgs', it holds images, labels" in text
    text = message(lambda: build(root, data_prefix={"img_path": "images", "seg_map_path": "label"}))
    assert "data_prefix.seg_map_path" in text


def test_image_without_its_label(root: Path) -> None:
    (root / "labels/deep/c.png").unlink()
    text = message(lambda: build(root))
    assert "1 of 3 label files are missing" in text
    assert f"\n  {root}/labels/deep/c.png" in text
    text = message(lambda: build(root, seg_map_suffix="_mask.png"))
    assert "3 of 3 label files are missing (seg_map_suffix; it holds 2 x .png)" in text


def test_faults_of_a_list_file(root: Path) -> None:
    assert "is not there" in message(lambda: build(root, ann_file="none.txt"))
    (root / "list.txt").write_text("\n")
    assert "is empty" in message(lambda: build(root, ann_file="list.txt"))
    (root / "list.txt").write_text("a.png\nb.png\n")
    assert "list them without it" in message(lambda: build(root, ann_file="list.txt"))
    (root / "list.txt").write_text("a\nzebra\n")
    assert "1 of 2 image files are missing" in message(lambda: build(root, ann_file="list.txt"))


def test_nothing_left_after_filtering(root: Path) -> None:
    assert "0 images left" in message(lambda: build(root, indices=[]))


def test_a_string_for_classes_is_refused(root: Path) -> None:
    text = message(lambda: build(root, metainfo={"classes": "water"}), ConfigError)
    assert text.startswith("BaseSegDataset.metainfo.classes: the string 'water'")
    assert "('water',)" in text
    text = message(lambda: build(root, metainfo={"classes": "names.txt"}), ConfigError)
    assert "'names.txt' with the class names is not there" in text
    text = message(lambda: build(root, metainfo={"classes": (1, 2)}), ConfigError)
    assert "not a tuple or list of class names" in text
    text = message(lambda: build(root, metainfo=None, test_mode=True), ConfigError)
    assert "evaluation needs the names" in text


def test_classes_from_a_text_file(root: Path) -> None:
    (root / "names.txt").write_text("ground\nbed \nhouse\n")
    names = str(root / "names.txt")
    assert build(root, metainfo={"classes": names}).metainfo["classes"] == (
        "ground", "bed ", "house",
    )  # fmt: skip


def test_palettes(root: Path) -> None:
    colours = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    classes = ("ground", "tree", "house")
    given = build(root, metainfo={"classes": classes, "palette": colours})
    assert given.metainfo["palette"] == colours
    before = np.random.get_state()[1].copy()
    drawn = build(root).metainfo["palette"]
    assert (np.random.get_state()[1] == before).all()
    assert drawn == RandomState(42).randint(0, 255, size=(3, 3)).tolist()
    text = message(
        lambda: build(root, metainfo={"classes": classes, "palette": colours[:2]}), ConfigError
    )
    assert "2 colours for 3 classes" in text


def test_a_subset_of_the_classes_maps_labels_and_colours(root: Path) -> None:
    class Three(BaseSegDataset):
        METAINFO = {  # noqa: RUF012
            "classes": ("ground", "tree", "house"),
            "palette": [[1, 1, 1], [2, 2, 2], [3, 3, 3]],
        }

    arguments = config(root, metainfo={"classes": ["house", "ground"]}, pipeline=LOAD)
    arguments.pop("type")
    dataset = Three(**arguments)
    assert dataset.metainfo["label_map"] == {0: 1, 1: 255, 2: 0}
    assert dataset.metainfo["palette"] == [[3, 3, 3], [1, 1, 1]]
    raw = np.array(Image.open(root / "labels/a.png"))
    expected = np.choose(raw, [1, 255, 0])
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], expected)
    arguments["metainfo"] = {"classes": ["castle"]}
    assert "'castle'" in message(lambda: Three(**arguments), ConfigError)


def test_label_maps_chain(root: Path) -> None:
    class Two(BaseSegDataset):
        METAINFO = {"classes": ("a", "b")}  # noqa: RUF012

    arguments = config(root, metainfo={"classes": ["b"]}, label_map={7: 1, 9: 0, 3: 255})
    arguments.pop("type")
    # raw 7 is class b, now 0; raw 9 is class a, dropped; 3 is ignored; plain 1 is b, too
    assert Two(**arguments).label_map == {0: 255, 1: 0, 7: 0, 9: 255, 3: 255}
    text = message(lambda: build(root, label_map={1: 0}, reduce_zero_label=True), ConfigError)
    assert "both given" in text


@each_case("kind, classes, first, last", [
    (CityscapesDataset, 19, ("road", [128, 64, 128]), ("bicycle", [119, 11, 32])),
    (ADE20KDataset, 150, ("wall", [120, 120, 120]), ("flag", [92, 0, 255])),
    (PascalVOCDataset, 21, ("background", [0, 0, 0]), ("tvmonitor", [0, 64, 128])),
    (CamVidDataset, 11, ("sky", [128, 128, 128]), ("bicyclist", [0, 128, 192])),
])  # fmt: skip
def test_known_classes_and_colours(kind: Any, classes: int, first: Any, last: Any) -> None:
    info = kind.METAINFO
    assert len(info["classes"]) == len(info["palette"]) == len(set(info["classes"])) == classes
    assert (info["classes"][0], info["palette"][0]) == first
    assert (info["classes"][-1], info["palette"][-1]) == last


def test_particular_names() -> None:
    assert get_classes("ade20k")[7] == "bed "
    assert get_classes("ade") == get_classes("ade20k")
    assert get_palette("cityscapes")[18] == [119, 11, 32]
    for name in ("voc", "pascal_voc", "voc12", "voc12aug"):
        assert get_palette(name)[15] == [192, 128, 128]  # person
    # bits of 15 = 0b1111: red 1,1 (bits 0 and 3), green 1, blue 1
    assert voc_colour(15) == [128 + 64, 128, 128]
    assert voc_colour(255) == [224, 224, 192]
    assert "is not one of cityscapes" in message(lambda: get_classes("city"), ConfigError)


def test_ade20k_shifts_its_labels(root: Path) -> None:
    Image.fromarray(np.array([[0, 1], [150, 255]], np.uint8)).save(root / "labels/a.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / "images/a.png")
    (root / "list.txt").write_text("a")
    arguments = config(root, ann_file="list.txt", metainfo=None, pipeline=LOAD)
    arguments.pop("type")
    dataset = ADE20KDataset(**arguments)
    assert dataset[0]["gt_seg_map"].tolist() == [[255, 0], [149, 255]]
    arguments["pipeline"] = [LOAD[0], {"type": "LoadAnnotations", "reduce_zero_label": False}]
    text = message(lambda: ADE20KDataset(**arguments)[0], ConfigError)
    assert "the pipeline says False and the data set says True" in text


def test_camvid_ignores_index_11(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder / "val").mkdir(parents=True)
    Image.fromarray(np.zeros((1, 3, 3), np.uint8)).save(tmp_path / "images/val/x.jpg")
    label = np.array([[0, 10, 11]], np.uint8)
    Image.fromarray(label).save(tmp_path / "annotations/val/x.png")
    dataset = CamVidDataset(
        data_root=str(tmp_path),
        data_prefix={"img_path": "images/val", "seg_map_path": "annotations/val"},
        pipeline=LOAD,
        test_mode=True,
    )
    assert dataset[0]["gt_seg_map"].tolist() == [[0, 10, 255]]


def test_voc_needs_a_list(root: Path) -> None:
    arguments = config(root, metainfo=None)
    arguments.pop("type")
    assert "ann_file" in message(lambda: PascalVOCDataset(**arguments), ConfigError)


def test_the_image_shape_must_match_the_labels(root: Path) -> None:
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(root / "labels/a.png")
    text = message(lambda: build(root, pipeline=LOAD)[0])
    assert f"{root}/labels/a.png: label map of 5 x 6 px" in text
    assert "24 x 32 px" in text


def test_stray_labels_name_file_and_values(root: Path) -> None:
    label = np.zeros((24, 32), np.uint8)
    label[0, :5], label[1, :2], label[2] = 3, 200, 255
    Image.fromarray(label).save(root / "labels/a.png")
    text = message(lambda: build(root)[0])
    assert f"{root}/labels/a.png: labels 3 (5 px), 200 (2 px) outside 0..2" in text
    assert "docs/datasets.md" in text
    loose = build(root, check_labels=False, pipeline=LOAD)
    np.testing.assert_array_equal(loose[0]["gt_seg_map"], label)
    other = build(root, ignore_index=200, label_map={3: 0, 255: 0}, pipeline=LOAD)
    assert set(np.unique(other[0]["gt_seg_map"])) == {0, 200}


def test_unusable_label_files(root: Path) -> None:
    path = root / "labels/a.png"
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path)
    assert "Masks painted in colours" in message(lambda: build(root)[0])
    Image.fromarray(np.full((24, 32), 300, np.uint16)).save(path)
    assert "values 300..300" in message(lambda: build(root)[0])
    Image.fromarray(np.ones((24, 32), np.uint16)).save(path)
    assert build(root, pipeline=LOAD)[0]["gt_seg_map"].max() == 1
    path.write_bytes(path.read_bytes()[:50])
    assert f"{path}: no readable image" in message(lambda: build(root)[0])
    image = root / "images/a.png"
    image.write_bytes(image.read_bytes()[:500])
    assert f"{image}: no readable image (500 bytes" in message(lambda: build(root)[0])
    image.write_bytes(b"")
    assert "0 bytes" in message(lambda: build(root)[0])


def test_palette_masks_keep_their_indices(root: Path) -> None:
    mask = Image.fromarray(RandomState(0).randint(0, 3, (24, 32)).astype(np.uint8), mode="P")
    mask.putpalette([v for index in range(256) for v in voc_colour(index)])
    mask.save(root / "labels/a.png")
    dataset = build(root, pipeline=LOAD)
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], np.array(mask))


def test_classes_equal_what_was_given(root: Path) -> None:
    names = ["ground", "tree", "house"]
    for given in (names, tuple(names)):
        dataset = build(root, metainfo={"classes": given})
        assert dataset.metainfo["classes"] == given
        assert dataset.label_map is None

    class Three(BaseSegDataset):
        METAINFO = {"classes": names, "palette": ((1, 1, 1), (2, 2, 2), (3, 3, 3))}  # noqa: RUF012

    assert Three.get_label_map(tuple(names)) is Three.get_label_map(None) is None
    assert Three.get_label_map(["house", "tree"]) == {0: 255, 1: 1, 2: 0}
    arguments = config(root, metainfo={"classes": tuple(names)})
    arguments.pop("type")
    dataset = Three(**arguments)
    assert (dataset.label_map, dataset.metainfo["palette"][2]) == (None, [3, 3, 3])


def test_a_class_of_data_sets_may_say_which_labels_become_which(root: Path) -> None:
    class Merged(BaseSegDataset):
        METAINFO = {"classes": ("ground", "thing")}  # noqa: RUF012

        @classmethod
        def get_label_map(cls, new_classes: Any = None) -> dict[int, int]:
            return {0: 0, 1: 1, 2: 1}

        def _update_palette(self) -> Any:
            return [[9, 9, 9], [8, 8, 8]]

    arguments = config(root, metainfo=None, pipeline=LOAD)
    arguments.pop("type")
    dataset = Merged(**arguments)
    raw = np.array(Image.open(root / "labels/a.png"))
    np.testing.assert_array_equal(dataset[0]["gt_seg_map"], np.minimum(raw, 1))
    assert dataset.metainfo["palette"] == [[9, 9, 9], [8, 8, 8]]


class Coarser:
    """A user's transform: ids 30..32 become classes 0..2."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        sample["gt_seg_map"] = sample["gt_seg_map"] - 30
        return sample


@pytest.mark.parametrize("pack", [[], [{"type": "PackSegInputs"}]])
def test_a_users_transform_may_remap_labels_before_they_are_checked(root: Path, pack: Any) -> None:
    for name in ("a", "b", "deep/c"):
        label = np.array(Image.open(root / f"labels/{name}.png")) + 30
        Image.fromarray(label).save(root / f"labels/{name}.png")
    assert "labels 30 " in message(lambda: build(root, pipeline=LOAD + pack)[0])
    dataset = build(root, pipeline=[*LOAD, Coarser(), *pack])
    label = final_label(dataset[0])
    assert label is not None
    assert set(np.unique(label)) == {0, 1, 2}
    # strays that are left are told with the file's own values, others with those at the end
    raw = np.full((24, 32), 30, np.uint8)
    raw[0, :5] = 77
    Image.fromarray(raw).save(root / "labels/b.png")
    text = message(lambda: dataset[1])
    assert f"{root}/labels/b.png: labels 30 (763 px), 77 (5 px) outside 0..2" in text
    Image.fromarray(np.ones((24, 32), np.uint8)).save(root / "labels/b.png")
    text = message(lambda: dataset[1])
    assert f"{root}/labels/b.png: label 227 (768 px) outside 0..2" in text
    assert build(root, pipeline=[*LOAD, Coarser(), *pack], check_labels=False)[1] is not None


def test_which_steps_are_foreign() -> None:
    def own(sample: Any) -> Any:
        return sample

    flip = {"type": "RandomFlip", "prob": 0.5}
    assert not Compose([*LOAD, flip, {"type": "mmcv.RandomGrayscale"}]).has_foreign_steps
    assert Compose([own]).has_foreign_steps
    assert Compose([mmcv.transforms.RandomApply([own])]).has_foreign_steps
    assert not Compose([mmcv.transforms.RandomApply([flip])]).has_foreign_steps
