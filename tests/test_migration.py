"""The remedies of docs/migration.md: each is run here, or by the test that is named for it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform

from nlseg.commands.migrate import main as migrate
from nlseg.config import load_config
from nlseg.datasets import BaseSegDataset
from nlseg.datasets.transforms import (
    LoadImageFromFile,
    PhotoMetricDistortion,
    RandomRotFlip,
    Resize,
)
from nlseg.errors import ConfigError
from nlseg.models import CrossEntropyLoss, HuasdorffDisstanceLoss, KLDivLoss, SegDataPreProcessor
from nlseg.models.residual import Bottleneck
from nlseg.registry import MODELS
from nlseg.visualization.painter import Painter
from nlseg.weights.files import read_checkpoint
from tests.cases import each_case
from tests.models import recorded as rec

ROOT = Path(__file__).parents[1]
NAME = "nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024"
OLD = ROOT / "tests/tools/gcnet_of_0x.py.txt"


def keys_of_ones_own(folder: Path) -> None:
    file = folder / "a.py"
    base = f"_base_ = {str(ROOT / 'configs/nonlocal_net' / NAME)!r} + '.py'\n"
    file.write_text(base + "note = 1\n")
    with pytest.raises(ConfigError, match="note"):
        load_config(file)
    assert load_config(file, allow_unknown=True).note == 1
    file.write_text(base + "custom = dict(note=1)\n")
    assert load_config(file).custom.note == 1


def a_config_of_0x(folder: Path) -> None:
    (folder / "old.py").write_text(OLD.read_text())
    with pytest.raises(ConfigError, match="nlseg migrate"):
        load_config(folder / "old.py")
    migrate([str(folder / "old.py"), "--out-dir", str(folder / "new")])
    (new,) = (folder / "new").rglob("*.py")
    assert load_config(new).model.decode_head.type == "GCHead"


def python_in_place_of_yaml(folder: Path) -> None:
    (folder / "a.py").write_text("import os\nplace = os.getcwd()\n")
    assert load_config(folder / "a.py", check=False).place == str(Path.cwd())


def one_copy_by_its_path(folder: Path) -> None:
    key = "train_dataloader.dataset.data_root"
    config = load_config(NAME, [f"{key}=elsewhere"])
    assert config.train_dataloader.dataset.data_root == "elsewhere"
    assert config.val_dataloader.dataset.data_root != "elsewhere"


def one_plugin_a_position(folder: Path) -> None:
    def block(*kinds: str) -> Bottleneck:
        torch.manual_seed(0)
        plugins: Any = [{"cfg": {"type": kind}, "position": "after_conv3"} for kind in kinds]
        plugins[0]["cfg"].update({"ratio": 0.5} if kinds[0] == "ContextBlock" else {})
        return Bottleneck(16, 4, plugins=plugins).eval()

    both, alone = block("ContextBlock", "NonLocal2d"), block("NonLocal2d")
    state = both.state_dict()
    alone.load_state_dict({key: state[key] for key in alone.state_dict()})
    for module in (both.context_block, both.nonlocal_block, alone.nonlocal_block):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, 0.1)
    x = torch.randn(1, 16, 5, 5)
    branch = x
    for i in (1, 2, 3):
        branch = getattr(both, f"bn{i}")(getattr(both, f"conv{i}")(branch))
        branch = both.relu(branch) if i < 3 else branch
    there = both.relu(both.nonlocal_block(branch) + x)  # the last result alone
    torch.testing.assert_close(alone(x), there)
    chained = both.relu(both.nonlocal_block(both.context_block(branch)) + x)
    torch.testing.assert_close(both(x), chained)


def the_number_of_divergence_there(folder: Path) -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    p, q = theirs.softmax(1), ours.softmax(1)
    old = KLDivLoss(reduction="sum", log_input=False)(ours, theirs)
    want = torch.nn.functional.kl_div(q, p, reduction="none").sum()
    torch.testing.assert_close(old.sum(), want)
    right = KLDivLoss(reduction="sum")(ours, theirs)
    torch.testing.assert_close(right.sum(), (p * (p.log() - q.log())).sum())


def the_distance_there(folder: Path) -> None:
    assert HuasdorffDisstanceLoss(one_vs_rest=False).one_vs_rest is False


def no_mask_of_instances(folder: Path) -> None:
    with pytest.raises(ConfigError):
        CrossEntropyLoss(use_mask=True)
    assert CrossEntropyLoss().loss_name == "loss_ce"


def an_error_to_catch(folder: Path) -> None:
    with pytest.raises(ValueError, match="loss_weight"):
        CrossEntropyLoss(loss_weight=-1.0)


def no_gradient_where_none_is_wanted(folder: Path) -> None:
    model = MODELS.build(rec.model_cfg("NL")).eval()
    image = rec.golden()["eval_image"][0][None].float()
    assert model.inference(image).requires_grad
    with torch.no_grad():
        assert not model.inference(image).requires_grad


def logits_that_are_read(folder: Path) -> None:
    model = MODELS.build(rec.model_cfg("NL")).eval()
    (sample,) = model.test_step({"inputs": [rec.golden()["eval_image"][0]]})
    assert "seg_logits" not in sample
    assert sample.seg_logits.data.shape[0] == 7
    assert "seg_logits" in sample


def images_of_two_sizes(folder: Path) -> None:
    images = {"inputs": [torch.zeros(3, 8, 8), torch.zeros(3, 8, 12)]}
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3}
    with pytest.raises(ValueError, match="size"):
        SegDataPreProcessor(**plain)(images)
    one = SegDataPreProcessor(**plain)({"inputs": images["inputs"][:1]})
    assert one["inputs"].shape == (1, 3, 8, 8)
    resize = Resize(scale=(16, 16), keep_ratio=False)
    made = [resize({"img": np.zeros((8, width, 3), np.uint8)})["img"] for width in (8, 12)]
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in made]
    assert SegDataPreProcessor(**plain)({"inputs": tensors})["inputs"].shape == (2, 3, 16, 16)


class Noise(BaseTransform):
    """A transform of a user's that draws from the sample's generator."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results["drawn"] = results["rng"].randint(1 << 30)
        return results


def a_generator_for_each_sample(folder: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((4, 4, 3), np.uint8))

    def drawn(seed: int) -> list[int]:
        data = BaseSegDataset(
            img_suffix=".png", data_prefix={"img_path": str(folder)}, pipeline=[Noise()], seed=seed
        )
        return [data[i]["drawn"] for i in range(2)]

    assert drawn(0) == drawn(0) != drawn(1)


def levels_of_sixteen_bits(folder: Path) -> None:
    deep = np.full((4, 4), 4095, np.uint16)
    cv2.imwrite(str(folder / "deep.png"), deep)
    sample = {"img_path": str(folder / "deep.png")}
    raw = LoadImageFromFile(color_type="unchanged")(dict(sample))["img"]
    assert raw.dtype == np.uint16
    own = (raw / 4095 * 255).astype(np.uint8)  # what a transform of the user's may do
    assert own.max() == 255 > LoadImageFromFile()(dict(sample))["img"].max() == 15


def levels_of_float(folder: Path) -> None:
    image = np.random.RandomState(0).randint(0, 255, (8, 8, 3)).astype(np.float32)
    out = PhotoMetricDistortion()({"img": image, "rng": np.random.RandomState(3)})
    assert np.isfinite(out["img"]).all()


def turned_labels(folder: Path) -> None:
    label = np.array([[1, 2], [3, 250]], np.uint8)
    sample = {
        "img": np.zeros((2, 2, 3), np.uint8),
        "gt_seg_map": label,
        "seg_fields": ["gt_seg_map"],
    }
    out = RandomRotFlip(rotate_prob=1, degree=10)({**sample, "rng": np.random.RandomState(0)})
    assert set(np.unique(out["gt_seg_map"])) <= {0, 1, 2, 3, 250, 255}


def a_file_of_plain_values(folder: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": {"iter": 3}}, folder / "a.pth")
    assert read_checkpoint(folder / "a.pth")["meta"]["iter"] == 3


def a_class_of_another_name(folder: Path) -> None:
    image, label = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    colours = [[200, 0, 0], [0, 200, 0]]
    assert not Painter(("background", "a"), colours).draw(image, label, captions=False).any()
    assert Painter(("ground", "a"), colours).draw(image, label, captions=False).any()


API = "tests/test_api.py"
REMEDIES: dict[str, Callable[[Path], None] | str] = {
    "Unknown keys, names and unfit values": keys_of_ones_own,
    "The scope `mmseg`": "tests/configs/test_openmmlab.py",
    "A config of 0.x is one error": a_config_of_0x,
    "YAML is read as data": python_in_place_of_yaml,
    "`--cfg-options crop_size": one_copy_by_its_path,
    "Options of commands": "tests/commands/test_arguments.py",
    "`custom_imports` that fail": "tests/config/test_own_and_foreign_classes.py",
    "Only NonLocal, GCNet": "tests/models/test_openmmlab_style.py",
    "`backbone.dcn`": "tests/models/test_extension.py::test_arguments_that_need_operators",
    "Several plugins": one_plugin_a_position,
    "Cross-entropy with class weights": "tests/models/test_losses.py::test_class_weights_are_av",
    "`KLDivLoss`": the_number_of_divergence_there,
    "`HuasdorffDisstanceLoss`": the_distance_there,
    "A single logit of `DiceLoss`": "tests/models/test_loss_catalogue.py::test_a_single_logit",
    "`TverskyLoss` takes any": "tests/models/test_loss_catalogue.py::test_value_and_gradient_are_t",
    "Ignored pixels count in `DiceLoss`": "tests/models/test_loss_catalogue.py::test_value_and",
    "`use_mask=True`": no_mask_of_instances,
    "Arguments out of range": an_error_to_catch,
    "`sub_sample=True`": "tests/models/test_blocks.py",
    "Prediction works in every": no_gradient_where_none_is_wanted,
    "`seg_logits` of a prediction": logits_that_are_read,
    "Images of one evaluation batch": images_of_two_sizes,
    "A method of a head, segmentor": "tests/models/test_extension.py::test_what_is_never_called",
    "A loss whose subclass has its own": "tests/models/test_extension.py::test_the_sampler_of_a",
    "Draws come from one generator": a_generator_for_each_sample,
    "A label that is neither": "tests/doctor/test_label_causes.py",
    "16-bit images": levels_of_sixteen_bits,
    "`imdecode_backend` of labels": "tests/datasets/test_decode.py::test_label_maps_of_any_honest",
    "Crops, sizes and paddings": "tests/datasets/test_transforms.py::test_mistakes_in_a_config",
    "`PhotoMetricDistortion` on float": levels_of_float,
    "`RandomRotFlip` turns": turned_labels,
    "Alpha of an RGBA": "tests/datasets/test_decode.py::test_one_rule_for_each_kind_of_image",
    "`--resume` continues": "tests/run/checkpoints/test_resume.py::test_interrupted_run_ends",
    "A checkpoint is verified": "tests/run/checkpoints/test_checkpoint.py::test_damaged_newest",
    "A test asks that every weight fits": "tests/tools/test_train_and_test.py",
    "Weight files are read": a_file_of_plain_values,
    "SyncBN becomes BN": "tests/configs/test_every_config_runs.py",
    "`--show-dir` writes every": "tests/predict/test_predict.py",
    "`inference_model` gives None": f"{API}::test_broken_images_do_not_lose_the_others",
    "`show_result_pyplot` takes arrays": f"{API}::test_picture_of_a_result",
    "A class called background": a_class_of_another_name,
    "`device` is a GPU": f"{API}::test_device_that_is_not_there",
    "The config in a checkpoint": f"{API}::test_a_checkpoint_without_a_usable_config",
    "`MMSegInferencer` takes images": f"{API}::test_a_video_is_not_taken_for_an_image",
}
"""How a row begins -> what runs its remedy: a function, or a test elsewhere."""
ROWS = [
    line.split(" | ")[0].removeprefix("| ")
    for line in (ROOT / "docs/migration.md").read_text().split("## Scripts")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| what differs")
]


@each_case("row", ROWS)
def test_the_remedy_of_a_row_was_tried(row: str, tmp_path: Path) -> None:
    (remedy,) = [remedy for start, remedy in REMEDIES.items() if row.startswith(start)]
    if callable(remedy):
        remedy(tmp_path)
        return
    file, _, name = remedy.partition("::")
    assert re.search(rf"^def test_{name.removeprefix('test_')}", (ROOT / file).read_text(), re.M)


def test_paths_of_scripts_are_tried_elsewhere() -> None:
    text = (ROOT / "tests/tools/test_paths_of_mmsegmentation.py").read_text()
    assert "visualization_cam" in text
    assert "browse_dataset" in text
