import subprocess
import sys
from types import SimpleNamespace

import pytest

from nlseg.doctor.hook import DataCheckHook
from nlseg.errors import DataError
from nlseg.registry import DATASETS
from tests.doctor.damaged import (
    ROOT,
    make_config,
    make_data,
    make_label,
    save,
    write_config,
)


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
    command = [sys.executable, str(ROOT / "tools/train.py"), str(write_config(tmp_path))]
    options = ["--cfg-options", "model.pretrained=None", "train_dataloader.num_workers=0"]
    done = subprocess.run(
        [*command, "--work-dir", str(tmp_path / "run"), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "77 (1 px in 1 file)" in done.stderr
    assert "train_dataloader.dataset.label_map = {77: 255}" in done.stderr
    assert "Traceback" not in done.stderr
