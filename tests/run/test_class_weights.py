"""``class_weight='auto'``: counted once, in every loss, the same everywhere, kept over a resume."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from nlseg.api import init_model
from nlseg.config import load_config
from nlseg.config.class_weight import with_class_weights
from nlseg.config.literals import parse_assignments
from nlseg.datasets import BaseSegDataset
from nlseg.datasets.class_counts import count_classes, median_frequency_weights
from nlseg.errors import ConfigError, DataError
from nlseg.registry import DATASETS, MODELS, TRANSFORMS
from nlseg.run.places import fallback_folders
from nlseg.run.runner import Runner
from tests.cases import each_case
from tests.run.prepared import run_ranks
from tests.run.runs import train
from tests.run.tiny_segmentor import tiny_config, tiny_run

CLASSES = tuple("abcde")
LOSSES = ("CrossEntropyLoss", "TverskyLoss", "FocalLoss", "LovaszLoss", "OhemCrossEntropy",
          "HuasdorffDisstanceLoss")  # fmt: skip


def draw(root: Path) -> Path:
    """Write two images of 6 x 8 px with labels."""
    first = np.zeros((6, 8), np.uint8)
    first[3:5], first[5] = 1, 255
    for name, label in (("0", first), ("1", np.zeros((5, 8), np.uint8))):
        for folder, array in (("img", np.full((*label.shape, 3), 90, np.uint8)), ("lab", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / f"{name}.png"), array)
    return root


def data(root: Path, *steps: dict[str, Any]) -> dict[str, Any]:
    crop = {"type": "RandomCrop", "crop_size": (48, 48)}
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, *steps,
                {"type": "Resize", "scale": (48, 48)}, crop, {"type": "PackSegInputs"}]  # fmt: skip
    return {
        "type": "BaseSegDataset", "data_root": str(root), "img_suffix": ".png",
        "metainfo": {"classes": CLASSES}, "pipeline": pipeline,
        "data_prefix": {"img_path": "img", "seg_map_path": "lab"},
    }  # fmt: skip


def run_config(folder: Path, dataset: dict[str, Any], **loss: Any) -> Config:
    config = tiny_run(folder / "run", iters=2)
    config.train_dataloader.dataset = dataset
    config.model.decode_head.loss_decode = [
        {"type": "CrossEntropyLoss", "class_weight": "auto"},
        {"type": "TverskyLoss", "class_weight": "auto", "loss_weight": 0.5},
    ]
    config.model.auxiliary_head.loss_decode = {"type": "FocalLoss", "class_weight": "auto", **loss}
    config.default_hooks.data_check = None
    config.default_hooks.checkpoint.interval = 1
    return config


def test_weights_by_hand(tmp_path: Path) -> None:
    counts = count_classes(DATASETS.build(data(draw(tmp_path))))
    assert counts.pixels.tolist() == [24 + 40, 16, 0, 0, 0]
    assert counts.area.tolist() == [40 + 40, 40, 0, 0, 0]
    # frequencies 64 / 80 and 16 / 40, their median 0.6
    assert median_frequency_weights(counts.pixels, counts.area).tolist() == [0.75, 1.5, 1, 1, 1]


def test_joined_and_repeated_sets_count_each_image_once(tmp_path: Path) -> None:
    one = {"type": "RepeatDataset", "times": 7, "dataset": data(draw(tmp_path))}
    both = {"type": "ConcatDataset", "datasets": [one, data(tmp_path)]}
    assert count_classes(DATASETS.build(both)).pixels.tolist() == [2 * 64, 32, 0, 0, 0]


def test_what_a_transform_of_the_users_makes_of_labels_counts(tmp_path: Path) -> None:
    @TRANSFORMS.register_module(force=True)
    class AllOfClassThree:
        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            sample["gt_seg_map"][sample["gt_seg_map"] == 1] = 3
            return sample

    counts = count_classes(DATASETS.build(data(draw(tmp_path), {"type": "AllOfClassThree"})))
    assert counts.pixels[1] == 0 < counts.pixels[3]


def test_a_bad_label_is_told_or_passed_over(tmp_path: Path) -> None:
    (draw(tmp_path) / "lab/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png"):
        count_classes(DATASETS.build(data(tmp_path)))
    kept = DATASETS.build({**data(tmp_path), "bad_samples": {"policy": "skip"}})
    assert count_classes(kept).pixels.tolist() == [24, 16, 0, 0, 0]


def test_a_run_counts_prints_keeps_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path, data(draw(tmp_path / "data")))
    config.train_cfg.max_iters = 1
    runner = train(config.copy())
    losses = [*runner.model.decode_head.loss_decode, runner.model.auxiliary_head.loss_decode]
    for loss in losses:
        assert torch.equal(loss.class_weight, torch.tensor([0.75, 1.5, 1, 1, 1]))
    (log,) = (tmp_path / "run").glob("*/*.log")
    assert "b      20.000 %         1.5" in log.read_text()
    (dumped,) = (tmp_path / "run").glob("*.py")
    kept = parse_assignments(dumped.read_text())["model"]
    assert kept["auxiliary_head"]["loss_decode"]["class_weight"] == [0.75, 1.5, 1, 1, 1]
    assert "'auto'" not in dumped.read_text()

    monkeypatch.setattr(BaseSegDataset, "get_data_info", None)  # nothing may be counted again
    again = config.copy()
    again.resume, again.experiment_name = True, "resumed"
    resumed = Runner.from_cfg(again)
    assert resumed.model.decode_head.loss_decode[1].class_weight[1] == 1.5
    resumed.close()
    (place, *_) = fallback_folders(tmp_path / "run", str(tmp_path / "fallback"))
    place.mkdir(parents=True)
    for path in (tmp_path / "run").glob("*.pth*"):
        path.rename(place / path.name)
    fallen = again.copy()
    fallen.merge_from_dict({"default_hooks.checkpoint.fallback_dir": str(tmp_path / "fallback")})
    fallen.experiment_name = "from the fallback"
    resumed = Runner.from_cfg(fallen)
    assert resumed.model.decode_head.loss_decode[1].class_weight[1] == 1.5
    resumed.close()
    assert not list((tmp_path / "run").glob("*.pth"))
    elsewhere = again.copy()
    elsewhere.work_dir, elsewhere.experiment_name = str(tmp_path / "other"), "elsewhere"
    elsewhere.load_from = str(place / "iter_1.pth")
    assert Runner.from_cfg(elsewhere).model.decode_head.loss_decode[0].class_weight[0] == 0.75


@each_case("loss", LOSSES)
def test_every_loss_with_class_weights_takes_auto(loss: str) -> None:
    config: dict[str, Any] = {"type": loss, "class_weight": "auto"}
    if loss == "LovaszLoss":
        config["reduction"] = "none"
    assert MODELS.build(with_class_weights(config, [0.5, 2])).class_weight.tolist() == [0.5, 2]
    assert config["class_weight"] == "auto"


def test_without_training_data_no_loss_is_computed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="counted by a run from its training data"):
        MODELS.build({"type": "CrossEntropyLoss", "class_weight": "auto"})
    config = Config({"model": tiny_config(), "default_scope": "nlseg"})
    config.model.decode_head.loss_decode = {"type": "CrossEntropyLoss", "class_weight": "auto"}
    model = init_model(config, device="cpu")  # predicting needs no weights
    assert model.decode_head.loss_decode.class_weight is None
    nothing = data(draw(tmp_path))
    nothing["label_map"] = dict.fromkeys(range(5), 255)
    with pytest.raises(DataError, match="no labelled pixel"):
        count_classes(DATASETS.build(nothing))


def test_one_logit_has_nothing_to_weigh() -> None:
    head = "model.decode_head"
    overrides = [
        f"{head}.out_channels=1", f"{head}.loss_decode.use_sigmoid=True",
        f"{head}.loss_decode.class_weight=auto", "num_classes=2",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="'auto' weighs classes against each other"):
        load_config("nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024", overrides)


def test_processes_of_a_job_get_the_same(tmp_path: Path) -> None:
    draw(tmp_path / "data")
    script = tmp_path / "rank.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from nlseg.run.runner import Runner\n"
        "from tests.run.test_class_weights import data, run_config\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    config = run_config(folder, data(folder / 'data'))\n"
        "    config.launcher = 'pytorch'\n"
        "    runner = Runner.from_cfg(config)\n"
        "    loss = runner.model.module.auxiliary_head.loss_decode\n"
        "    print('weights', loss.class_weight.tolist())\n"
    )
    for output in run_ranks(2, str(script), str(tmp_path)):
        assert "weights [0.75, 1.5, 1.0, 1.0, 1.0]" in output
