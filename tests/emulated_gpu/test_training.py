"""Training on a card: AMP's scaler beside the guard, SyncBN with DDP, a card that is full.

Nothing is computed here, so no gradient overflows: that a scale falls and training recovers is held
on a CPU by ``tests/run/training/test_optim.py``, and on a card by ``tests/gpu``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from nlseg.run.half import AmpOptimWrapper
from nlseg.run.processes import NON_FINITE, Agreement
from tests.run.tiny_segmentor import labelled, tiny_segmentor

pytestmark = pytest.mark.usefixtures("real_tensors")


AUTO_BATCH = """
import gc
import torch
from nlseg.plan.auto_batch import fit_batch_size
from tests.run.tiny_segmentor import tiny_run
gc.disable()  # what a step that failed leaves in cycles must go all the same
config = tiny_run("unused", iters=4)
config.train_dataloader.batch_size = 64
config.model.data_preprocessor.size = (256, 256)
fit_batch_size(config, share=100.0)
parts = config.optim_wrapper.get("accumulative_counts", 1)
print("batch", config.train_dataloader.batch_size, parts)
"""


def test_auto_batch_goes_on_with_less_where_the_card_is_full() -> None:
    """In a process of its own, as only PyTorch's caching allocator tells that a card is full."""
    env = {**os.environ, "EMULATED_GPU_MIB": "200"}
    env.pop("PYTORCH_NO_CUDA_MEMORY_CACHING")
    command = [sys.executable, "-c", AUTO_BATCH]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    images, parts = (int(word) for word in done.stdout.split("batch")[-1].split())
    assert 1 <= images < 64
    assert images * parts == 64


def test_the_scaler_and_the_guard_share_a_step_without_waiting() -> None:
    layer = nn.Linear(4, 4, device="cuda")
    wrapper = AmpOptimWrapper(
        torch.optim.SGD(layer.parameters(), lr=0.1, fused=True), dtype="float16"
    )
    wrapper.agreement = Agreement(torch.device("cuda", 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for iteration in range(4):
            with wrapper.optim_context(layer):
                loss = layer(torch.ones(2, 4, device="cuda")).sum()
            wrapper.update_params(loss)
            wrapper.agreement.close(iteration)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert wrapper.agreement.reduce()[NON_FINITE].is_cuda
    assert wrapper.loss_scaler.is_enabled()


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_synchronized_norms_train_inside_ddp() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(tiny_segmentor()).cuda().train()
    wrapped = nn.parallel.DistributedDataParallel(model, device_ids=[0], broadcast_buffers=False)
    samples = [labelled((64, 64)) for _ in range(2)]
    batch = {"inputs": torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "data_samples": samples}
    losses = wrapped(**model.data_preprocessor(batch, training=True), mode="loss")
    (losses["decode.loss_ce"] + losses["aux.loss_ce"]).backward()
    assert all(p.grad is not None and p.grad.is_cuda for p in model.parameters())
