from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

from nlseg.errors import DataError
from nlseg.evaluation.prediction_files import image_root
from nlseg.run.hooks import SegVisualizationHook, read_rgb
from nlseg.structures import SegDataSample
from nlseg.visualization import SegLocalVisualizer


def outputs(*paths):
    samples = []
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 6, 3), (10, 20, 30), np.uint8))
        samples.append(SegDataSample(metainfo={"img_path": str(path)}))
        samples[-1].pred_sem_seg = PixelData(data=torch.zeros(1, 4, 6, dtype=torch.int64))
    return samples


def runner(root, **visualizer):
    loader = SimpleNamespace(dataset=SimpleNamespace(data_prefix={"img_path": str(root)}))
    drawn = SegLocalVisualizer(classes=("a",), **visualizer)
    return SimpleNamespace(test_dataloader=loader, val_dataloader=loader, visualizer=drawn, iter=40)


def test_show_dir_gets_every_image_and_keeps_folders(tmp_path):
    images = outputs(tmp_path / "img/x/a.jpg", tmp_path / "img/y/a.jpg")
    hook = SegVisualizationHook(show_dir=str(tmp_path / "out"))
    hook.after_test_iter(runner(tmp_path / "img"), 3, None, images)
    hook.after_val_iter(runner(tmp_path / "img"), 4, None, images[:1])
    found = sorted(path.relative_to(tmp_path / "out") for path in tmp_path.glob("out/**/*.png"))
    assert [path.as_posix() for path in found] == ["iter_40/x/a.png", "x/a.png", "y/a.png"]


def test_draws_every_interval_to_the_back_ends(tmp_path):
    images = outputs(tmp_path / "img/x/a.png")
    run = runner(
        tmp_path / "img", vis_backends=[{"type": "LocalVisBackend"}], save_dir=str(tmp_path)
    )
    hook = SegVisualizationHook(draw=True, interval=2)
    for i in range(4):
        run.iter = i
        hook.after_val_iter(run, i, None, images)
    names = sorted(path.name for path in tmp_path.glob("vis_data/**/*.png"))
    assert names == ["val_x_a_1.png", "val_x_a_3.png"]


def test_full_disk_is_warned_of_once_in_validation_and_told_in_a_test(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    run, warnings = runner(tmp_path / "img"), []
    run.logger = SimpleNamespace(warning=warnings.append)
    monkeypatch.setattr(run.visualizer, "add_datasample", fail)
    hook = SegVisualizationHook(show_dir=str(tmp_path / "out"))
    images = outputs(tmp_path / "img/a.png")
    for batch in range(2):
        hook.after_val_iter(run, batch, None, images)
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]
    with pytest.raises(OSError, match="No space"):
        hook.after_test_iter(run, 0, None, images)


def test_draws_nothing_unless_asked(tmp_path):
    hook = SegVisualizationHook()
    hook.after_test_iter(None, 49, None, outputs(tmp_path / "a.png"))
    assert hook.interval == 50


def test_image_root_of_joined_and_repeated_data_sets():
    def one(path):
        return SimpleNamespace(data_prefix={"img_path": path})

    joined = SimpleNamespace(datasets=[one("/d/x/img"), SimpleNamespace(dataset=one("/d/y/img"))])
    assert image_root(joined) == "/d"
    assert image_root(one("/d/x")) == "/d/x"
    assert image_root(SimpleNamespace(datasets=[one("/d"), one("e")])) is None
    assert image_root(SimpleNamespace()) is None


def test_read_rgb(tmp_path):
    outputs(tmp_path / "a.png")
    assert read_rgb(str(tmp_path / "a.png"))[0, 0].tolist() == [30, 20, 10]
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b.png: is no image"):
        read_rgb(str(tmp_path / "b.png"))
