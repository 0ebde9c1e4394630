"""A run's log says once what its data are and what happens to each sample."""

from pathlib import Path

from nlseg.datasets.transforms import Compose
from nlseg.run.runner import Runner
from tests.run.runs import train
from tests.run.toy import toy_config


def test_a_training_tells_its_data_sets_once(tmp_path: Path) -> None:
    runner = train(toy_config(tmp_path, iters=4))
    (log,) = tmp_path.glob("*/*.log")
    text = log.read_text()
    assert text.count("Data:\n") == 1
    images = len(runner.train_dataloader.dataset)
    assert f"\ntrain: {type(runner.train_dataloader.dataset).__name__}, {images} images\n" in text
    assert text.count("\nval: ") == 1


def test_an_evaluation_tells_its_own_with_transforms(tmp_path: Path) -> None:
    runner = Runner.from_cfg(toy_config(tmp_path, iters=4))
    runner.val_dataloader.dataset.pipeline = Compose([{"type": "RandomFlip", "prob": 0.5}])
    runner.val()
    (log,) = tmp_path.glob("*/*.log")
    told = log.read_text().split("Data:\n")[1].splitlines()
    assert told[0].startswith("val: ")
    assert told[1] == "    RandomFlip(prob=0.5)"
