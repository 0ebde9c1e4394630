"""The test loop: the same scores with norms folded into convolutions."""

import torch
from torch import nn

from nlseg.run.runner import Runner
from tests.run.tiny_segmentor import tiny_run


def scores_and_norms(folder, **test_cfg):
    """Test the same weights on the same images; count the batch norms that are left."""
    loader = {"batch_size": 2, "num_workers": 0, "dataset": {"type": "NoiseImages"},
              "sampler": {"type": "DefaultSampler", "shuffle": False}}  # fmt: skip
    config = tiny_run(
        folder, iters=1, test_cfg=test_cfg, test_dataloader=loader,
        test_evaluator={"type": "IoUMetric"},
    )  # fmt: skip
    runner = Runner.from_cfg(config)
    torch.manual_seed(0)
    for module in runner.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_var.uniform_(0.5, 2)
    torch.manual_seed(1)
    scores = runner.test()
    return scores, sum(isinstance(m, nn.BatchNorm2d) for m in runner.model.modules())


def test_folded_norms_give_the_same_scores(tmp_path):
    plain, norms = scores_and_norms(tmp_path / "plain")
    folded, left = scores_and_norms(tmp_path / "folded", fold_norms=True)
    assert norms > 20
    assert left == 0
    assert plain["mIoU"] > 0
    assert folded == plain
