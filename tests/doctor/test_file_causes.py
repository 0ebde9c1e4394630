"""Missing, broken, turned, deep and doubled files."""

import shutil

import numpy as np
import pytest
from PIL import Image

from nlseg.doctor.examination import examine
from nlseg.doctor.listing import suggest_suffix
from nlseg.doctor.probe import find_damage, probe
from tests.doctor.damaged import SIZE, make_config, make_data, make_image, save


@pytest.fixture
def data(tmp_path):
    make_data(tmp_path)
    return tmp_path


def findings(config, split="train"):
    found = examine(config, num_processes=1, progress=False).findings
    return {finding.code: finding for finding in found if finding.split == split}


def test_labels_with_another_suffix(data):
    for path in (data / "train/lab").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    found = findings(make_config(data))
    assert found["missing-label"].title == "Images without a label: 4 of 4"
    assert "train_dataloader.dataset.seg_map_suffix = '_mask.png'" in found["missing-label"].remedy
    assert findings(make_config(data, stages=["train"], seg_map_suffix="_mask.png")) == {}


def test_images_with_another_suffix(data):
    found = findings(make_config(data, img_suffix=".jpg"))
    assert "holds 4 x .png" in found["image-suffix"].detail
    assert found["image-suffix"].remedy == "train_dataloader.dataset.img_suffix = '.png'"


def test_one_label_missing_and_one_too_many(data):
    (data / "train/lab/2.png").rename(data / "train/lab/other.png")
    found = findings(make_config(data))
    assert found["missing-label"].count == 1
    assert found["missing-label"].files == (str(data / "train/img/2.png"),)
    assert found["orphan-label"].files == (str(data / "train/lab/other.png"),)
    assert "ann_file" in found["missing-label"].remedy


def test_one_label_missing_where_others_of_another_kind_lie_beside(data):
    for i in range(4):
        (data / f"train/lab/{i}_ids.png").write_bytes((data / f"train/lab/{i}.png").read_bytes())
    (data / "train/lab/2.png").unlink()
    remedy = findings(make_config(data))["missing-label"].remedy
    assert "seg_map_suffix" not in remedy  # it would replace the three labels that are right
    (data / "list.txt").write_text("0\n1\n3\n")
    listed = make_config(data, ["train"], ann_file="list.txt")  # the remedy's second half
    assert "missing-label" not in findings(listed)


def test_one_image_of_the_list_missing_where_others_lie_beside(data):
    (data / "train/img/nine.jpg").write_bytes(b"")
    (data / "list.txt").write_text("0\n1\nnine\n")
    found = findings(make_config(data, ann_file="list.txt"))
    assert found["missing-image"].remedy == f"correct {data / 'list.txt'}"


def test_image_of_the_list_missing(data):
    (data / "list.txt").write_text("0\n1\nnine\n")
    found = findings(make_config(data, ann_file="list.txt"))
    assert found["missing-image"].files == ("nine.png",)


def test_folder_missing(data):
    found = findings(make_config(data, data_prefix={"img_path": "trian/img", "seg_map_path": "x"}))
    assert "'trian'" in found["missing-folder"].detail
    assert "train_dataloader.dataset.data_prefix.img_path" in found["missing-folder"].remedy


def test_truncated_and_damaged_files(data):
    image, label = data / "train/img/1.png", data / "train/lab/3.png"
    image.write_bytes(image.read_bytes()[:-20])
    broken = bytearray(label.read_bytes())
    broken[60] ^= 1
    label.write_bytes(bytes(broken))
    (data / "train/img/0.png").write_bytes(b"")
    found = findings(make_config(data))["unreadable"]
    assert found.count == 3
    assert "1.png: is truncated: a PNG without its end" in found.detail
    assert "3.png: is damaged: the checksum of a PNG chunk" in found.detail
    assert "0.png: is empty" in found.detail


def test_truncated_jpeg(tmp_path):
    Image.fromarray(make_image(0)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    assert find_damage(whole) is None
    assert "JPEG without its end" in find_damage(whole[: len(whole) // 2])


def test_file_that_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    assert "OpenCV" in probe("image", str(tmp_path / "a.png"))["error"]
    assert probe("label", str(tmp_path / "a.png"))["error"].startswith("cannot be read")
    assert probe("label", str(tmp_path / "b.png"))["error"].startswith("cannot be read")


def test_label_of_another_size(data):
    save(np.zeros((5, 6), np.uint8), data / "train/lab/0.png")
    found = findings(make_config(data))["size-mismatch"]
    assert found.count == 1
    assert f"5 x 6 px, its image {SIZE[0]} x {SIZE[1]} px" in found.detail


def turn(path, orientation):
    image = Image.open(path)
    tags = image.getexif()
    tags[0x0112] = orientation
    image.convert("RGB").save(path, exif=tags)


def test_exif_turns_the_image_away_from_its_label(data):
    for path in (data / "train/img").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    turn(data / "train/img/0.jpg", 6)
    config = make_config(data, stages=["train"], img_suffix=".jpg")
    found = findings(config)
    assert found["exif"].severity == "error"
    assert "color_type='color_ignore_orientation'" in found["exif"].remedy
    assert "size-mismatch" not in found
    turn(data / "train/img/0.jpg", 3)
    assert findings(config)["exif"].severity == "warning"


def test_sixteen_bits_in_the_lower_part_of_the_range(data):
    dark = make_image(0)[..., 0].astype(np.uint16) * 4
    save(dark, data / "train/img/0.png")
    found = findings(make_config(data))
    assert found["deep-images"].severity == "error"
    assert "uint16" in found["deep-images"].detail
    save(make_image(0)[..., 0].astype(np.uint16) * 257, data / "train/img/0.png")
    assert findings(make_config(data))["deep-images"].severity == "warning"


def test_float_images(data):
    Image.fromarray(make_image(0)[..., 0].astype(np.float32) / 255).save(data / "train/img/a.tif")
    facts = probe("image", str(data / "train/img/a.tif"))
    assert facts["error"].startswith("holds float32 pixels")


def test_grey_and_alpha_images_are_noted(data):
    save(make_image(0)[..., 0], data / "train/img/0.png")
    save(np.dstack([make_image(1), make_image(2)[..., 0]]), data / "train/img/1.png")
    found = findings(make_config(data))["not-rgb"]
    assert found.severity == "note"
    assert "1 x L (grey)" in found.detail
    assert "1 x RGBA" in found.detail


def test_image_that_was_trained_on_is_in_the_validation_set(data):
    picture = Image.open(data / "train/img/1.png")
    picture.save(data / "val/img/2.png", compress_level=0)  # other bytes, the same pixels
    found = findings(make_config(data), "train and val")["shared-images"]
    assert found.severity == "error"
    assert found.count == 1
    assert str(data / "val/img/2.png") in found.detail


def test_one_folder_with_lists_names_them(data):
    config = make_config(data)
    (data / "a.txt").write_text("0\n1\n2\n")
    (data / "b.txt").write_text("2\n3\n")
    config.val_dataloader.dataset.data_prefix = config.train_dataloader.dataset.data_prefix
    config.train_dataloader.dataset.ann_file = "a.txt"
    config.val_dataloader.dataset.ann_file = "b.txt"
    config.test_dataloader = {"dataset": dict(config.val_dataloader.dataset, indices=1)}
    found = findings(config, "train and val")["shared-images"]
    assert found.remedy.endswith(f"in {data}/a.txt and {data}/b.txt, each in one of the two")
    assert not findings(config, "val and test")  # one is a part of the other
    config.test_dataloader.dataset = {**config.train_dataloader.dataset, "test_mode": True}
    assert findings(config, "val and test")["shared-images"].severity == "warning"


def test_image_that_is_there_twice(data):
    shutil.copy(data / "train/img/1.png", data / "train/img/3.png")
    assert findings(make_config(data))["same-image-twice"].count == 2


def test_images_smaller_than_the_crop(data):
    config = make_config(data)
    config.train_dataloader.dataset.pipeline.append({"type": "RandomCrop", "crop_size": (25, 33)})
    assert findings(config)["small-images"].count == 4
    config.train_dataloader.dataset.pipeline[-1]["crop_size"] = (24, 33)
    assert "small-images" not in findings(config)


def test_suffix_is_suggested_for_nested_names():
    names = {"x/a_mask.png", "x/b_mask.png", "x/b_mask.txt", "y/z.png"}
    assert suggest_suffix(["x/a", "x/b"], names) == "_mask.png"
    assert suggest_suffix(["q/a", "q/b"], names) is None
