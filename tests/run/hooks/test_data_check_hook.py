import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from nlseg.config import load_config
from nlseg.doctor.file_causes import same_files
from nlseg.doctor.hook import DataCheckHook
from nlseg.doctor.scale_causes import measure_scale, scale_causes
from nlseg.doctor.splits import Rules, Split, steps_of
from nlseg.doctor.tally import Tally
from nlseg.errors import DataError
from nlseg.registry import DATASETS, TRANSFORMS
from tests.doctor.damaged import (
    ROOT,
    make_config,
    make_data,
    make_label,
    save,
    write_config,
)
from tests.run import prepared


def runner(data, warned, num_classes=3):
    config = make_config(data)
    loaders = {
        name: SimpleNamespace(dataset=DATASETS.build(config[name].dataset))
        for name in ("train_dataloader", "val_dataloader")
    }
    model = SimpleNamespace(decode_head=SimpleNamespace(num_classes=num_classes))
    logger = SimpleNamespace(warning=warned.append)
    return SimpleNamespace(model=model, logger=logger, val_loop=True, cfg={}, **loaders)


def test_healthy_data_pass_without_a_word(tmp_path):
    make_data(tmp_path)
    warned = []
    DataCheckHook().before_train(runner(tmp_path, warned))
    assert warned == []


def test_what_steps_make_of_sizes_is_told_before_training(tmp_path, monkeypatch):
    make_data(tmp_path)
    warned = []
    chosen = runner(tmp_path, warned)
    chosen.cfg = cfg = make_config(tmp_path)
    cfg.val_dataloader.dataset.pipeline[1:1] = [{"type": "Resize", "scale": (16, 12)}]
    DataCheckHook().before_train(chosen)
    assert [text.splitlines() for text in warned] == [[
        "warning: val: The pipeline shrinks images to 50% of their height and width",
        "  24 x 32 px become 12 x 16 px, 25% of the pixels are left",
        "  -> val_dataloader.dataset.pipeline.1.scale = (32, 24)",
    ]]  # fmt: skip
    cfg.custom, cfg.train_dataloader.dataset.pipeline[1:1] = {"plan": "a"}, [
        {"type": "RandomCrop", "crop_size": (64, 64)}]  # fmt: skip
    warned.clear()
    DataCheckHook().before_train(chosen)
    assert [text.splitlines()[0] for text in warned] == [
        "warning: train: Crops of 64 x 64 px are larger than most images"
    ]

    class Resize:  # a user's: it may need more than a picture
        def __init__(self, scale: tuple[int, int]) -> None:
            self.scale = scale

    monkeypatch.setitem(TRANSFORMS.module_dict, "Resize", Resize)
    cfg.custom = {}
    DataCheckHook().before_train(chosen)
    assert len(warned) == 2


PUBLISHED = {"ade20k": (512, 683), "camvid": (360, 480), "cityscapes": (1024, 2048),
             "cityscapes_769x769": (1024, 2048), "pascal_voc12": (375, 500),
             "pascal_voc12_aug": (500, 333), "pascal_voc12_aug_unpadded": (500, 375)}  # fmt: skip


def test_no_published_config_shrinks_its_own_data():
    files = {file.stem: file for file in (ROOT / "configs/_base_/datasets").glob("*.py")}
    assert files.keys() == PUBLISHED.keys()
    none = np.zeros(0, np.int64)
    for name, size in PUBLISHED.items():
        config = load_config(files[name], check=False)
        tally = Tally(none, none, none, sizes=Counter({size: 1}))
        for key, steps in steps_of(config).items():
            split = Split("train", key, None, Rules(()))
            split.set_steps(steps, config)
            scale = measure_scale(split, tally)
            assert scale is not None
            assert scale_causes(split, tally, scale) == []


def test_validation_labels_are_looked_at_before_training(tmp_path):
    make_data(tmp_path)
    label = make_label(0)
    label[0, 0] = 9
    save(label, tmp_path / "val/lab/1.png")
    with pytest.raises(DataError, match=r"(?s)val: Label values.*val_dataloader.dataset.label_map"):
        DataCheckHook().before_train(runner(tmp_path, []))


def test_head_with_another_number_of_classes(tmp_path):
    make_data(tmp_path)
    with pytest.raises(DataError, match="network has 19 classes, the data set 3"):
        DataCheckHook().before_train(runner(tmp_path, [], num_classes=19))


@pytest.mark.slow
def test_training_stops_before_the_first_iteration(tmp_path):
    make_data(tmp_path)
    label = make_label(0)
    label[0, 0] = 77
    save(label, tmp_path / "train/lab/2.png")
    command = [str(ROOT / "tools/train.py"), str(write_config(tmp_path))]
    options = ["--cfg-options", "model.pretrained=None", "train_dataloader.num_workers=0"]
    done = prepared.run(*command, "--work-dir", str(tmp_path / "run"), *options)
    assert done.returncode == 2, done.stderr
    assert "77 (1 px in 1 file)" in done.stderr
    assert "train_dataloader.dataset.label_map = {77: 255}" in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_training_and_validation_share_stop_a_run(tmp_path):
    make_data(tmp_path)
    shutil.copy(tmp_path / "train/img/2.png", tmp_path / "val/img/1.png")
    told = r"(?s)train and val: Images both in train and in val: 1.*val/img.*data_check = 'warn'"
    with pytest.raises(DataError, match=told):
        DataCheckHook().before_train(runner(tmp_path, []))
    warned, chosen = [], runner(tmp_path, [])
    chosen.cfg["data_check"], chosen.logger.warning = "warn", warned.append
    DataCheckHook().before_train(chosen)
    assert [text.splitlines()[0] for text in warned] == [
        "error: train and val: Images both in train and in val: 1"
    ]


def test_one_folder_for_training_and_validation_is_shared_too(tmp_path):
    make_data(tmp_path)
    chosen = runner(tmp_path, [])
    joined = {"type": "ConcatDataset", "datasets": [
        {"type": "RepeatDataset", "times": 2, "dataset": part.dataset.to_dict()}
        for part in (make_config(tmp_path).val_dataloader, make_config(tmp_path).train_dataloader)
    ]}  # fmt: skip
    chosen.val_dataloader.dataset = DATASETS.build(joined)
    with pytest.raises(DataError, match="Images both in train and in val: 4"):
        DataCheckHook().before_train(chosen)


def test_files_are_compared_by_their_bytes_and_only_those_of_equal_size(tmp_path):
    long = bytes(range(256)) * 300  # longer than the head that is read first
    for name, data in {"a": long, "b": long[:-1] + b"x", "c": b"y" + long[1:], "d": long[:-1],
                       "e": b"", "f": b"short"}.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    ours = [str(tmp_path / name) for name in "abcdef"]
    for name, data in {"A": long, "C": b"z" + long[1:], "E": b"", "F": b"short"}.items():
        (tmp_path / f"{name}2").write_bytes(data)
    theirs = [str(tmp_path / f"{name}2") for name in "ACEF"]
    assert same_files(ours, [*theirs, str(tmp_path / "gone")]) == [
        (str(tmp_path / one), str(tmp_path / other)) for one, other in (("a", "A2"), ("f", "F2"))
    ]
