"""The first training iterations, from the seed of the weights to the optimizer's steps."""

import numpy as np
import pytest
import torch
from mmengine.runner.utils import set_random_seed

from nlseg.registry import MODELS
from tests.models import recorded as rec

torch.set_num_threads(1)


def curves():
    return torch.load(rec.GOLDEN / "train_curves.pt", weights_only=True)


def seeded_model(kind, dropout):
    """Draw the weights as mmengine's Runner did with seed 0."""
    cfg = rec.model_cfg(kind, num_classes=19, dropout_ratio=dropout)
    cfg["data_preprocessor"]["size"] = (96, 192)
    set_random_seed(0)
    model = MODELS.build(cfg)
    torch.empty((), dtype=torch.int64).random_()  # the data loader's draw
    model.init_weights()
    return model


@pytest.mark.parametrize("kind", rec.KINDS)
def test_seed_0_draws_the_recorded_weights(kind):
    want = curves()[kind]["init_sum"]
    state = seeded_model(kind, 0.1).state_dict()
    assert list(state) == list(want)
    for name, value in state.items():
        assert value.double().sum().item() == pytest.approx(want[name], rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.1, marks=rec.recorded_draws)])
@pytest.mark.parametrize("kind", rec.KINDS)
def test_four_iterations_have_the_recorded_losses_and_gradient_norms(kind, dropout):
    want = curves()[kind + ("_drop" if dropout else "_nodrop")]
    batches = np.load(rec.GOLDEN / "train_batches.npz")
    model = seeded_model(kind, dropout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for i, losses_wanted in enumerate(want["losses"]):
        optimizer.param_groups[0]["lr"] = want["lr"][i]
        batch = {
            "inputs": list(torch.from_numpy(batches["inputs"][i])),
            "data_samples": rec.label_samples(torch.from_numpy(batches["labels"][i])),
        }
        batch = model.data_preprocessor(batch, True)
        torch.set_rng_state(curves()[kind]["rng_state_before_iter"][i].clone())
        total, logged = model.parse_losses(model(**batch, mode="loss"))
        optimizer.zero_grad()
        total.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        optimizer.step()
        for name, value in losses_wanted.items():
            assert logged[name].item() == pytest.approx(value, rel=1e-4), (i, name)
        assert norm.item() == pytest.approx(want["grad_norm_total"][i], rel=1e-3), i
