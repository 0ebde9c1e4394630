from pathlib import Path

import torch
from torch import nn

from nlseg.run.device import revert_sync_batchnorm
from nlseg.run.hooks import ExponentialMovingAverage
from tests.run.runs import final, train
from tests.run.toy import toy_config


def test_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(model, momentum=0.25)
    for value in (4.0, 8.0, 0.0):
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    # 4, then 0.75 * 4 + 0.25 * 8 = 5, then 0.75 * 5 = 3.75
    assert average.module.weight.item() == 3.75
    assert average.steps == 3


def test_buffers_of_every_type_are_copied_or_averaged() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("seen", torch.tensor([True, False]))
    model.register_buffer("none", torch.zeros(0))
    copied, averaged = (
        ExponentialMovingAverage(model, momentum=0.25, update_buffers=update)
        for update in (False, True)
    )
    for mean, steps, seen in ((4.0, 3, [False, True]), (8.0, 5, [True, True])):
        model[1].running_mean.fill_(mean)  # type: ignore[operator]
        model[1].num_batches_tracked.fill_(steps)  # type: ignore[operator]
        model.seen.copy_(torch.tensor(seen))  # type: ignore[operator]
        copied.update_parameters(model)
        averaged.update_parameters(model)
    norm = copied.module[1]
    assert norm.running_mean.tolist() == [8.0, 8.0]
    assert norm.num_batches_tracked == 5
    assert copied.module.seen.tolist() == [True, True]
    assert averaged.module[1].running_mean.tolist() == [5.0, 5.0]  # 0.75 * 4 + 0.25 * 8


def test_saved_weights_are_the_average_and_the_own_ones_are_kept(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "plain", iters=4))
    hook = {"type": "EMAHook", "momentum": 0.1}
    train(toy_config(tmp_path / "ema", iters=4, custom_hooks=[hook]))
    plain, ema = (final(tmp_path / name, "iter_4.pth") for name in ("plain", "ema"))
    own = ema["ema_state_dict"]
    assert torch.equal(own["module.head.weight"], plain["state_dict"]["head.weight"])
    assert not torch.equal(ema["state_dict"]["head.weight"], plain["state_dict"]["head.weight"])


def test_sync_norm_becomes_plain_with_the_same_names_and_results(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.SyncBatchNorm(3), nn.Sequential(nn.SyncBatchNorm(3))
    )
    keys = list(network.state_dict())
    inputs = torch.randn(2, 2, 4, 4)
    expected = network.eval()(inputs)
    reverted = revert_sync_batchnorm(network)
    assert list(reverted.state_dict()) == keys
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in reverted.modules())
    assert torch.equal(reverted(inputs), expected)
    train(toy_config(tmp_path, iters=4, **{"model.sync": True}))
