import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmengine.visualization import LocalVisBackend

from nlseg.errors import ConfigError
from nlseg.registry import VISUALIZERS
from nlseg.structures import SegDataSample
from nlseg.visualization import SegLocalVisualizer

META = {"classes": ("road", "car"), "palette": [[255, 0, 0], [0, 255, 0]]}


def sample():
    out = SegDataSample()
    out.gt_sem_seg = PixelData(data=torch.tensor([[[0, 255]]]))
    out.pred_sem_seg = PixelData(data=torch.tensor([[[0, 1]]]))
    return out


def test_label_left_prediction_right_by_hand():
    visualizer = SegLocalVisualizer(alpha=0.5)
    visualizer.dataset_meta = META
    image = np.full((1, 2, 3), 100, np.uint8)
    picture = visualizer.draw(image, sample(), with_labels=False)
    # (100 + 255) / 2 = 178 and (100 + 0) / 2 = 50
    red, green, dark = [178, 50, 50], [50, 178, 50], [50, 50, 50]
    assert picture.tolist() == [[red, dark, red, green]]
    only = visualizer.draw(image, sample(), draw_gt=False, with_labels=False)
    assert only.tolist() == [[red, green]]


def test_sample_goes_to_the_file_or_to_the_back_ends(tmp_path):
    visualizer = SegLocalVisualizer(
        vis_backends=[{"type": "LocalVisBackend"}], save_dir=str(tmp_path), **META, alpha=1.0
    )
    image = np.zeros((1, 2, 3), np.uint8)
    file = tmp_path / "new" / "a.png"
    visualizer.add_datasample("a", image, sample(), out_file=file, with_labels=False)
    assert cv2.imread(str(file)).tolist() == [[[0, 0, 255], [0, 0, 0], [0, 0, 255], [0, 255, 0]]]
    visualizer.add_datasample("b", image, sample(), step=7)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["a.png", "b_7.png"]


def test_every_process_writes_its_files_in_the_right_colours(tmp_path, monkeypatch):
    monkeypatch.setattr("mmengine.dist.utils.get_rank", lambda group=None: 1)
    visualizer = SegLocalVisualizer(
        vis_backends=[{"type": "LocalVisBackend"}], save_dir=str(tmp_path), alpha=1.0
    )
    visualizer.dataset_meta = META
    image = np.zeros((1, 2, 3), np.uint8)
    file = tmp_path / "a.png"
    visualizer.add_datasample("a", image, sample(), out_file=file, with_labels=False, draw_gt=False)
    assert cv2.imread(str(file)).tolist() == [[[0, 0, 255], [0, 255, 0]]]
    visualizer.add_datasample("b", image, sample())
    assert [path.name for path in tmp_path.rglob("*.png")] == ["a.png"]


def test_sample_without_anything_is_the_image():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (SegLocalVisualizer().draw(image, SegDataSample()) == image).all()


def test_back_ends_by_name(tmp_path):
    local = {"type": "LocalVisBackend"}
    second = LocalVisBackend(str(tmp_path / "other"))
    visualizer = SegLocalVisualizer(
        vis_backends=[local, {**local, "name": "b", "save_dir": str(tmp_path / "own")}],
        save_dir=str(tmp_path),
    )
    assert list(visualizer.backends) == ["LocalVisBackend", "b"]
    assert local == {"type": "LocalVisBackend"}
    visualizer.add_scalar("lr", 0.5, 3)
    visualizer.add_scalars({"loss": 2.0}, 4)
    for folder in ("vis_data", "own"):
        lines = (tmp_path / folder / "scalars.json").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [
            {"lr": 0.5, "step": 3},
            {"loss": 2.0, "step": 4},
        ]
    assert SegLocalVisualizer(vis_backends=second).get_backend("LocalVisBackend") is second
    with pytest.raises(ConfigError, match="two are called 'LocalVisBackend'"):
        SegLocalVisualizer(vis_backends=[local, second], save_dir=str(tmp_path))
    with pytest.raises(TypeError, match="vis_backends: 3 is neither"):
        SegLocalVisualizer(vis_backends=[3], save_dir=str(tmp_path))
    with pytest.warns(UserWarning, match="LocalVisBackend is left out: it needs save_dir"):
        assert not SegLocalVisualizer(vis_backends=[local]).backends


def test_parent_can_still_draw():
    visualizer = SegLocalVisualizer(image=np.full((40, 60, 3), 255, np.uint8))
    visualizer.draw_bboxes(np.array([10, 10, 30, 30]), edge_colors="r")
    drawn = visualizer.get_image()
    assert drawn.shape == (40, 60, 3)
    assert (drawn != 255).any()


def test_is_built_by_name():
    built = VISUALIZERS.build({"type": "SegLocalVisualizer", "name": "by name", "alpha": 0.25})
    assert isinstance(built, SegLocalVisualizer)
    assert built.alpha == 0.25


def test_overlays_do_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None; from nlseg.visualization import *;"
        "import numpy as np; v = SegLocalVisualizer(classes=('a',));"
        "v.draw(np.zeros((4, 4, 3), np.uint8))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
