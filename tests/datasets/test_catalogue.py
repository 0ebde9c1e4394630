"""Published layouts, made small: names, suffixes and ignored labels are read as published."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import nlseg.datasets
from nlseg.datasets import get_classes, get_palette
from nlseg.datasets.catalogue import ALIASES, voc_colour
from nlseg.registry import DATASETS
from tests.cases import each_case
from tests.datasets.folders import LOAD

PUBLISHED: list[tuple[str, str, str, list[int], list[int], dict[str, Any]]] = [
    # name, image, label, raw labels, labels after loading, more arguments
    (
        "CityscapesDataset", "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
        "gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png", [0, 18, 255], [0, 18, 255],
        {},
    ),
    (
        "DarkZurichDataset", "rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png",
        "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png", [0, 18, 255],
        [0, 18, 255], {},
    ),
    (
        "NightDrivingDataset", "leftImg8bit/test/night/0_0_leftImg8bit.png",
        "gtCoarse_daytime_trainvaltest/test/night/0_0_gtCoarse_labelTrainIds.png", [0, 18, 255],
        [0, 18, 255], {},
    ),
    (
        "BDD100KDataset", "images/10k/train/0004a4c0-d4dff0ad.jpg",
        "labels/sem_seg/masks/train/0004a4c0-d4dff0ad.png", [0, 18, 255], [0, 18, 255], {},
    ),
    (
        "CamVidDataset", "images/train/0001TP_006690.jpg", "annotations/train/0001TP_006690.png",
        [0, 10, 11], [0, 10, 255], {},
    ),
    (
        "MapillaryDataset_v1", "training/images/aT.jpg", "training/v1.2/labels/aT.png",
        [0, 13, 65], [0, 13, 65], {},
    ),
    (
        "MapillaryDataset_v2", "training/images/aT.jpg", "training/v2.0/labels/aT.png",
        [0, 21, 123], [0, 21, 123], {},
    ),
    (
        "ADE20KDataset", "images/training/ADE_train_00000001.jpg",
        "annotations/training/ADE_train_00000001.png", [0, 1, 150], [255, 0, 149], {},
    ),
    (
        "PascalVOCDataset", "JPEGImages/2007_000032.jpg", "SegmentationClass/2007_000032.png",
        [0, 20, 255], [0, 20, 255], {"ann_file": "ImageSets/Segmentation/train.txt"},
    ),
    (
        "PascalContextDataset", "JPEGImages/2008_000002.jpg",
        "SegmentationClassContext/2008_000002.png", [0, 1, 59], [0, 1, 59],
        {"ann_file": "ImageSets/SegmentationContext/train.txt"},
    ),
    (
        "PascalContextDataset59", "JPEGImages/2008_000002.jpg",
        "SegmentationClassContext/2008_000002.png", [0, 1, 59], [255, 0, 58],
        {"ann_file": "ImageSets/SegmentationContext/train.txt"},
    ),
    (
        "COCOStuffDataset", "images/train2017/000000000009.jpg",
        "annotations/train2017/000000000009_labelTrainIds.png", [0, 170, 255], [0, 170, 255], {},
    ),
    (
        "COCOStuffDataset", "images/train2014/COCO_train2014_000000000077.jpg",
        "annotations/train2014/COCO_train2014_000000000077_labelTrainIds.png", [0, 1, 171],
        [255, 0, 170], {"reduce_zero_label": True},
    ),
    (
        "DRIVEDataset", "images/training/21.png", "annotations/training/21_manual1.png",
        [0, 1, 1], [0, 1, 1], {},
    ),
    (
        "DRIVEDataset", "training/images/21_training.tif", "training/1st_manual/21_manual1.gif",
        [0, 255, 0], [0, 1, 0],
        {"img_suffix": "_training.tif", "seg_map_suffix": "_manual1.gif", "label_map": {255: 1}},
    ),
    (
        "ChaseDB1Dataset", "images/training/Image_01L.png",
        "annotations/training/Image_01L_1stHO.png", [0, 1, 1], [0, 1, 1], {},
    ),
    (
        "STAREDataset", "images/training/im0001.png", "annotations/training/im0001.ah.png",
        [0, 1, 1], [0, 1, 1], {},
    ),
    (
        "HRFDataset", "images/training/01_dr.png", "annotations/training/01_dr.png", [0, 1, 1],
        [0, 1, 1], {},
    ),
    (
        "LoveDADataset", "img_dir/train/1366.png", "ann_dir/train/1366.png", [0, 1, 7],
        [255, 0, 6], {},
    ),
    (
        "PotsdamDataset", "img_dir/train/2_10_0_0_512_512.png",
        "ann_dir/train/2_10_0_0_512_512.png", [0, 1, 6], [255, 0, 5], {},
    ),
    (
        "ISPRSDataset", "img_dir/train/area1_0_0_512_512.png",
        "ann_dir/train/area1_0_0_512_512.png", [0, 1, 6], [255, 0, 5], {},
    ),
    (
        "iSAIDDataset", "img_dir/train/P0000_0_896_0_896.png",
        "ann_dir/train/P0000_0_896_0_896_instance_color_RGB.png", [0, 1, 15], [0, 1, 15], {},
    ),
]  # fmt: skip


def write(root: Path, image: str, label: str, raw: list[int], palette: bool) -> None:
    for name, array in ((image, np.zeros((1, 3, 3))), (label, np.array([raw]))):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(array.astype(np.uint8))
        if palette and name == label:
            picture = Image.fromarray(array.astype(np.uint8), mode="P")
            picture.putpalette([level for i in range(256) for level in voc_colour(i)])
        picture.save(path)


@each_case("name, image, label, raw, loaded, more", PUBLISHED)
def test_published_layouts_are_read(
    tmp_path: Path, name: str, image: str, label: str, raw: list[int], loaded: list[int], more: Any
) -> None:
    is_flat = "ann_file" in more or not image.endswith(("leftImg8bit.png", "rgb_anon.png"))
    up = 0 if is_flat else 1  # Cityscapes and its relatives have a folder for each town
    folders = {
        "img_path": str(Path(image).parents[up]),
        "seg_map_path": str(Path(label).parents[up]),
    }
    write(tmp_path, image, label, raw, palette=name.startswith(("Mapillary", "PascalVOC")))
    if "ann_file" in more:
        (tmp_path / more["ann_file"]).parent.mkdir(parents=True)
        (tmp_path / more["ann_file"]).write_text(Path(image).stem + "\n")
    dataset = DATASETS.build(
        {
            "type": name, "data_root": str(tmp_path), "data_prefix": folders, "pipeline": LOAD,
            "test_mode": True, **more,
        }
    )  # fmt: skip
    assert len(dataset) == 1
    sample = dataset[0]
    assert sample["img_path"] == str(tmp_path / image)
    assert sample["gt_seg_map"].tolist() == [loaded]


def test_every_published_set_has_a_layout_here() -> None:
    kinds = {kind.__name__ for kind in ALIASES.values()}
    assert kinds == {name for name, *_ in PUBLISHED}
    assert kinds <= set(nlseg.datasets.__all__)


@each_case("alias, count, known", [
    # the number of classes that each publication states, and a class with its place
    ("cityscapes", 19, (13, "car", [0, 0, 142])),
    ("dark_zurich", 19, (13, "car", [0, 0, 142])),
    ("night_driving", 19, (13, "car", [0, 0, 142])),
    ("bdd100k", 19, (16, "train", [0, 80, 100])),
    ("camvid", 11, (3, "road", [128, 64, 128])),
    ("mapillary_v1", 66, (13, "Road", [128, 64, 128])),
    ("mapillary_v2", 124, (21, "Road", [128, 64, 128])),
    ("ade20k", 150, (12, "person", [150, 5, 61])),
    ("voc", 21, (15, "person", [192, 128, 128])),
    ("pascal_context", 60, (15, "person", [255, 6, 82])),
    ("pascal_context_59", 59, (36, "person", [102, 8, 255])),
    ("cocostuff164k", 171, (170, "wood", [64, 64, 0])),
    ("drive", 2, (1, "vessel", [6, 230, 230])),
    ("chase_db1", 2, (1, "vessel", [6, 230, 230])),
    ("stare", 2, (1, "vessel", [6, 230, 230])),
    ("hrf", 2, (1, "vessel", [6, 230, 230])),
    ("loveda", 7, (3, "water", [0, 0, 255])),
    ("potsdam", 6, (4, "car", [255, 255, 0])),
    ("vaihingen", 6, (4, "car", [255, 255, 0])),
    ("isaid", 16, (1, "ship", [0, 0, 63])),
])  # fmt: skip
def test_classes_and_colours(alias: str, count: int, known: Any) -> None:
    names, colours = get_classes(alias), get_palette(alias)
    assert len(names) == len(colours) == len(set(names)) == count
    place, name, colour = known
    assert (names[place], colours[place]) == (name, colour)


def test_both_orders_of_pascal_context_name_the_same_classes() -> None:
    sixty, fifty_nine = get_classes("pascal_context"), get_classes("pascal_context_59")
    assert set(sixty) - set(fifty_nine) == {"background"}
    assert fifty_nine == sorted(fifty_nine)
