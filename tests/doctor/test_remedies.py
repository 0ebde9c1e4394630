"""Every line of a config that the check prints is laid over the config, and gives a clean check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image

from nlseg.config import load_config
from nlseg.config.overrides import set_value
from nlseg.datasets.class_counts import count_classes
from nlseg.doctor.examination import examine, weights_line
from nlseg.doctor.finding import Finding
from nlseg.doctor.hook import quick_check
from nlseg.doctor.report import as_text
from nlseg.registry import DATASETS, HOOKS, MODELS
from nlseg.run.logs import read_scalars
from nlseg.run.runner import Runner
from tests.doctor.damaged import (
    PALETTE,
    make_config,
    make_data,
    make_image,
    make_label,
    save,
    write_config,
)
from tests.run.tiny_segmentor import tiny_run

TWO = {"metainfo": {"classes": ("background", "thing"), "palette": PALETTE[:2]}}
HIDDEN = {"metainfo": {"classes": ("a", "b", "c"), "palette": [[i, i, 9] for i in range(3)]}}


class Case(NamedTuple):
    """A way in which labels are wrong: how they are made of right ones, and the config's keys."""

    code: str
    relabel: Callable[[Any], Any]
    changes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    classes: int = 3


def binary(level: int) -> Callable[[Any], Any]:
    return lambda label: np.where(label > 0, level, 0).astype(np.uint8)


def rgb(colours: Any) -> Callable[[Any], Any]:
    return lambda label: np.array(colours, np.uint8)[label]


def white_on_black(label: Any) -> Any:
    return np.repeat(binary(255)(label)[..., None], 3, axis=2)


CASES = {
    "black and white, one channel": Case("binary-masks", binary(255), TWO, 2),
    "black and white, another level": Case("binary-masks", binary(128), TWO, 2),
    "black and white, zero reduced": Case(
        "binary-masks", binary(255), {**TWO, "reduce_zero_label": True}, 2
    ),
    "black and white, RGB": Case("grey-rgb-masks", white_on_black, TWO, 2),
    "grey levels in order, RGB": Case("grey-rgb-masks", rgb([[0] * 3, [100] * 3, [200] * 3])),
    "grey classes and an ignored level, RGB": Case(
        "grey-rgb-masks", rgb([[0] * 3, [1] * 3, [255] * 3])
    ),
    "the palette's colours": Case("rgb-masks", rgb(PALETTE)),
    "the palette's colours and white": Case("rgb-masks", rgb([*PALETTE[:2], [255] * 3])),
    "other colours": Case("rgb-masks", rgb(PALETTE), HIDDEN),
    "a colour that the table lacks": Case(
        "lost-colours", rgb(PALETTE), {"palette_to_index": {tuple(PALETTE[0]): 0,
                                                            tuple(PALETTE[1]): 1}}
    ),
    "one more than there are": Case("reduce-zero-label-missing", lambda label: label + 1),
    "0 and one more": Case(
        "reduce-zero-label-missing", lambda label: np.where(label == 1, 3, label).astype(np.uint8)
    ),
    "multiples of a step": Case("spread-out-masks", lambda label: label * 100),
    "a value without a name": Case(
        "stray-labels", lambda label: np.where(label == 2, 77, label).astype(np.uint8)
    ),
    "many values without a name": Case(
        "stray-labels",
        lambda label: np.where(label == 2, 30 + np.arange(label.shape[1]) % 9, label).astype("u1"),
    ),
    "zero reduced twice": Case(
        "reduce-zero-label-twice",
        lambda label: np.where(label == 2, 255, label).astype(np.uint8),
        {"reduce_zero_label": True},
    ),
    "classes that the network does not have": Case("num-classes", lambda label: label, {}, 7),
}  # fmt: skip


def damaged(case: Case, root: Path) -> Config:
    make_data(root, case.relabel)
    config = make_config(root, **case.changes)
    config.model.decode_head.num_classes = case.classes
    return config


def findings(config: Config) -> list[Finding]:
    return examine(config, num_processes=1, progress=False).findings


def lines_of(remedy: str) -> list[list[str]]:
    """Return the ways that a remedy offers, each as lines that go together."""
    lines = [line.removeprefix("or ") for line in remedy.splitlines() if " = " in line]
    alternatives = [[line] for line in lines if "  # if " in line]
    return alternatives or [lines]


def apply(config: Config, lines: list[str]) -> Config:
    """Lay printed lines over a config, for all data sets of it."""
    changed = config.copy()
    for line in lines:
        key, text = line.partition("  # ")[0].partition(" = ")[::2]
        text = text.partition(", and")[0]
        for stage in ("train", "val"):
            path = tuple(key.replace("train_", f"{stage}_", 1).split("."))
            set_value(changed, path, eval(text))
    return changed


@pytest.mark.parametrize("name", CASES)
def test_what_is_printed_gives_a_clean_check_and_labels_to_learn_from(
    name: str, tmp_path: Path
) -> None:
    config = damaged(CASES[name], tmp_path)
    found = {f.code: f for f in findings(config) if f.split == "train"}
    ways = lines_of(found[CASES[name].code].remedy)
    assert ways != [[]]
    for lines in ways:
        mended = apply(config, lines)
        left = [f for f in findings(mended) if f.severity == "error"]
        assert left == [], lines
        dataset = DATASETS.build(mended.train_dataloader.dataset)
        assert quick_check(dataset, mended.model.decode_head.num_classes) is not None
        assert (count_classes(dataset).pixels > 0).sum() >= 2


def test_black_and_white_masks_train_and_no_false_hundred_percent(tmp_path: Path) -> None:
    config = damaged(CASES["black and white, RGB"], tmp_path)
    (lines,) = lines_of(next(f for f in findings(config) if f.severity == "error").remedy)
    mended = apply(config, lines)
    run = tiny_run(tmp_path / "run", iters=2)
    for head in (run.model.decode_head, run.model.auxiliary_head):
        head.num_classes = 2
    run.train_cfg.val_interval = 2
    run.default_hooks.logger.interval = 1
    run.default_hooks.checkpoint.save_best = "mIoU"
    for stage in ("train", "val"):
        dataset = mended[f"{stage}_dataloader"].dataset
        dataset.pipeline.append({"type": "PackSegInputs"})
        sampler = {"type": "InfiniteSampler" if stage == "train" else "DefaultSampler",
                   "shuffle": False}  # fmt: skip
        run[f"{stage}_dataloader"] = {
            "batch_size": 2, "num_workers": 0, "dataset": dataset, "sampler": sampler,
        }  # fmt: skip
    run.val_cfg, run.val_evaluator = {"type": "ValLoop"}, {"type": "IoUMetric"}
    Runner.from_cfg(Config(run.to_dict())).train()
    curves = read_scalars(tmp_path / "run/scalars.jsonl")
    assert all(line["loss"] > 0.1 for line in curves if "loss" in line)
    (log,) = (tmp_path / "run").glob("*/*.log")
    assert "means over" not in log.read_text()
    assert "Best so far: best_mIoU" in log.read_text()

    run.experiment_name, run.work_dir = "one_class", str(tmp_path / "one")
    run.data_check = "warn"
    for stage in ("train", "val"):  # the advice that was printed once: white is 255, ignored
        run[f"{stage}_dataloader"].dataset.palette_to_index = {(0, 0, 0): 0, (255,) * 3: 255}
    run.custom_hooks = [{"type": "FavoursTheFirst"}]
    Runner.from_cfg(Config(run.to_dict())).train()
    (log,) = (tmp_path / "one").glob("*/*.log")
    text = log.read_text()
    assert "mIoU: 100" in text
    assert "means over 1 of 2 classes: neither labels nor predictions hold thing" in text
    assert "Kept as best: best_mIoU_iter_2.pth, without a score of thing" in text
    assert "Best so far" not in text
    for line in text.splitlines():  # wherever a mean of 100 stands, the class that it lacks does
        assert "mIoU: 100" not in line or "without a score of thing" in line, line
    assert "Best mIoU 100.00 at iteration 2, without a score of thing" in text


@HOOKS.register_module()
class FavoursTheFirst(Hook):
    def before_train(self, runner: Any) -> None:
        runner.model.decode_head.conv_seg.bias.data[0] += 100


def test_files_that_are_skipped_are_no_error(tmp_path: Path) -> None:
    make_data(tmp_path)
    (tmp_path / "train/img/1.png").write_bytes(b"")
    config = make_config(tmp_path, ["train"])
    (broken,) = (f for f in findings(config) if f.severity == "error")
    line = next(part for part in broken.remedy.split(": ", 1)[1].splitlines())
    key, text = line.split(" = ", 1)
    set_value(config, tuple(key.split(".")), eval(text))
    assert [f.severity for f in findings(config) if f.code == "unreadable"] == ["note"]
    assert quick_check(DATASETS.build(config.train_dataloader.dataset), 3) == []


def test_pictures_that_are_not_turned_are_compared_as_stored(tmp_path: Path) -> None:
    make_data(tmp_path)
    for path in sorted((tmp_path / "train/img").iterdir()):
        image = Image.open(path).convert("RGB")
        tags = image.getexif()
        tags[0x0112] = 6
        image.save(path.with_suffix(".jpg"), exif=tags)
        path.unlink()
    config = make_config(tmp_path, ["train"], img_suffix=".jpg")
    (turned,) = (f for f in findings(config) if f.severity == "error")
    step = turned.remedy.split("pipeline: ", 1)[1]
    config.train_dataloader.dataset.pipeline[0] = eval(step)
    assert [f for f in findings(config) if f.severity != "note"] == []
    assert quick_check(DATASETS.build(config.train_dataloader.dataset), 3) == []


def test_nearly_black_pictures_are_to_be_converted_and_nothing_else(tmp_path: Path) -> None:
    make_data(tmp_path)
    for i in range(4):
        deep = make_image(i)[..., 0].astype(np.uint16) * 4
        save(deep, tmp_path / f"train/img/{i}.png")
    config = make_config(tmp_path, ["train"])
    assert [f.code for f in findings(config) if f.severity != "note"] == ["deep-images"]
    assert "normalisation" not in {f.code for f in findings(config)}
    for i in range(4):  # what the remedy says: to 8 bits, by the range that they use
        save((make_image(i)[..., 0]).astype(np.uint8), tmp_path / f"train/img/{i}.png")
    assert [f for f in findings(config) if f.severity == "error"] == []


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (None, "model.decode_head.loss_decode = dict(type='CrossEntropyLoss', "
               "class_weight='auto')"),
        ({"type": "FocalLoss"}, "model.decode_head.loss_decode.class_weight = 'auto'"),
        ([{"type": "DiceLoss"}, {"type": "TverskyLoss"}],
         "model.decode_head.loss_decode.1.class_weight = 'auto'"),
    ],
)  # fmt: skip
def test_class_weights_are_suggested_with_the_key_that_takes_them(loss: Any, line: str) -> None:
    config = Config({"model": {"decode_head": {"num_classes": 3}}})
    if loss is not None:
        config.model.decode_head.loss_decode = loss
    assert weights_line(config.model) == line
    key, text = line.split(" = ", 1)
    path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    set_value(config, path, eval(text))
    losses = config.model.decode_head.loss_decode
    for one in losses if isinstance(losses, list) else [losses]:
        settings = {**one, **({"class_weight": [1.0, 2, 3]} if "class_weight" in one else {})}
        MODELS.build(settings)


def test_labels_made_again_are_clean(tmp_path: Path) -> None:
    make_data(tmp_path)
    for path in (tmp_path / "train/lab").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 60).save(path, format="JPEG", quality=40)
    config = make_config(tmp_path, ["train"])
    assert any(f.code == "smeared-masks" for f in findings(config))
    for i in range(4):
        save(make_label(i), tmp_path / f"train/lab/{i}.png")
    assert findings(config) == []


SHRINKING = [{"type": "Resize", "scale": (16, 12), "keep_ratio": True}]


def test_sizes_in_and_out_by_hand(tmp_path: Path) -> None:
    make_data(tmp_path)
    config = make_config(tmp_path, ["train", "val"])
    for stage in ("train", "val"):
        config[f"{stage}_dataloader"].dataset.pipeline[1:1] = SHRINKING
    examination = examine(config, num_processes=1, progress=False)
    scale = examination.as_dict()["splits"][0]["scale"]
    assert (scale["before"], scale["after"]) == ([24, 32], [12, 16])
    assert (scale["factor"], scale["pixels_kept"]) == (0.5, 0.25)
    # blocks of 4 x 8 px become 2 x 4: all regions of one value touch at corners only or not at all
    assert 0 <= scale["lost"] <= 1
    assert "12x16 (25% of pixels" in as_text(examination)
    shrunk = [f for f in examination.findings if f.code == "shrunk-images"]
    assert [f.split for f in shrunk] == ["train", "val"]
    for finding in shrunk:
        key, text = finding.remedy.split(" = ", 1)
        path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        set_value(config, path, eval(text))
    assert [f for f in findings(config) if f.severity != "note"] == []


def test_crops_larger_than_most_images_are_found_and_mended(tmp_path: Path) -> None:
    make_data(tmp_path)
    file = write_config(tmp_path)
    text = file.read_text().replace(
        "{'type': 'PackSegInputs'}",
        "dict(type='RandomCrop', crop_size=(64, 64)), {'type': 'PackSegInputs'}", 1,
    )  # fmt: skip
    file.write_text(
        text + "crop_size = (64, 64)\nmodel['data_preprocessor'] = dict(size=(64, 64))\n"
    )
    (large,) = (f for f in findings(load_config(file)) if f.code == "large-crop")
    assert "Crops of 64 x 64 px are larger than most images" in large.title
    override = large.remedy.removeprefix("--set ").replace("'", "")
    assert override == "crop_size=(24, 32)"
    mended = load_config(file, [override])
    assert mended.model.data_preprocessor.size == (24, 32)
    assert "large-crop" not in {f.code for f in findings(mended)}


def test_the_pipeline_of_the_test_is_looked_at_as_well(tmp_path: Path) -> None:
    make_data(tmp_path)
    config = make_config(tmp_path, ["train", "val"])
    config.test_dataloader = {"dataset": config.val_dataloader.dataset.to_dict()}
    config.test_dataloader.dataset.pipeline[1:1] = SHRINKING
    (shrunk,) = (f for f in findings(config) if f.code == "shrunk-images")
    assert shrunk.split == "test"
    assert shrunk.remedy == "test_dataloader.dataset.pipeline.1.scale = (32, 24)"


def test_regions_that_become_too_small_are_counted(tmp_path: Path) -> None:
    make_data(tmp_path)
    for i in range(4):
        label = np.zeros((24, 32), np.uint8)
        label[2:7, 2:7] = 1  # 25 px, of which half the size leaves 6
        label[10:20, 10:20] = 2
        save(label, tmp_path / f"train/lab/{i}.png")
    config = make_config(tmp_path, ["train"])
    config.train_dataloader.dataset.pipeline[1:1] = SHRINKING
    scale = examine(config, num_processes=1, progress=False).as_dict()["splits"][0]["scale"]
    assert scale["lost"] == pytest.approx(1 / 3)  # one of background, small and large
