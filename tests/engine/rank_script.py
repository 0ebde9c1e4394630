"""What each of two processes does in ``test_two_processes``."""

import sys
from pathlib import Path

import torch

from nlseg.engine.processes import distributed
from tests.engine.runs import train
from tests.engine.toy import toy_config


def collectives() -> None:
    distributed.start("pytorch", timeout_s=60)
    rank = distributed.rank()
    assert distributed.device().type == "cpu"
    assert distributed.broadcast_text("from zero" if rank == 0 else "other") == "from zero"
    assert distributed.broadcast_text("") == ""
    assert distributed.any_of(rank == 1)
    assert not distributed.any_of(False)
    counts = distributed.sum_over_ranks(torch.tensor([2**40, rank]))
    assert counts.tolist() == [2**41, 1]
    distributed.stop()


def training(folder: str, launcher: str, batch_size: str) -> None:
    torch.set_num_threads(1)
    config = toy_config(
        Path(folder), iters=4, launcher=launcher,
        **{
            "train_dataloader.batch_size": int(batch_size), "model.dropout": 0.0,
            "model.use_norm": False, "model.sync": True, "default_hooks.logger.interval": 1,
            "log_processor.window_size": 1,
        },
    )  # fmt: skip
    runner = train(config)
    losses = runner.message_hub.get_scalar("train/loss").last(4)
    print("LOSSES", *losses)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
