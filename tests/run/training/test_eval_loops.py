"""The test loop: the same scores with norms folded into convolutions, and compiled."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from torch import nn
from torch._dynamo.utils import counters

from nlseg.errors import ConfigError
from nlseg.run.runner import Runner
from tests.run.tiny_segmentor import tiny_run


def runner_of_test(folder, **test_cfg):
    loader = {"batch_size": 2, "num_workers": 0, "dataset": {"type": "NoiseImages"},
              "sampler": {"type": "DefaultSampler", "shuffle": False}}  # fmt: skip
    config = tiny_run(
        folder, iters=1, test_cfg=test_cfg, test_dataloader=loader,
        test_evaluator={"type": "IoUMetric"},
    )  # fmt: skip
    return Runner.from_cfg(config)


def scores_and_norms(folder, **test_cfg):
    """Test the same weights on the same images; count the batch norms that are left."""
    runner = runner_of_test(folder, **test_cfg)
    torch.manual_seed(0)
    for module in runner.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_var.uniform_(0.5, 2)
    torch.manual_seed(1)
    scores = runner.test()
    return scores, sum(isinstance(m, nn.BatchNorm2d) for m in runner.model.modules())


def test_folded_norms_and_compiled_code_give_the_same_scores(tmp_path):
    plain, norms = scores_and_norms(tmp_path / "plain")
    folded, left = scores_and_norms(tmp_path / "folded", fold_norms=True)
    assert norms > 20
    assert left == 0
    assert plain["mIoU"] > 0
    assert folded == plain
    torch._dynamo.reset()
    counters.clear()
    compiled, _ = scores_and_norms(tmp_path / "compiled", compile={"backend": "eager"})
    assert compiled == plain
    assert counters["stats"]["unique_graphs"] == 2  # backbone and decode head
    torch._dynamo.reset()


class SearchOfCudnn(Hook):
    """Notes whether cuDNN would try its algorithms while images are predicted."""

    def __init__(self):
        self.seen = []

    def after_test_iter(self, *_, **__):
        self.seen.append(torch.backends.cudnn.benchmark)
        if len(self.seen) == 2:
            raise RuntimeError("ends here")


def test_cudnn_does_not_search_for_every_size_of_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # as a training has set it
    runner = runner_of_test(tmp_path)
    runner.register_hook(hook := SearchOfCudnn())
    with pytest.raises(RuntimeError, match="ends here"):
        runner.test()
    assert hook.seen == [False, False]
    assert torch.backends.cudnn.benchmark is True


def validated(folder, batch_size, scale, keep_ratio):
    """Make a run that validates images of two sizes."""
    files = folder / "files"
    files.mkdir()
    for name, width in (("a", 40), ("b", 60), ("c", 40)):
        cv2.imwrite(str(files / f"{name}.jpg"), np.zeros((40, width, 3), np.uint8))
        cv2.imwrite(str(files / f"{name}.png"), np.eye(40, width, dtype=np.uint8))
    resize = {"type": "Resize", "scale": scale, "keep_ratio": keep_ratio}
    dataset = {
        "type": "BaseSegDataset", "data_root": str(files), "test_mode": True,
        "data_prefix": {"img_path": "", "seg_map_path": ""},
        "metainfo": {"classes": tuple("abcde")},
        "pipeline": [
            {"type": "LoadImageFromFile"}, resize, {"type": "LoadAnnotations"},
            {"type": "PackSegInputs"},
        ],
    }  # fmt: skip
    loader = {
        "batch_size": batch_size, "num_workers": 0, "dataset": dataset,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }  # fmt: skip
    train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 1, "val_interval": 1}
    return tiny_run(
        folder / "run", iters=1, train_cfg=train_cfg, val_cfg={}, val_dataloader=loader,
        val_evaluator={"type": "IoUMetric"},
    )  # fmt: skip


def test_validation_of_images_of_several_sizes_is_refused_before_training(tmp_path):
    said = r"val_dataloader.batch_size: is 2, but .* a.jpg as 32x32, b.jpg as 32x48; use batch_size"
    with pytest.raises(ConfigError, match=said):
        Runner.from_cfg(validated(tmp_path, 2, (64, 32), keep_ratio=True)).train()
    assert not list((tmp_path / "run").glob("*.pth"))


@pytest.mark.parametrize(("batch_size", "scale"), [(1, (64, 32)), (2, (32, 32))])
def test_batches_that_can_be_joined_are_validated(tmp_path, batch_size, scale):
    Runner.from_cfg(validated(tmp_path, batch_size, scale, keep_ratio=batch_size == 1)).train()
    assert list((tmp_path / "run").glob("iter_1.pth"))
