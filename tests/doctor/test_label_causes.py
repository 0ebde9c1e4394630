"""Every kind of wrong label is named as what it is, and the line that is offered mends it."""

import numpy as np
import pytest
from PIL import Image

from nlseg.doctor.examination import examine
from tests.doctor.damaged import PALETTE, make_config, make_data, make_label, save


def look(config):
    return examine(config, num_processes=1, progress=False)


def train_findings(config):
    found = [f for f in look(config).findings if f.split == "train" and f.severity != "note"]
    return {finding.code: finding for finding in found}


def painted(label):
    return np.array(PALETTE, np.uint8)[label]


def grey(label):
    return np.repeat(label[..., None], 3, axis=2)


def blurred_binary(label):
    mask = np.where(label == 0, 0, 255).astype(np.uint8)
    mask[0] = np.arange(len(mask[0]))  # a smear of values between
    mask[:, 1:] = mask[:, :1]
    mask[0] = np.linspace(0, 255, len(mask[0])).astype(np.uint8)
    return mask


def cityscapes_ids(label):
    return np.array([7, 26, 33], np.uint8)[label]


CASES = {
    "rgb-masks": (painted, {"palette_to_index": True}, "palette_to_index = True"),
    "grey-rgb-masks": (
        grey,
        {"palette_to_index": {(0, 0, 0): 0, (1, 1, 1): 1, (2, 2, 2): 2}},
        "palette_to_index = {(0, 0, 0): 0, (1, 1, 1): 1, (2, 2, 2): 2}",
    ),
    "reduce-zero-label-missing": (
        lambda label: label + 1,
        {"reduce_zero_label": True},
        "reduce_zero_label = True",
    ),
    "spread-out-masks": (
        lambda label: label * 100,
        {"label_map": {100: 1, 200: 2}},
        "label_map = {100: 1, 200: 2}",
    ),
    "stray-labels": (
        lambda label: np.where(label == 2, 77, label).astype(np.uint8),
        {"label_map": {77: 255}},
        "label_map = {77: 255}",
    ),
}


@pytest.mark.parametrize("code", CASES)
def test_cause_and_remedy(code, tmp_path):
    relabel, mended, remedy = CASES[code]
    make_data(tmp_path, relabel)
    found = train_findings(make_config(tmp_path))
    assert found[code].severity == "error"
    assert found[code].count == 4
    assert f"train_dataloader.dataset.{remedy}" in found[code].remedy
    assert look(make_config(tmp_path, **mended)).num_errors == 0


def test_healthy_data_have_no_findings(tmp_path):
    make_data(tmp_path)
    assert look(make_config(tmp_path)).findings == []


@pytest.mark.parametrize("foreground", [255, 128])
def test_binary_masks(foreground, tmp_path):
    make_data(tmp_path, lambda label: np.where(label > 0, foreground, 0).astype(np.uint8))
    two = {"metainfo": {"classes": ("background", "thing")}}
    found = train_findings(make_config(tmp_path, **two))
    remedy = f"train_dataloader.dataset.label_map = {{{foreground}: 1}}"
    assert found["binary-masks"].severity == "error"
    assert found["binary-masks"].title.startswith(f"Binary masks hold 0 and {foreground}")
    assert remedy in found["binary-masks"].remedy
    config = make_config(tmp_path, **two, label_map={foreground: 1})
    config.model.decode_head.num_classes = 2
    assert look(config).num_errors == 0


def test_stray_values_are_counted(tmp_path):
    make_data(tmp_path)
    label = make_label(0)
    label[0, :5] = 34
    save(label, tmp_path / "train/lab/0.png")
    stray = train_findings(make_config(tmp_path))["stray-labels"]
    assert "34 (5 px in 1 file)" in stray.detail
    assert [file.rsplit("/", 1)[1] for file in stray.files] == ["0.png"]


def test_label_ids_where_train_ids_belong(tmp_path):
    make_data(tmp_path, cityscapes_ids)
    classes = {"metainfo": {"classes": tuple(f"class {i}" for i in range(19))}}
    found = train_findings(make_config(tmp_path, **classes))
    assert "seg_map_suffix = '_gtFine_labelTrainIds.png'" in found["label-ids"].remedy
    assert "stray-labels" not in found


def test_instance_ids(tmp_path):
    make_data(tmp_path, lambda label: label.astype(np.uint16) * 1000 + 5)
    assert "instance-ids" in train_findings(make_config(tmp_path))


def test_smeared_masks(tmp_path):
    make_data(tmp_path, blurred_binary)
    found = train_findings(make_config(tmp_path))
    assert "PNG" in found["smeared-masks"].remedy


def test_jpeg_masks(tmp_path):
    make_data(tmp_path)
    for path in (tmp_path / "train/lab").iterdir():
        label = np.asarray(Image.open(path)) * 60
        Image.fromarray(label).save(path, format="JPEG", quality=40)
    assert "smeared-masks" in train_findings(make_config(tmp_path))


def test_zero_reduced_twice(tmp_path):
    make_data(tmp_path, lambda label: np.where(label == 2, 255, label).astype(np.uint8))
    found = train_findings(make_config(tmp_path, reduce_zero_label=True))
    assert "reduce_zero_label = False" in found["reduce-zero-label-twice"].remedy
    assert "reduce-zero-label-twice" not in train_findings(make_config(tmp_path))


def test_pipeline_and_data_set_disagree(tmp_path):
    make_data(tmp_path)
    config = make_config(tmp_path)
    config.train_dataloader.dataset.pipeline[1].reduce_zero_label = True
    found = train_findings(config)
    assert found["reduce-zero-label-differs"].severity == "error"


def test_palette_masks_are_fine_unless_opencv_decodes_them(tmp_path):
    make_data(tmp_path)
    for path in (tmp_path / "train/lab").iterdir():
        mask = Image.fromarray(np.asarray(Image.open(path)), "P")
        mask.putpalette([level for colour in PALETTE for level in colour])
        mask.save(path)
    assert train_findings(make_config(tmp_path)) == {}
    config = make_config(tmp_path)
    config.train_dataloader.dataset.pipeline[1].imdecode_backend = "cv2"
    assert train_findings(config)["palette-by-cv2"].count == 4
    by_colour = make_config(tmp_path, stages=["train"], palette_to_index=True)
    assert train_findings(by_colour) == {}


def test_colours_that_are_not_in_the_palette(tmp_path):
    make_data(tmp_path, painted)
    mask = painted(make_label(0))
    mask[0, 0] = (1, 2, 3)
    save(mask, tmp_path / "train/lab/0.png")
    found = train_findings(make_config(tmp_path, palette_to_index=True))
    assert "(1, 2, 3) (1 px in 1 file)" in found["lost-colours"].detail


def test_remedy_keeps_the_label_map_that_is_there(tmp_path):
    make_data(tmp_path, lambda label: np.where(label == 2, 77, label + 10).astype(np.uint8))
    found = train_findings(make_config(tmp_path, label_map={10: 0, 11: 1}))
    assert "label_map = {10: 0, 11: 1, 77: 255}" in found["stray-labels"].remedy


def test_a_few_painted_masks_are_to_be_stored_like_the_others(tmp_path):
    make_data(tmp_path)
    save(painted(make_label(1)), tmp_path / "train/lab/1.png")
    found = train_findings(make_config(tmp_path))["rgb-masks"]
    assert found.title.endswith(": 1 of 4")
    assert found.remedy == "store these masks like the others, with one value per pixel"


def test_labels_without_a_zero_are_counted_from_1(tmp_path):
    make_data(tmp_path, lambda label: label + 1)
    found = train_findings(make_config(tmp_path))
    assert list(found) == ["reduce-zero-label-missing"]  # and not that class 0 never occurs
    assert found["reduce-zero-label-missing"].title == "Labels are counted from 1, not from 0"
    make_data(tmp_path, lambda label: np.where(label == 1, 3, label).astype(np.uint8))
    missing = train_findings(make_config(tmp_path))["reduce-zero-label-missing"]
    assert "label_map = {3: 255}" in missing.remedy
